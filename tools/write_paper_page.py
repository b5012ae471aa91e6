"""docs/paper.md from docs/results: python tools/write_paper_page.py

What the paper claims, what is found here, why it differs. The paper's numbers stand below as they
are published; ours are read from the result files.
"""

from __future__ import annotations

from typing import Any

from paper_parts import (
    concentration,
    falls_last,
    figures,
    filled,
    interval,
    percent,
    pruning_tables,
    table,
    training_time,
)
from table_parts import ROOT, head, result

TARGET = ROOT / "docs" / "paper.md"
VANILLA_TFLOP, PRUNED_TFLOP = 11.46, 4.57  # the paper's
PAPER_TIMES = (  # Table III: strategy, seconds of the inference, latency
    ("none", 5.957, 550.0),
    ("pdrop", 5.026, 372.0),
    ("adatoken3d", 4.439, 319.0),
)
BENCHES = (("pruning_A", 0.37), ("pruning_B", 0.37), ("pruning_C", 0.37), ("pruning_W", 0.41))
ANSWER_TOKENS = 30  # of an answer whose time is put together from prefill and steps
TABLE_IV = (  # model, strategy, VQA, MMB, MME, MM-Vet
    ("LLaVA-1.5-7B", "FastV", "57.0", "56.3", "1475.3", "30.8"),
    ("LLaVA-1.5-7B", "PyramidDrop", "57.4", "58.9", "1498.3", "31.3"),
    ("LLaVA-NeXT-7B", "FastV", "66.0", "59.8", "1483.1", "-"),
    ("LLaVA-NeXT-7B", "PyramidDrop", "67.1", "60.0", "1532.9", "-"),
    ("LLaVA-3D-7B", "PyramidDrop", "57.9", "64.9", "1501.5", "30.9"),
    ("LLaVA-3D-7B", "AdaToken-3D", "58.1", "65.0", "1501.8", "30.8"),
)
SCOPES = {  # result file -> what is asked about
    "image_view": "The view as a scene of one keyframe (voxels, places; the model points first)",
    "image_2d": "The view in 2D (patches without places; never trained; no pointing)",
}
ACCURACY = {  # metrics of the card, as the page names them
    "existence": "existence",
    "color": "colour",
    "category": "category",
    "superlative": "superlative",
    "grounding_unique_acc25": "boxes, unique, Acc@.25",
    "grounding_distractor_acc25": "boxes, distractors, Acc@.25",
    "count": "count",
    "caption": "caption",
    "nearest": "nearest",
    "multihop": "two hops",
    "side": "side",
    "relation": "relation",
    "on": "on",
    "within": "within",
    "between": "between",
}
KINDS = ("all", "existence", "color", "category")
HEAD = """# The paper's claims, on the embedded model

Made by `python tools/write_paper_page.py` from `docs/results`. The paper is AdaToken-3D (arXiv
2505.12782): LLaVA-3D of 7 billion parameters and 32 layers, rooms of ScanNet. No trained 7B was
at hand. Here each claim is measured on the [embedded model](training.md), 3.3 million parameters
and 4 layers, in drawn rooms of split `test` that nobody trained on: what follows says whether a
claim holds of *a* LLaVA-3D, not whether the paper's own numbers are right. How the method is read
where the paper leaves it open: [pruning](pruning.md#adatoken-3d-which-reading-of-the-paper).

Numbers in brackets are 95 % intervals that draw whole rooms again ([decision
66](decisions/0066-intervals-over-rooms.md)).
"""


# -- summary


def summary() -> str:
    """Each claim in a line."""
    shares = result("paper_attention")["concentration"]["each_question"]
    last, answer = (shares[query]["least"]["mean"] for query in ("last", "answer"))
    W = rows_of("pruning_W")["adatoken3d", 0.41]
    view, flat = paired("image_view"), paired("image_2d")
    dropped = {name: 100 * (after - before) for name, _, before, after, _ in kept_accuracy()}
    lines = [
        *head("claim | the paper | here"),
        (
            f"| FLOPs | 63 % fewer ({VANILLA_TFLOP} to {PRUNED_TFLOP} T, which is"
            f" {percent(1 - PRUNED_TFLOP / VANILLA_TFLOP)}) | {percent(1 - W['flop_ratio'])} at the"
            " 7B's widths |"
        ),
        (
            f"| time | 21 % faster; 72 % latency | prefill {percent(1 - mid(W, 'prefill_ratio'))}"
            f" less, a decode step {percent(1 - mid(W, 'decode_ratio'))} less (CPU) |"
        ),
        (
            "| accuracy is kept | Tables I and II | at .41 yes for boxes and most questions about"
            " one object, no for several (what stands between two"
            f" {dropped['between']:+.0f} points, what is within a radius"
            f" {dropped['within']:+.0f}) |"
        ),
        (
            "| over 60 % of the tokens contribute < 5 % | of the final predictions | the 60 % get"
            f" {percent(last[-1])} (last prompt token), {percent(answer[-1])} (answer) |"
        ),
        (
            "| information falls with depth | figure 2 | "
            + ("in the last layer alone |" if falls_last() else "see below |")
        ),
        (
            "| holds for one image | Table IV, 7B models | AdaToken-3D"
            f" {view['adatoken3d']['metrics']['all']['points']:+.1f} points on a view as a scene,"
            f" {flat['adatoken3d']['metrics']['all']['points']:+.1f} in 2D |"
        ),
        "| training time | 37 % or 45 % less | of a step yes; to the same accuracy no (below) |",
    ]
    return "\n".join(lines) + "\n"


# -- time


def rows_of(name: str) -> dict[tuple[str, float], dict[str, Any]]:
    """The rows of a bench, by strategy and keep ratio."""
    return {(row["strategy"], row["keep_ratio"]): row for row in result(name)["rows"]}


def mid(row: dict[str, Any], name: str) -> float:
    """The median of one measured value."""
    value: float = row[name]["median"]
    return value


def whole_answer(row: dict[str, Any]) -> float:
    """Milliseconds of prefill and ANSWER_TOKENS decode steps, medians."""
    return mid(row, "prefill_ms") + ANSWER_TOKENS * mid(row, "decode_step_ms")


def times() -> str:
    """Table III: the paper's ratios, and those of the benches."""
    _, seconds, latency = PAPER_TIMES[0]
    published = [
        f"| {name} | {s / seconds:.2f} | {late / latency:.2f} |" for name, s, late in PAPER_TIMES
    ]
    lines = []
    for file, keep in BENCHES:
        data, rows = result(file), rows_of(file)
        for strategy in ("fastv", "pdrop", "adatoken3d"):
            row = rows.get((strategy, keep))
            if row is None:
                continue
            none = rows["none", 1.0]
            sizes = data["sizes"]
            lines.append(
                f"| {data['shape']}: d={sizes['hidden']}, L={sizes['layers']}, N={row['N']} |"
                f" {strategy} | {row['keep_ratio_achieved']:.2f} | {row['flop_ratio']:.2f} |"
                f" {mid(row, 'prefill_ratio'):.2f} ({row['prefill_ratio']['min']:.2f} to"
                f" {row['prefill_ratio']['max']:.2f}) | {mid(row, 'decode_ratio'):.2f} |"
                f" {whole_answer(row) / whole_answer(none):.2f} |"
            )
    default = result("default_A")["ratios"]["default_first_over_unpruned"]["median"]
    text = f"""## Cost and time (Table III)
**The paper**: {VANILLA_TFLOP} TFLOP become {PRUNED_TFLOP}, "63 %" less and "21 % faster", latency
"72 %" better. Times over those of the unpruned model, from its Table III:

{table("strategy | inference, seconds | latency", published)}

**Here**: FLOPs are counted, and with the paper's sizes come to the paper's numbers: 11.465 and
4.57 (`test/pruning/`, [pruning](pruning.md#how-it-is-checked)). These count a multiply-add once
and spatial tokens alone. Times of random weights on a busy CPU, one thread, interleaved, n=5,
over the unpruned prompt; *{ANSWER_TOKENS} tokens* adds that many decode steps to the prefill.
Measured 2026-11-25, not again for this page; ratios compare what ran together
([benchmarks](benchmarks.md)):

{table("shape | strategy | keep | FLOPs | prefill | decode step | 30 tokens", lines)}

**Why it differs**: {VANILLA_TFLOP} to {PRUNED_TFLOP} is {
        percent(1 - PRUNED_TFLOP / VANILLA_TFLOP, 1)
    }, not 63. "72 %" is 550 / 319 - 1, a speed-up; the time falls by 42 %. The
table's own seconds fall by 25 %, not 21. What is pruned is the prefill, and there time follows
the FLOPs here, as it should in any implementation that computes only what is kept (shape W has
the 7B's widths, not its depth). A decode step reads all weights whatever was pruned; the more an
answer has of them, the less is left of the gain. The three strategies differ by what they keep,
hardly by what they cost: at one budget none is faster, so that a lead of AdaToken-3D over
PyramidDrop in seconds is a lead in budget (mean retention .41 against .47). And none of this is
the largest gain: a scene that is cached makes all further questions cheap without dropping
anything, and pruned while it is built it leaves {default:.2f} of the time to the first token at
shape A.
"""
    return filled(text)


# -- 2D


def paired(name: str) -> dict[str, dict[str, Any]]:
    """The rows of one scope by strategy, at the first keep ratio."""
    rows: dict[str, dict[str, Any]] = {}
    for row in result(name)["rows"]:
        rows.setdefault(row["strategy"], row)
    return rows


def cell(row: dict[str, Any], kind: str, beside: bool) -> str:
    """A value with its interval, or the paired difference in points with its own."""
    metric = row["metrics"][kind]
    if not beside:
        return f"{metric['value']:.3f} {interval(*metric['interval'], 1.0, 2)}"
    low, high = metric["points_interval"]
    return f"{metric['points']:+.1f} ({low:+.1f} to {high:+.1f})"


def scope(name: str, title: str) -> str:
    """One table: values of the unpruned model, differences of the others."""
    data = result(name)
    words = data["by_words"]
    lines = []
    for strategy, row in paired(name).items():
        if "refused" in row:
            lines.append(f"| {strategy} | refused | | | | |")
            continue
        cells = [cell(row, kind, strategy != "none") for kind in KINDS]
        cost = "" if row["flop_share"] is None else f"{row['flop_share']:.2f}"
        lines.append(f"| {strategy} | {cost} | {' | '.join(cells)} |")
    n = " | ".join(str(data["n"][kind]) for kind in KINDS)
    majority = " | ".join(f"{words[kind]['majority']:.2f}" for kind in KINDS[1:])
    chance = " | ".join(f"{words[kind]['chance']:.2f}" for kind in KINDS[1:])
    lines += [f"| n | | {n} |", f"| most frequent answer | | | {majority} |"]
    lines.append(f"| chance | | | {chance} |")
    tokens = paired(name)["none"]["tokens"]
    intro = (
        f"{title}; {data['views']} views of {data['scenes']} rooms, {tokens:.0f} tokens on average."
    )
    columns = f"strategy | FLOPs | {' | '.join(KINDS)}".replace("color", "colour")
    return f"### {intro.split(' (')[0]}\n{filled(intro)}\n\n{table(columns, lines)}\n"


def images() -> str:
    """Table IV."""
    data = result("image_view")
    published = [f"| {' | '.join(row)} |" for row in TABLE_IV]
    text = f"""## In 2D (Table IV)
**The paper**, not measured here (VQA, MMBench, MME, MM-Vet; the 2D benchmarks need models of
photographs, and `ada3d eval` scores their official files where one has such a model):

{table("model | strategy | VQA | MMB | MME | MM-Vet", published)}

**Here**: questions about one view of a drawn room. Whether a thing is in the view says the
renderer: it is where it covers {data["min_pixels"]} pixels of 128 x 128 or more, it is not where
it covers none, and nothing is asked that something in between would decide ([decision
177](decisions/0177-questions-about-one-view.md)). All strategies drop while the question's prompt
passes, to a mean of .41 over layers; FastV ranks with layer {data["fastv_k"]}, the only one that
leaves such a mean within reach of four layers. The first row has values, the others paired
differences from it in points. *blind*: the same questions without any image.
"""
    return "\n".join([filled(text), *(scope(name, SCOPES[name]) for name in SCOPES), images_why()])


def images_why() -> str:
    """What the tables say."""
    rows = paired("image_view")

    def points(name: str) -> str:
        return cell(rows[name], "all", True)

    text = f"""**Found**, in points against the unpruned model, on views as it was taught to see
them: voxel_dpp, which chooses before the language model by how unlike the features are,
{points("voxel_dpp")}; PyramidDrop {points("pdrop")}; AdaToken-3D {points("adatoken3d")};
random tokens {points("random")}; FastV {points("fastv")}. The paper's order of
AdaToken-3D and PyramidDrop (58.1 to 57.9 and 65.0 to 64.9 on its own model) is not found
again there, only in 2D (below); FastV is the weakest; the best is none of the three.

**Why it differs**, most likely, for no part was measured apart: budgets are alike, and
AdaToken-3D scores as PyramidDrop does; what differs is where tokens go and where the rest
stand. AdaToken-3D's convex curve drops most behind layer 1, PyramidDrop's equal factors
leave more to layer 2 and drop more in the last ones, where attention is sharp; PyramidDrop
counts the positions of what is left anew, AdaToken-3D keeps them. On 32 layers
AdaToken-3D still has three quarters of its tokens in layer 4 and half in layer 8, behind which
PyramidDrop begins; here the whole curve lies behind one layer. So there the difference may vanish,
as in the paper.
FastV drops once and for good by the attention of layer 1, which looks at all tokens (the
60 % above).
"""
    return filled(text) + in_2d()


def in_2d() -> str:
    """What the 2D table says."""
    flat, view = paired("image_2d"), paired("image_view")
    right = {kind: flat["none"]["metrics"][kind]["value"] for kind in KINDS}
    held = view["none"]["metrics"]["all"]["value"]
    text = f"""
**2D itself**: the unpruned model answers {percent(right["all"])} of the very questions of which it
answers {percent(held)} on a scene of one keyframe: existence little better than blindly
({right["existence"]:.2f} against {flat["blind"]["metrics"]["existence"]["value"]:.2f}), colours
{right["color"]:.2f}, categories {right["category"]:.2f}. It was never shown patches without places,
and was taught to look for the place before it speaks, which an image has not. Its features carry
over: colours and categories are far above chance. In points against that: AdaToken-3D
{cell(flat["adatoken3d"], "all", True)}, PyramidDrop {cell(flat["pdrop"], "all", True)}, voxel_dpp
{cell(flat["voxel_dpp"], "all", True)}, FastV {cell(flat["fastv"], "all", True)}, random
{cell(flat["random"], "all", True)}. Here the order is the paper's, and what ranks by attention in
every layer answers *better* than all patches do, colours by
{flat["adatoken3d"]["metrics"]["color"]["points"]:+.1f}. A gain over the unpruned model says less
about pruning than about the model, which is lost among 256 patches of a kind it never saw and is
better off with few of them; it is no evidence for a model that was trained on images.
"""
    return filled(text)


def commands() -> str:
    """How the files are made."""
    lines = [
        "## Made again by",
        "```",
        "ada3d analyze test-room:{0..11} --own-questions --model ada3d_ros/models/embedded \\",
        "    --figures 1,2,5 --out docs/images/paper --json docs/results/paper_attention.json",
        "ada3d eval image --scenes 100 --scope view --json docs/results/image_view.json",
        "ada3d eval image --scenes 100 --scope image --json docs/results/image_2d.json",
        "python tools/write_paper_page.py",
        "```",
    ]
    return "\n".join(lines) + "\n"


def kept_accuracy() -> list[tuple[str, int, float, float, tuple[float, float]]]:
    """Per metric of the card: n, unpruned, dropped for each question, and that one's interval."""
    before, after = result("embedded_level1_floor"), result("embedded_level1_pruned")
    found = []
    for name, value in after["metrics"].items():
        detail = after["details"][name]
        if detail["n"] and name in ACCURACY:
            low, high = detail["interval"]
            found.append((name, detail["n"], before["metrics"][name], value, (low, high)))
    return found


def accuracy() -> str:
    """Tables I and II: where the strategies are compared, and what the default budget costs."""
    lines = [
        f"| {ACCURACY[name]} | {n} | {before:.3f} | {after:.3f} {interval(*span, 1.0, 2)} |"
        f" {100 * (after - before):+.1f} |"
        for name, n, before, after, span in kept_accuracy()
    ]
    lost = {name: 100 * (after - before) for name, _, before, after, _ in kept_accuracy()}
    text = f"""## Accuracy (Tables I and II)
**The paper**: at 10, 20 and 40 % of the last layer SQA3D 53.5 / 54.7 / 54.8 and ScanQA CIDEr 90.7 /
90.6 / 91.8, about the unpruned model's. Its Table II mixes two protocols: the unpruned row is the
published one, of a prompt with the suffix that asks for a short answer; the pruned rows lie where
a user finds the *unpruned* model without that suffix.

**Here** every strategy at the same average budgets, paired, stands in {pruning_tables()}, and of
the cached scene in [scene_pruning.md](scene_pruning.md). AdaToken-3D as published, dropping for
each question, mean .41 (20 % of the last layer), the model alone, from the card's files
(`docs/results/embedded_level1_pruned.json`, and `docs/results/embedded_level1_floor.json` for the
unpruned model about the same questions and rooms, moved down by 1.5 m); intervals of the pruned
value, not of the difference:

{table("kind | n | unpruned | dropped for each question | points", lines)}

**Why it differs**: boxes and most of what is asked about one thing (existence, colour, superlative)
keep their accuracy, as the paper says of all; what a thing is does not quite (category
{lost["category"]:+.1f}, caption {lost["caption"]:+.1f} points here). Where an answer rests on
several things (between, within, on, relation) it does not. The ranking is that of one query, which
in this model decides where to point first; what the later places need may have gone by then. One
score over a whole data set, as the paper's, does not show such a thing.
"""
    return filled(text)


def render() -> str:
    """The page."""
    parts = [
        filled(HEAD),
        summary(),
        times(),
        accuracy(),
        concentration(),
        figures(),
        images(),
        training_time(),
    ]
    return "\n".join([*parts, commands()])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
