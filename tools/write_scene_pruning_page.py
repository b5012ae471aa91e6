"""docs/scene_pruning.md from docs/results: python tools/write_scene_pruning_page.py

The results: `ada3d eval scene-pruning --level N --json docs/results/scene_pruning_levelN.json`, and
`--scenes 40 --appended --json docs/results/scene_pruning_appended.json`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
TARGET = ROOT / "docs" / "scene_pruning.md"
COLUMNS = 100
LATER = ("scene_plus", "scene_voxel")  # files with rows that were asked again, in their order
ROWS = {  # variant: how the table calls it
    "prompts": "**one general prompt** (the default for a model without a file)",
    "prompts4": "4 prompts, largest (what stands in for the preset `small`)",
    "prompts12": "12 general prompts, mean",
    "prompts12 even": "the same, even shares in all layers",
    "prompts12 late": "the same, twice computed, late layers hold more",
    "vocabulary": "36 prompts naming the vocabulary, largest",
    "expected": "**expected attention**, from the model's file (the default; at 0.1 `small`)",
    "last_questions": "the questions asked last",
    "values": "length of the values",
    "kvzip": "KVzip-like: attention while the scene is read back",
    "self_attention": "attention among spatial tokens (S_self)",
    "random": "random",
    "voxel_dpp": "voxel_dpp before the model, positions counted anew",
    "voxel_dpp in place": "voxel_dpp before the model, positions of the scene",
    "geo_fps": "geo_fps before the model, positions counted anew",
    "geo_fps in place": "geo_fps before the model, positions of the scene",
    "plus": "adatoken3d_plus: voxel_dpp to twice as many, then expected attention, by worth",
    "kitoke": "kitoke (KiToke-like) before the model",
    "holitom": "holitom (HoliTom-like outer merge) before the model",
    "condensed_grid": "condensed_grid (LEO-VL-like, pooling trained on this model)",
    "voxel_dpp+prompts12": "voxel_dpp to twice as many, then 12 prompts",
    "voxel_dpp+prompts12 in place": "the same, positions of the scene",
    "each question": "selected for each question from the whole scene",
    "each question as published": "dropped for each question, no cached scene (the paper)",
}
SINGLE = ("existence", "color", "category", "count", "superlative", "caption", "acc25")
HEAD = """# Pruning the cached scene, measured

Made by `python tools/write_scene_pruning_page.py` from `docs/results/scene_pruning_*.json`, which
`ada3d eval scene-pruning --level 1 --json docs/results/scene_pruning_level1.json` (level 2 alike)
and `ada3d eval scene-pruning --scenes 40 --appended --json
docs/results/scene_pruning_appended.json` write. What was asked again, of the same weights and
rooms, is of the later file: `voxel_dpp` of `scene_voxel_levelN.json` (`--only voxel_dpp`), at 0.1
`adatoken3d_plus` and expected attention of `scene_plus_levelN.json` (`--only
plus,expected,voxel_dpp --keep 0.1`).

The embedded model (4 layers, float32) on fresh rooms of split `test`, through the product itself:
every variant is asked the same questions about the same rooms as `cache.prune: none`. Numbers are
points against that, `+-` one standard error over rooms; the JSON has 95 % intervals that bootstrap
over rooms, and every metric. Where not said otherwise a variant is `cache.prune: build` with
`cache.alive` and `cache.held` auto: its budget is the mean share that the layers hold.

- *text*: existence, colour, category, count, superlative and caption questions pooled; *Acc@.25*:
  phrases grounded, unique and with distractors. Relations, what is nearest and two hops are not
  asked here.
- *KV*: bytes of keys and values that the cached scene holds, system prompt included, over those of
  the whole scene; *build*: FLOPs of building it, prompts that ride along included, over those of
  the whole scene; a choice before the language model is not counted.
- *KVzip-like* is our reading of its score, the scene read back whole: its rows are not to be cited
  as KVzip's.
- An empty place was not measured, *refused* is a budget that the variant cannot meet.
"""


def signed(metric: dict[str, Any]) -> str:
    """'-0.4+-0.6'."""
    if metric["points"] is None:
        return ""
    return f"{metric['points']:+.1f}+-{metric['standard_error']:.1f}"


def cell(row: dict[str, Any] | None) -> str:
    """Text and grounding of one row."""
    if row is None or "refused" in row:
        return "" if row is None else "refused"
    return f"{signed(row['metrics']['text'])} / {signed(row['metrics']['acc25'])}"


def shares(rows: Sequence[dict[str, Any] | None]) -> str:
    """'.44 / .43 / - / .42'; '-' without a cached scene."""
    found = [None if row is None else row.get("build_share") for row in rows]
    if not any(found):
        return "each question" if any(rows) else ""
    return " / ".join("-" if share is None else f"{share:.2f}" for share in found)


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def rankings(data: dict[str, Any]) -> str:
    """One line a variant, one column a keep ratio."""
    found = {(row["variant"], row["keep_ratio"]): row for row in data["rows"]}
    ratios = sorted({ratio for _, ratio in found}, reverse=True)
    lines = []
    for name, title in ROWS.items():
        rows = [found.get((name, ratio)) for ratio in ratios]
        if any(rows):
            lines.append([title, *map(cell, rows), shares(rows)])
    headings = [f"{ratio:g}: text / Acc@.25" for ratio in ratios]
    builds = " / ".join(f"{ratio:g}" for ratio in ratios)
    return table(["ranking", *headings, f"build at {builds}"], lines)


def held(data: dict[str, Any]) -> str:
    """What a scene holds whole, and pruned by the default ranking."""
    rows = {row["keep_ratio"]: row for row in data["rows"] if row["variant"] == "prompts"}
    parts = [
        f"at {ratio:g} {row['kv_bytes'] / 1e6:.2f} MB (KV {row['kv_share']:.2f})"
        for ratio, row in sorted(rows.items(), reverse=True)
        if "kv_bytes" in row
    ]
    whole = data["unpruned"]
    return (
        f"Keys and values held of a scene of {whole['spatial_tokens']:.0f} spatial tokens on"
        f" average: whole {whole['kv_bytes'] / 1e6:.2f} MB; {', '.join(parts)}."
    )


def single(data: dict[str, Any]) -> str:
    """The rankings of default and preset, metric by metric, with their intervals."""
    lines = []
    for row in data["rows"]:
        if row["variant"] in ("prompts", "prompts4", "expected") and "metrics" in row:
            cells = []
            for name in SINGLE:
                low, high = row["metrics"][name]["interval"]
                cells.append(f"{row['metrics'][name]['points']:+.1f} ({low:+.1f} to {high:+.1f})")
            lines.append([f"{row['variant']} at {row['keep_ratio']:g}", *cells])
    whole = data["unpruned"]["metrics"]
    lines.append(["unpruned", *(f"{whole[name]['value']:.3f}" for name in SINGLE)])
    lines.append(["n", *(str(data["n"][name]) for name in SINGLE)])
    return table(["", *SINGLE], lines)


def prose(text: str) -> str:
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def with_later(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A level's results, with the rows of later files in place of theirs or beside them; and what
    their whole scene found. Raises ValueError where they are of another model or other questions.
    """
    rows = {(row["variant"], row["keep_ratio"]): row for row in data["rows"]}
    said = ""
    for name in LATER:
        file = RESULTS / f"{name}_level{data['level']}.json"
        if not file.is_file():
            continue
        later = json.loads(file.read_text(encoding="utf-8"))
        if any(later[key] != data[key] for key in ("sha256", "split", "scenes", "n")):
            raise ValueError(f"{file} is of another model or of other questions.")
        rows |= {(row["variant"], row["keep_ratio"]): row for row in later["rows"]}
        whole = later["unpruned"]["metrics"]
        said = (
            " Rows of later files are against the whole scene of their own run:"
            f" {whole['text']['value']:.3f} / {whole['acc25']['value']:.3f}."
        )
    return data | {"rows": list(rows.values())}, said


def level(measured: dict[str, Any]) -> str:
    """The part of one level."""
    data, later = with_later(measured)
    n, whole = data["n"], data["unpruned"]["metrics"]
    return "\n".join(
        [
            f"## Level {data['level']}",
            prose(
                f"{data['scenes']} rooms, {n['text']} text questions, {n['acc25']} phrases; the"
                f" whole scene: {whole['text']['value']:.3f} / {whole['acc25']['value']:.3f}."
                f"{later} {held(data)}"
            ),
            "",
            rankings(data),
            "",
            "The rankings of default and preset, metric by metric, with 95 % intervals:",
            "",
            single(data),
            "",
        ]
    )


def appended(data: dict[str, Any]) -> str:
    """The part of appended keyframes."""
    lines = [
        [
            ROWS.get(row["variant"], row["variant"]),
            f"{row['keep_ratio']:g}",
            cell(row),
            f"{row['kv_share']:.2f}" if "kv_share" in row else "",
        ]
        for row in data["rows"]
    ]
    return "\n".join(
        [
            "## Appended keyframes",
            prose(
                f"{data['scenes']} rooms of level {data['level']}: views 1 to 4 are built, the"
                " others appended one by one; later tokens are ranked by the queries kept of the"
                " first build. Against the whole scene in voxel order."
            ),
            "",
            table(["ranking", "keep", "text / Acc@.25", "KV"], lines),
            "",
        ]
    )


def render() -> str:
    """The page, of those results that are there."""
    parts = [HEAD]
    for name, show in (("level1", level), ("level2", level), ("appended", appended)):
        file = RESULTS / f"scene_pruning_{name}.json"
        if file.is_file():
            parts.append(show(json.loads(file.read_text(encoding="utf-8"))))
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
