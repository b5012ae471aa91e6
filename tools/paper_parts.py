"""What the writer of docs/paper.md says about attention, and how its numbers look."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from table_parts import COLUMNS, ROOT, head, result

POOLINGS = (
    ("each_question", "last", "last prompt token"),
    ("each_question", "answer", "tokens that predict the answer"),
    ("all_questions_of_a_scene", "last", "last prompt token, all questions about a room"),
    ("all_questions_of_a_scene", "answer", "the same of the answer, all questions"),
)
PAPER_TFLOP = 4.57  # with pruning
LARGE_SHARE = 0.6  # of the tokens, of which the paper speaks
TABLES = "pruning_tables.md"  # every strategy at every budget, made by another writer


def percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def from_to(values: Sequence[float]) -> str:
    """'27 % to 30 %'; one number where both are the same."""
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"


def interval(low: float | None, high: float | None, scale: float = 1.0, digits: int = 1) -> str:
    """'(1.2 to 3.4)'; '' where there is none."""
    if low is None or high is None:
        return ""
    return f"({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def table(columns: str, lines: Sequence[str]) -> str:
    return "\n".join([*head(columns), *lines])


def filled(text: str) -> str:
    """Prose in lines of COLUMNS; headings, pictures, rows of tables and empty lines stay as they
    are.
    """
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip() and not line.startswith(("|", "#", "!")):
            paragraph.append(line.strip())
            continue
        if paragraph:
            lines += textwrap.wrap(
                " ".join(paragraph), COLUMNS, break_long_words=False, break_on_hyphens=False
            )
            paragraph = []
        lines.append(line)
    return "\n".join(lines[:-1])


def pruning_tables() -> str:
    """What Tables I and II are remade as, with a link where the page is there."""
    name = "the tables of pruning"
    return f"[{name}]({TABLES})" if (ROOT / "docs" / TABLES).is_file() else name


# -- attention


def falls_last() -> bool:
    """Whether I is least in the last layer and nowhere else lower than before."""
    I = result("paper_attention")["contribution"]["I"]["of_mean_masses"]
    return bool(I[-1] == min(I) and I[:-1] == sorted(I[:-1]))


def concentration() -> str:
    """The 60 % claim, layer by layer."""
    data = result("paper_attention")
    found = data["concentration"]
    columns = " | ".join(str(layer) for layer in found["layers"])
    least, below, mass = [], [], []
    for pooled, query, label in POOLINGS:
        measured = found[pooled][query]
        spans = zip(measured["least"]["mean"], measured["least"]["interval"], strict=True)
        cells = [f"{100 * m:.1f} {interval(*span, 100.0)}" for m, span in spans]
        least.append(f"| {label} | {' | '.join(cells)} |")
        cells = [f"{100 * m:.0f}" for m in measured["below_small"]["mean"]]
        below.append(f"| {label} | {' | '.join(cells)} |")
        if pooled == "each_question":
            cells = [f"{100 * m:.0f}" for m in measured["mass"]["mean"]]
            mass.append(f"| {label} | {' | '.join(cells)} |")
    each = found["each_question"]
    single = each["answer"]["each_below_small"]["mean"][-1]
    most = each["answer"]["each_below_small_of_most"]["mean"][-1]
    last, answer = (each[query]["least"]["mean"] for query in ("last", "answer"))
    few, many = (each[query]["below_small"]["mean"] for query in ("last", "answer"))
    all_of_it = each["last"]["mass"]["mean"][-1]
    spans = each["last"]["below_small"]["interval"]
    holds = [
        f"{layer} ({percent(share)} of them, {interval(*span, 100.0, 0).strip('()')})"
        for layer, share, span in zip(found["layers"], few, spans, strict=True)
        if share > LARGE_SHARE
    ]
    found_text = (
        f"by the last prompt token it holds in layer {' and '.join(holds)}, by the tokens that"
        " predict the answer in none"
        if holds and max(many) <= LARGE_SHARE
        else "see the second table"
    )
    text = f"""## "Over 60 % of the spatial tokens contribute less than 5 %"
**The paper** does not say what is counted. **Here** it is attention, mean over heads
and queries, that a
token gets of the attention on all spatial tokens, in one layer or of the mean over layers. Two
kinds of query: the *last prompt token*, by which FastV, PyramidDrop and AdaToken-3D rank; and all
*tokens that predict the answer*, the last prompt token among them, the places that this model
points at before it speaks, and the words of the true answer ([decision
176](decisions/0176-what-a-token-contributes.md)). {found["n"]} questions that the rooms are asked
anyway, {found["scenes"]} rooms, means over rooms of means over questions. What the 60 % least
attended tokens get together, %:

{table(f"queries | layer {columns}", least)}

How many tokens get less than 5 % together, least attended first, %:

{table(f"queries | layer {columns}", below)}

What all spatial tokens together get of a query's attention, %:

{table(f"queries | layer {columns}", mass)}

![Attention on spatial tokens](images/paper/concentration.png)

**Found**: {found_text}. Of the mean over layers the least attended 60 % get {percent(last[-1])}
of the attention of the last prompt token and {percent(answer[-1])} of the answer's. Read otherwise
the claim is empty: {percent(single, 1)} of the tokens get less than 5 % *each*, as all would if
they were alike; {percent(most)} get less than 5 % of what the most attended one gets; and of *all*
attention, text included, the 60 % get {percent(last[-1] * all_of_it)} by the last prompt token.

**Why it differs**: it depends on the layer: the first ones look at all tokens, the later ones at
few, and of 32 layers most are late ones. It depends on the query: the last prompt token alone
looks at fewer tokens than the several that predict an answer, each of which looks for something
of its own; in this model it decides where to point first. And it depends on the question: over all
questions about one room the same 60 % get more, for a token that one question leaves alone another
needs. That speaks against dropping a scene's tokens for good by the ranking of one question.
Attention is no effect: what answers lose without these tokens, {pruning_tables()} measure.
"""
    return filled(text)


def figures() -> str:
    """Figures 1 to 3."""
    data = result("paper_attention")
    found, shares = data["contribution"], data["allocation"]
    rows = []
    for name, meaning in (
        ("S_self", "spatial to spatial"),
        ("S_ss", "spatial to system"),
        ("S_sp", "prompt to spatial"),
        ("INF", "eq. 4"),
    ):
        pairs = zip(found[name]["mean"], found[name]["std"], strict=True)
        cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in pairs]
        rows.append(f"| {name}, {meaning} | {' | '.join(cells)} |")
    I = found["I"]["of_mean_masses"]
    rows.append(f"| I, eq. 6 | {' | '.join(f'{value:.2f}' for value in I)} |")
    kept = {kind: found["retention"][0][kind] for kind in ("fitted", "fixed")}
    for kind, curve in kept.items():
        cells = (
            [f"{value:.2f}" for value in curve["curve"]]
            if "curve" in curve
            else ["out of reach"] * len(I)
        )
        rows.append(f"| kept, {kind}, mean .41 | {' | '.join(cells)} |")
    layers = " | ".join(str(layer) for layer in found["layers"])
    spatial = [shares["attention"][query]["spatial"]["mean"] for query in ("prompt", "answer")]
    tokens = shares["mean_tokens"]
    spread = max(found["INF"]["mean"]) - min(found["INF"]["mean"])
    falls = "It falls in the last layer alone" if falls_last() else "It does not fall steadily"
    text = f"""## Figures 1 to 3
{found["n"]} questions about {len(data["scenes"])} rooms of level 1; ± is one standard deviation
over questions.

**Figure 1, who attends to whom.** The paper shows heads of system, spatial and prompt tokens (37,
1659, 24). Here a prompt has {tokens["system"]:.0f}, {tokens["spatial"]:.0f} and
{tokens["prompt"]:.0f}, and an answer {tokens["answer"]:.0f} on average. Prompt tokens give
spatial ones {percent(min(spatial[0]))} to {percent(max(spatial[0]))} of their attention, answers
{percent(min(spatial[1]))} to {percent(max(spatial[1]))}.

![Who attends to whom](images/paper/allocation.png)

**Figure 2, what spatial tokens contribute in each layer.** In the paper it falls with depth.

{table(f"layer | {layers}", rows)}

![Information in each layer](images/paper/contribution.png)

{falls}, and all of it is {spread:.2f} in a value near {max(found["INF"]["mean"]):.1f}: min-max
(eq. 6) makes a curve of next to nothing. **Why it differs**: here S_sp stays high to the end (the
7B's falls to a fraction in its deep layers), so nothing makes a late layer less informative;
S_self + S_ss = 1 in any causal model, so two of the three masses are one; and four layers leave
no room for the deep part, where the 7B is said to look at text alone. With the published weights
of the terms the sign of the curve depends on eps and a2 (`pruning.adatoken3d.inf.eps`); our
default is the one for which curves shaped like the paper's fall.

**Figure 3, how many stay.** The paper draws a concave curve, 1 - (1 - r) x^2, whose mean of .70
costs 7.87 T; its equation 5 is convex and costs the {PAPER_TFLOP} T that it reports. Here the
convex one is the default (`pruning.adatoken3d.schedule`), the table above has it for this model,
fitted to I and fixed.
"""
    return filled(text)


def training_time() -> str:
    """What pruning saves while a model learns, of `pruned_training`."""
    data = result("pruned_training")
    seeds = data["seeds"]
    passes = [1.0 - trial["step_ratio"]["median"] for trial in data["trials"]]
    steps = [1.0 - seed["step_ratio"]["median"] for seed in seeds]
    reached = [seed["headline"] for seed in seeds if seed["headline"]["pruned"]]
    took = "; ".join(f"in {1.0 - row['saved']:.2f} of its time" for row in reached) or "not at all"
    rooms = seeds[0]["points"]["unpruned"][-1]["rooms"]
    ends = [
        [points[-1]["right"] / points[-1]["asked"] for points in seed["points"].values()]
        for seed in seeds
    ]
    shares = ", ".join(f"{pruned:.2f} and {whole:.2f}" for whole, pruned in ends)
    return filled(
        f"""## Training time
**The paper**: 37 % less in one place, 45 % in another; of what, and at which accuracy, it does
not say.

**Here** tokens that a layer drops leave the forward and the backward pass, at the paper's mean
of {data["keep_ratio"]}; {len(seeds)} seeds of a small form of the curriculum, pruned and
unpruned copies in turns in one process ([training](training.md#pruned-while-training)). The
passes alone take {from_to(passes)} less time (one and 24
questions a room), about as the paper says; whole steps, rendering and optimiser with them,
{from_to(steps)}. To the same validation accuracy (95 % of what
the unpruned copy comes to after {rooms} room passes) the pruned copy came with {len(reached)}
of {len(seeds)} seeds: {took}. Right at the end, pruned and unpruned, seed by seed: {shares}.

**Why it differs**: time a step is not time to an accuracy. The ranking that chooses the tokens
is the model's own attention, and a model that is learning to look has none to speak of: most
likely each room then teaches less. The paper fine-tunes a model that can look already; that was
not tried here. The form is small (a minute and a half of one core a copy), and colours were
still at chance in both copies.
"""
    )
