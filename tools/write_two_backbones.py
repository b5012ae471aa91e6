"""Write the tables of docs/two_backbones.md: python tools/write_two_backbones.py

From docs/results/video3d_form.json, which `ada3d_ros.lab.benchmarks.two_backbones` wrote.
"""

from __future__ import annotations

from typing import Any

from table_parts import ROOT, head, result, wrapped

PAGE = ROOT / "docs" / "two_backbones.md"
RESULT = "video3d_form"
BEGIN, END = "<!-- two backbones: generated -->", "<!-- end -->"
TITLES = {"llava3d": "LLaVA-3D's form", "video3dllm": "Video-3D-LLM's form"}
KINDS = {
    "existence": "existence",
    "color": "colour",
    "category": "category",
    "count": "count",
    "acc25": "boxes, Acc@.25",
    "acc50": "boxes, Acc@.50",
    "absent_false_box_rate": "boxes of absent things",
}


def points(value: float) -> str:
    """'-1.2', and no '-0.0'."""
    return f"{round(value, 1) + 0.0:+.1f}"


def accuracy(data: dict[str, Any]) -> list[str]:
    """A line a kind of question: both forms with intervals, and the difference in points."""
    titles = " | ".join(TITLES[name] for name in data["forms"])
    lines = head(f"test rooms | {titles} | difference, points | n")
    for group, title in KINDS.items():
        found = [form["whole"][group] for form in data["forms"].values()]
        cells = [
            f"{f['value']:.3f} ({f['interval'][0]:.3f} to {f['interval'][1]:.3f})" for f in found
        ]
        cells += [points(data["points"][group]), str(found[0]["n"])]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def budget(data: dict[str, Any]) -> list[str]:
    """A line a stage: room passes, and what they took."""
    forms = data["forms"].values()
    titles = " | ".join(f"{TITLES[name]}, CPU min" for name in data["forms"])
    lines = head(f"stage | room passes | {titles}")
    for stage in data["stages"]:
        took = [f"{form['cpu_s'][stage['name']] / 60:.1f}" for form in forms]
        lines.append(f"| {stage['name']} | {stage['rooms']} | {' | '.join(took)} |")
    total = [f"{form['cpu_minutes']:.1f}" for form in forms]
    lines.append(f"| together | | {' | '.join(total)} |")
    return lines


def on_points(data: dict[str, Any]) -> list[str]:
    """A line a form: shares right on true points without pictures, at the last validation."""
    kinds = ("existence", "color", "category", "caption", "nearest", "multihop", "relation")
    lines = head(f"true points, no pictures | room passes | {' | '.join(kinds)}")
    for name, form in data["forms"].items():
        last = [line for line in form["learning"] if line["stage"] == "symbolic"][-1]
        cells = [str(last["rooms"]), *(f"{last['val'][kind]:.2f}" for kind in kinds)]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines


def layers(values: list[float], digits: int = 2) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


def information(data: dict[str, Any]) -> list[str]:
    """A line a form: the curve, and the schedule fitted to it."""
    lines = head("form | INF, layer by layer | its spread | information I | fitted: layers keep")
    for name, form in data["forms"].items():
        found = form["information"]
        cells = (
            layers(found["INF"]),
            layers(found["INF_std"]),
            layers(found["information"]),
            layers(found["fitted_retention"]),
        )
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines


def masses(data: dict[str, Any]) -> list[str]:
    """A line a form: the attention masses that the curve is made of."""
    lines = head("form | scene to scene | scene to system | prompt to scene")
    for name, form in data["forms"].items():
        found = form["information"]["masses"]
        cells = [layers([layer[key] for layer in found]) for key in ("S_self", "S_ss", "S_sp")]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines


def pruned(data: dict[str, Any]) -> list[str]:
    """A line a variant: text and boxes against the whole scene, form by form."""
    forms = list(data["forms"].values())
    titles = " | ".join(f"{TITLES[n]}: text, boxes" for n in data["forms"])
    lines = head(f"variant | {titles}")
    for row in forms[0]["pruned"]:
        cells = []
        for form in forms:
            same = next(r for r in form["pruned"] if r["variant"] == row["variant"])
            cells.append(_beside(same))
        name = row["variant"]
        for backbone, title in TITLES.items():
            name = name.replace(f"fitted to {backbone}", f"paper 0.4, fitted to {title}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _beside(row: dict[str, Any]) -> str:
    if "refused" in row:
        return "refused"
    pair = (row["text"], row["acc25"])
    return ", ".join(f"{points(m['points'])} +- {m['error']:.1f}" for m in pair)


def render() -> str:
    """The block between the marks."""
    data = result(RESULT)
    forms = data["forms"]
    tokens = ", ".join(
        f"{TITLES[name]} {form['tokens']['spatial_total']:.0f}" for name, form in forms.items()
    )
    whole = next(iter(forms.values()))["pruned_whole"]
    met = "met" if data["bar_met"] else "missed"
    return "\n".join(
        [
            *accuracy(data),
            "",
            f"{data['n']['rooms']} test rooms of level {data['level']}, asked by the model alone"
            f" through the engine; 95 % intervals over rooms; {data['n']['training_seeds']}"
            f" training seed. Spatial tokens a room: {tokens}. The bar (existence, colour, category"
            f" within {data['bar_points']:g} points): **{met}**.",
            "",
            *budget(data),
            "",
            f"{data['training_rooms']} rooms with pictures to learn from. CPU time of the steps,"
            " one thread, on two shared cores.",
            "",
            *on_points(data),
            "",
            "Validation in the stage `symbolic`: about ten tokens a room, 64 rooms, places in an"
            " answer given.",
            "",
            *information(data),
            "",
            *masses(data),
            "",
            f"n = {next(iter(forms.values()))['information']['n']} prompts about validation rooms;"
            " four layers, from the first to the last. In the scene's own attention newlines count"
            " with the system text. A curve that does not fall fits nothing: the fixed one is taken"
            " then.",
            "",
            *pruned(data),
            "",
            f"Points against the whole scene, question by question, with one standard error over"
            f" {data['n']['pruned_rooms']} test rooms; n = {whole['text']['n']} and"
            f" {whole['acc25']['n']}.",
        ]
    )


def updated(page: str) -> str:
    """The page with the block anew."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{wrapped(render())}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Rewrite the block."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(updated(page), encoding="utf-8")


if __name__ == "__main__":
    main()
