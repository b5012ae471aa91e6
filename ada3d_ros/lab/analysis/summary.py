"""What `ada3d analyze` prints of its results."""

from __future__ import annotations

from typing import Any


def summary(results: dict[str, Any]) -> str:
    """What a person wants to see at once.

    The stride's deviation, and how much of the room each strategy keeps.
    """
    lines = []
    if results["random_weights"]:
        lines.append("RANDOM WEIGHTS: curves mean nothing.")
    if "contribution" in results:
        found = results["contribution"]["stride_deviation"]
        lines.append(
            f"query stride {found['stride']} against 1, largest difference: masses"
            f" {found['masses']:.2e}, INF {found['INF']:.2e}, I {found['I']:.2e} (of the mean"
            f" curve: INF {found['INF_of_mean_masses']:.2e}, I {found['I_of_mean_masses']:.2e})"
        )
    if "concentration" in results:
        lines += _concentration_lines(results["concentration"])
    if "survival" in results:
        lines += _survival_lines(results["survival"])
    return "\n".join(lines)


def _concentration_lines(data: dict[str, Any]) -> list[str]:
    """What the least attended tokens get of the attention on all, of the mean over layers."""
    return [
        f"{data['least_share']:.0%} of the spatial tokens get"
        f" {data[how][query]['least']['mean'][-1]:.3f} of the attention on all of them"
        f" ({query} queries, {how.replace('_', ' ')})"
        for how in ("each_question", "all_questions_of_a_scene")
        for query in ("last", "answer")
    ]


def _survival_lines(data: dict[str, Any]) -> list[str]:
    """A table of figure 4, with its meaning above it."""
    lines = [
        f"share of occupied {data['cell_m']:g} m cells kept in the last layer; mean rank of the"
        " kept tokens (0.5 = no bias); prefill FLOPs, ranking included, and KV bytes over those of"
        " the unpruned prompt",
        f"{'scene':<24} {'strategy':<14} {'keep':>5} {'achieved':>9} {'cells':>6} {'rank':>6}"
        f" {'FLOPs':>6} {'KV':>5}",
    ]
    for row in data["rows"]:
        head = f"{row['scene_name']:<24} {row['strategy']:<14} {row['keep_ratio']:>5g}"
        if row["error"]:
            lines.append(f"{head} {row['error']}")
            continue
        # Of the last layer, and of the whole prompt.
        cells, rank = row["coverage"]["mean"][-1], row["position_bias"]["mean"][-1]
        cost = row["cost"]
        flops = (cost["prefill_flops"] + cost["rank_flops"]) / cost["unpruned_prefill_flops"]
        kv = cost["kv_bytes"] / cost["unpruned_kv_bytes"]
        lines.append(
            f"{head} {row['keep_ratio_achieved']:>9.3f} {cells:>6.3f} {rank:>6.3f}"
            f" {flops:>6.3f} {kv:>5.2f}"
        )
    return lines
