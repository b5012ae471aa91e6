"""Write docs/benchmarks.md's tables: python tools/write_benchmark_tables.py"""

from __future__ import annotations

from typing import Any

import embedded_results
from engine_tables import render_default, render_device, render_loading
from table_parts import ROOT, head, measured, result, results_of, shape, spread, wrapped

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- {} tables: generated -->", "<!-- end -->"
UPDATE_STEPS = (
    "encode",
    "evict",
    "append",
    "rebuild",
    "longest chunk",
    "append, pruned",
    "rebuild, pruned",
    "longest layer",
)
HEADS = {
    "pruning": "strategy | keep | last layer | prefill ratio | FLOP ratio | measured / FLOPs"
    " | ranking | choosing | KV | cells",
    "memory": "weights | by | decoder MiB | predicted | prefill's peak MiB | predicted"
    " | error of the logits | decode ratio | prefill ratio",
    "cold-warm": "ratio | measured | floor | aim",
    "batch": "N | questions | time per question, ratio | together, per question | alone"
    " | transformers alone | together / transformers | same ids | logits off",
    "decode": "N | prefill | engine | ms per token | floor, ms | over the floor"
    " | over transformers",
    "scene-update": f"N | new | seen again | {' | '.join(UPDATE_STEPS)}"
    " | append / rebuild | the same, pruned | append p95, target 10 ms",
    "many-questions": "variant | N | keep | all questions, ratio | target | scene, once"
    " | a question, p50 / p95 | same ids",
}


def row(r: dict[str, Any]) -> str:
    """One strategy at one keep ratio."""
    chosen = f"{r['selection_ms']['median']:.0f} ms" if r["selection_ms"]["n"] else "-"
    ranked = f"{r['rank_share']['median']:.1%}" if r["rank_share"]["median"] else "-"
    return (
        f"| {r['strategy']} | {r['keep_ratio_achieved']:.3f} | {r['kept_last_layer']} |"
        f" {spread(r['prefill_ratio'])} | {r['flop_ratio']:.3f} | {r['prefill_over_flops']:.2f} |"
        f" {ranked} | {chosen} | {r['kv_ratio']:.2f} | {r['coverage_0.5m']:.2f} |"
    )


def section(data: dict[str, Any]) -> str:
    """The table of one file."""
    sizes, made = data["sizes"], data["provenance"]
    counts = ", ".join(str(n) for n in sorted({r["N"] for r in data["rows"]}))
    lines = [
        (
            f"{shape(data)}, N={counts} and {data['text_tokens']} text tokens,"
            f" {data['dtype']}, {made['device']}, n={data['n']}."
        ),
        "",
        *head(HEADS["pruning"]),
        *(row(r) for r in data["rows"] if r["strategy"] != "none"),
        "",
    ]
    for item in data["information"]:
        lines.append(
            f"Measuring information at N={item['N']}, every {item['stride']}th query:"
            f" {spread(item['ratio'])} of an unpruned pass; {item['flop_share']:.2%} more FLOPs.  "
        )
    missing = [f"{item['strategy']} at {item['keep_ratio']:g}" for item in data["not_run"]]
    if missing:
        lines.append(f"Out of reach on {sizes['layers']} layers: {', '.join(missing)}.")
    return "\n".join(lines).rstrip()


def render() -> str:
    """All shapes, those that were not measured named."""
    results, missing = measured("pruning", "pruning")
    others = results_of("pruning_*_video3dllm.json")
    return "\n\n".join([*map(section, [*results, *others]), *missing])


MEMORY_PARTS = (  # heading, parts of a plan
    ("decoder's layers", ("decoder_layers",)),
    (
        "other weights",
        ("embeddings", "vision_tower", "projector", "point_encoders", "grounding_head"),
    ),
    ("KV", ("kv_cache",)),
    ("a question's own", ("question_copy", "decode_buffers", "final_states", "rope_table")),
    ("prefill", ("prefill",)),
    ("views", ("view_features", "vision_activations")),
    ("runtime", ("runtime",)),
)


MEMORY_BYTES = ["weight_bytes", "predicted_weight_bytes"]
MEMORY_BYTES += ["prefill_peak_bytes", "predicted_prefill_bytes"]
ACCURACY = (  # metrics of `ada3d eval synthetic`: heading, name
    ("existence", "existence"),
    ("colour", "color"),
    ("category", "category"),
    ("counting", "count"),
    ("superlative", "superlative"),
    ("caption", "caption"),
    ("boxes at IoU .25", "grounding_unique_acc25"),
    ("at IoU .5", "grounding_unique_acc50"),
    ("boxes of absent things", "absent_false_box_rate"),
    ("coherence", "coherence"),
)
MEMORY_EVALUATIONS = (
    ("full", "embedded_level1"),
    ("int8", "embedded_level1_int8"),
    ("int4", "embedded_level1_int4"),
    ("full, blind", "embedded_level1_blind"),
    ("full, another room's views", "embedded_level1_shuffled"),
)


def render_memory() -> str:
    """What fits, and the check against what was built."""
    lines = [
        _fits_and_check("memory"),
        "",
        "The embedded model, which is trained, on generated rooms (level 1, nothing pruned, the"
        " model alone); without a scene and with another room's views beside it:",
        "",
        *head(" | ".join(["weights", *(heading for heading, _ in ACCURACY)])),
    ]
    first = embedded_results.load(MEMORY_EVALUATIONS[0][1])
    numbers = (str(first["details"].get(metric, {}).get("n", "")) for _, metric in ACCURACY)
    lines.append(f"| n | {' | '.join(numbers)} |")
    for weights, name in MEMORY_EVALUATIONS:
        results = embedded_results.load(name)
        cells = (embedded_results.cell(results, metric) for _, metric in ACCURACY)
        lines.append(f"| {weights} | {' | '.join(cells)} |")
    other = _fits_and_check("memory_video3dllm")
    return "\n".join([*lines, "", "Video-3D-LLM-7B, 210 tokens a frame:", "", other])


def _fits_and_check(name: str) -> str:
    """The tables of one result of the suite."""
    data = result(name)
    fits, made = data["fits"], data["provenance"]
    scenes, cards = list(fits["rows"][0]["plans"]), list(fits["rows"][0]["largest"])
    largest_scene = scenes[-1]
    headings = [f"N={n}" for n in scenes] + [f"{card} GB" for card in cards]
    lines = head(" | ".join(["weights", "KV", "scene", *headings]))
    for r in fits["rows"]:
        totals = [f"{r['plans'][n]['total'] / 2**30:.1f}" for n in scenes]
        lines.append(
            f"| {r['weights']} | {r['kv']} | {kind_of_scene(r)} |"
            f" {' | '.join(totals + [str(r['largest'][card] or '-') for card in cards])} |"
        )
    lines += ["", f"The parts in GiB at N={largest_scene}:", ""]
    lines += head(" | ".join(["weights", "KV", "scene", *(part for part, _ in MEMORY_PARTS)]))
    for r in fits["rows"]:
        plan = r["plans"][largest_scene]
        sums = (sum(plan.get(part, 0) for part in group) for _, group in MEMORY_PARTS)
        parts = " | ".join(f"{total / 2**30:.2f}" for total in sums)
        lines.append(f"| {r['weights']} | {r['kv']} | {kind_of_scene(r)} | {parts} |")
    lines += [
        "",
        (
            f"{shape(data)}, N={data['rows'][0]['N']} and {data['text_tokens']} text"
            f" tokens, {data['dtype']}, {made['device']}, n={data['n']}, random weights."
        ),
        "",
        *head(HEADS["memory"]),
    ]
    for r in data["rows"]:
        mib = " | ".join(f"{r[name] / 2**20:.1f}" for name in MEMORY_BYTES)
        lines.append(
            f"| {r['weights']} | {r['kernel']} | {mib} | {r['logits_error']:.1%} |"
            f" {spread(r['decode_ratio'])} | {spread(r['prefill_ratio'])} |"
        )
    return "\n".join(lines)


def kind_of_scene(row: dict[str, Any]) -> str:
    """Whether the cached scene is pruned while it is built."""
    return "pruned" if row.get("prune") == "build" else "whole"


COLD_WARM_ROWS = (  # heading, ratio, floor
    ("first token, warm / cold", "warm_ttft_over_cold", "warm_flop_ratio"),
    ("first token, warm and selected / cold", "warm_pruned_ttft_over_cold", None),
    ("first token, cold pruned (adatoken3d) / cold", "pruned_prefill_over_full", "flop_ratio"),
    ("first token, cold PyramidDrop / cold", "pdrop_prefill_over_full", None),
    ("first token, cold FastV / cold", "fastv_prefill_over_full", None),
    ("building the scene / cold first token", "build_over_cold", None),
    ("30 tokens, warm / transformers, scene held", "warm_total_over_transformers_cached", None),
    (
        "30 tokens, warm / transformers, scene held, static",
        "warm_total_over_transformers_static",
        None,
    ),
    (
        "30 tokens, warm / transformers, scene held, compiled",
        "warm_total_over_transformers_compiled",
        None,
    ),
    (
        "30 tokens, warm / transformers, scene read anew (no fair rival)",
        "warm_total_over_transformers_cold",
        None,
    ),
    (
        "30 tokens, warm and selected / transformers, scene held",
        "warm_pruned_total_over_transformers_cached",
        None,
    ),
)


def render_cold_warm() -> str:
    """The two by two of cold and warm, a table per shape that was measured."""
    results, missing = measured("cold-warm", "cold_warm")
    parts = []
    for data in results:
        ratios, aims, ms = data["ratios"], data["targets"], data["ms"]
        held = ms.get("total_transformers_dynamic")  # files of before the rival that holds it
        rival = f", transformers with the scene held {held['median']:.0f} ms" if held else ""
        lines = [
            (
                f"**Shape {data['shape']}**: N={data['N']}, {data['dtype']}, keep ratio"
                f" {data['keep_ratio']}, {data['provenance']['device']}, n={data['n']}. Cold first"
                f" token {ms['cold']['median']:.0f} ms, warm {ms['warm']['median']:.0f} ms; 30"
                f" tokens warm {ms['total_warm']['median']:.0f} ms{rival}."
            ),
            "",
            *head(HEADS["cold-warm"]),
        ]
        for heading, name, floor in COLD_WARM_ROWS:
            if name not in ratios:
                continue  # not on this device
            aim = (
                f"{aims[name]['at_most']:.3f}, {'met' if aims[name]['met'] else '**missed**'}"
                if name in aims
                else ""
            )
            lines.append(
                f"| {heading} | {spread(data['spread'][name])} |"
                f" {f'{ratios[floor]:.3f}' if floor else ''} | {aim} |"
            )
        aim = aims.get("kv_bytes_pruned_over_full")
        kept = f"{aim['at_most']:.2f}, {'met' if aim['met'] else '**missed**'}" if aim else ""
        lines.append(
            f"| KV bytes, pruned / full | {ratios['kv_bytes_pruned_over_full']:.3f} | | {kept} |"
        )
        checks = data["checks"]
        lines.append(
            "\nLogits of the first token, relative to the cold ones: warm"
            f" {checks['warm_logits_error']:.1e}; with keys and values in int8"
            f" {checks['int8_kv_logits_error']:.1e}, in {checks['int8_kv_bytes_share']:.2f} of the"
            " bytes."
        )
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *missing])


def render_batch() -> str:
    """Questions together against one after the other, a table per shape that was measured."""
    parts = []
    for data in results_of("batch_*.json"):
        lines = [
            (
                f"{shape(data)}, {data['question_tokens']} question and"
                f" {data['answer_tokens']} answer tokens, {data['dtype']},"
                f" {data['provenance']['device']}, n={data['n']}."
            ),
            "",
            *head(HEADS["batch"]),
        ]
        for r in data["rows"]:
            theirs = "- | -"  # files of before the rival
            if "transformers_ms" in r:
                ratio = spread(r["ratio_to_transformers"])
                theirs = f"{r['transformers_ms']['median']:.0f} ms | {ratio}"
            lines.append(
                f"| {r['N']} | {r['questions']} | {spread(r['ratio'])} |"
                f" {r['together_ms']['median']:.0f} ms | {r['alone_ms']['median']:.0f} ms |"
                f" {theirs} |"
                f" {r['same_ids']:.0%} | {r['logits_error']:.1e} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def render_decode() -> str:
    """Time per token, a table per shape that was measured."""
    parts = []
    for data in results_of("decode_*.json"):
        speed = data["rows"][0]["bandwidth_gb_s"]
        lines = [
            (
                f"{shape(data)}, {data['tokens']} tokens, {data['dtype']},"
                f" {data['provenance']['device']}, n={data['n']}; memory read at {spread(speed, 1)}"
                " GB/s."
            ),
            "",
            *head(HEADS["decode"]),
        ]
        for r in data["rows"]:
            lines.append(
                f"| {r['N']} | {r['prefill']}, {r['keep_ratio_achieved']:.2f} | {r['engine']} |"
                f" {spread(r['ms_per_token'], 1)} | {r['floor_ms']['median']:.1f} |"
                f" {spread(r['floor_ratio'], 2)} | {spread(r['transformers_ratio'], 2)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def render_scene_update() -> str:
    """What a keyframe costs, a table per shape that was measured."""
    results, missing = measured("scene-update", "scene_update")
    parts = []
    for data in results:
        vision = data["vision"]
        lines = [
            (
                f"{shape(data)}; vision tower of {vision['layers']} layers, width"
                f" {vision['hidden']}, {vision['image_px']} px, {vision['patches']} patches; chunks"
                f" of {data['chunk_tokens']} tokens, {data['dtype']},"
                f" {data['provenance']['device']}, n={data['n']}."
            ),
            "",
            *head(HEADS["scene-update"]),
        ]
        for r in data["rows"]:
            cells = [f"{step['p50_ms']:.1f} / {step['p95_ms']:.1f}" for step in r["steps"].values()]
            steps = " | ".join(cells + ["-"] * (len(UPDATE_STEPS) - len(cells)))  # of before
            pruned = r.get("append_pruned_ratio")
            met = {True: "met", False: "missed", None: "for a GPU"}[r["target_met"]]
            lines.append(
                f"| {r['N']} | {r['new_voxels']} | {r['touched_voxels']} | {steps} |"
                f" {spread(r['append_ratio'])} | {spread(pruned) if pruned else '-'} | {met} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *missing])


def render_many_questions() -> str:
    """Questions about one place, warm and cold, a table per shape that was measured."""
    results, missing = measured("many-questions", "many_questions")
    parts = []
    for data in results:
        full = data["scaled_from"]
        scaled = f" (scaled down from {full['scenes']} and {full['questions']})" if full else ""
        lines = [
            (
                f"{shape(data)}; {data['scenes']} scenes and {data['questions']}"
                f" questions{scaled}, cold asked {data['cold_sampled']['questions']} of them;"
                f" {data['question_tokens']} question and {data['answer_tokens']} answer tokens,"
                f" {data['dtype']}, {data['provenance']['device']}."
            ),
            "",
            *head(HEADS["many-questions"]),
        ]
        for r in data["rows"]:
            met = {
                True: f"{data['target_ratio']:.2f}, met",
                False: f"{data['target_ratio']:.2f}, missed",
                None: "-",
            }
            once = f"{r['build_ms']['median']:.0f} ms" if r["build_ms"]["n"] else "-"
            question = f"{r['question_ms']['p50']:.0f} / {r['question_ms']['p95']:.0f} ms"
            lines.append(
                f"| {r['variant']} | {r['N']} | {r['keep_ratio_achieved']:.3f} |"
                f" {spread(r['ratio'])} | {met[r['target_met']]} | {once} | {question} |"
                f" {r['same_ids']:.0%} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *missing])


def updated(page: str) -> str:
    """The page with its tables anew."""
    tables = {
        "default": render_default,
        "pruning": render,
        "memory": render_memory,
        "batch": render_batch,
        "cold-warm": render_cold_warm,
        "decode": render_decode,
        "scene-update": render_scene_update,
        "many-questions": render_many_questions,
        "loading": render_loading,
        "device": render_device,
    }
    for name, made in tables.items():
        before, rest = page.split(BEGIN.format(name), 1)
        after = rest.split(END, 1)[1]
        page = f"{before}{BEGIN.format(name)}\n{wrapped(made())}\n{END}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
