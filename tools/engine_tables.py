"""The tables of docs/benchmarks.md about the engine itself: the default against the whole scene,
loading, and what a GPU gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from table_parts import RESULTS, head, result, results_of, spread

DEFAULTS = ("A", "B", "C", "embedded", "7B")  # shapes of the suite default
RATIOS = (  # of the suite default: heading, name
    ("first token, default / unpruned", "default_first_over_unpruned"),
    ("1 token, default / unpruned", "default_1_over_unpruned"),
    ("3 tokens, default / unpruned", "default_3_over_unpruned"),
    ("30 tokens, default / unpruned", "default_30_over_unpruned"),
    ("building the scene, pruned / whole", "build_pruned_over_full"),
    ("the same in FLOPs", "flop_ratio"),
    ("keys and values held", "kv_held_over_full"),
    ("first token, pruned scene / whole", "pruned_scene_first_over_unpruned"),
    ("30 tokens, pruned scene / whole", "pruned_scene_30_over_unpruned"),
    (
        "30 tokens, whole scene / transformers, scene held",
        "warm_30_over_transformers_cached",
    ),
    ("the same, static cache", "warm_30_over_transformers_static"),
    ("the same, static and compiled", "warm_30_over_transformers_compiled"),
    ("the same, scene read anew (no fair rival)", "warm_30_over_transformers_cold"),
    ("first token, whole scene cached / not cached", "warm_first_over_cold"),
    ("prefill not cached, pruned to .37 / unpruned", "pruned_prefill_over_full"),
)
TIMES = (  # heading, pair of names in ms
    ("building the scene", ("build_full", "build_pruned")),
    ("first token", ("first_unpruned", "first_pruned")),
    ("3 tokens", ("total_3_unpruned", "total_3_pruned")),
    ("30 tokens", ("total_30_unpruned", "total_30_pruned")),
)


def render_default() -> str:
    """A column per shape: ratios with their aims, then milliseconds."""
    found = [
        result(f"default_{name}")
        for name in DEFAULTS
        if (RESULTS / f"default_{name}.json").is_file()
    ]
    if not found:
        return not_measured(
            "`ada3d bench --suite default --shape A --json docs/results/default_A.json`"
        )
    columns = [
        f"{data['shape']}, N={data['N']}, {data['dtype']}, {data['provenance']['device']},"
        f" n={data['n']}"
        for data in found
    ]
    lines = head(" | ".join(["ratio", *columns]))
    for heading, name in RATIOS:
        cells = [ratio_cell(data, name) for data in found]
        if any(cells):
            lines.append(f"| {heading} | {' | '.join(cells)} |")
    lines += ["", *head(" | ".join(["ms, whole scene / pruned", *(d["shape"] for d in found)]))]
    for heading, names in TIMES:
        cells = [
            " / ".join(f"{data['ms'][name]['median']:.0f}" for name in names) for data in found
        ]
        lines.append(f"| {heading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_cell(data: dict[str, Any], name: str) -> str:
    """A ratio, and its aim where it has one; empty where it was not measured."""
    value, aim = data["ratios"].get(name), data["targets"].get(name)
    if value is None:
        return ""
    text = spread(value) if isinstance(value, dict) else f"{value:.3f}"
    if aim is None:
        return text
    return f"{text}; {aim['at_most']:g}, {'met' if aim['met'] else '**missed**'}"


def render_loading() -> str:
    """A row per format that is loaded."""
    if not (RESULTS / "loading.json").is_file():
        return not_measured(
            "`ada3d bench --suite loading --shape W --json docs/results/loading.json`"
        )
    data = result("loading")
    lines = [
        f"To {data['loaded']}, {data['provenance']['device']}, n={data['n']}.",
        "",
        *head(
            "file | stored in | GB | load, ms | digest, ms | speed / reading into one buffer"
            " | speed / reading into kept memory | peak beyond the weights, MB | limit"
        ),
    ]
    lines += [
        f"| {r['file']} | {r['stored']} | {r['bytes'] / 1e9:.2f} | {r['load_ms']['median']:.0f} |"
        f" {r['digest_ms']['median']:.0f} | {spread(r['speed_over_read'], 2)} |"
        f" {spread(r['speed_over_keep'], 2)} | {r['host_peak_beyond_weights_bytes'] / 1e6:.0f} |"
        f" {r['host_peak_limit_bytes'] / 1e6:.0f} |"
        for r in data["rows"]
    ]
    return "\n".join(lines)


def render_device() -> str:
    """What each GPU gave, a row a probe."""
    found = [data for data in results_of("device_*.json") if data["provenance"]["device"] != "cpu"]
    if not found:
        return not_measured("`tools/gpu_check.sh` on a machine with a CUDA GPU")
    return "\n\n".join("\n".join(_device(data)) for data in found)


def _device(data: dict[str, Any]) -> Iterator[str]:
    yield f"**{data['provenance']['device']}**, N={data['N']}, {data['dtype']}, n={data['n']}."
    yield ""
    yield from head("probe | found | aim")
    for row in data["rows"]:
        values = ", ".join(
            f"{key} {number(value)}"
            for key, value in row.items()
            if key not in ("name", "at_most", "met") and value is not None
        )
        aim = {True: "met", False: "**missed**", None: ""}[row.get("met")]
        least = f"{row['at_most']:g}, " if row.get("at_most") is not None else ""
        yield f"| {row['name']} | {values} | {least}{aim} |"


def number(value: Any) -> str:
    """A spread as its median; a number; anything else as it is."""
    if isinstance(value, dict) and value.get("median") is not None:
        value = value["median"]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def not_measured(command: str) -> str:
    return f"Not measured yet: {command} fills this table."
