"""The picture of figure 5: attention on the least attended tokens, from an analysis' data alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ada3d_ros.lab.analysis.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Results,
    legend_below,
    new_figure,
    numbers,
    save,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYER_COLORS = (SKY, BLUE, GREEN, ORANGE, PURPLE, GREY)
BARS = (  # how questions are pooled, which queries, colour, label
    ("each_question", "last", GREY, "last prompt token, each question"),
    ("each_question", "answer", BLUE, "tokens that predict the answer, each question"),
    ("all_questions_of_a_scene", "answer", ORANGE, "the same, all questions about a room"),
)


def draw_concentration(results: Results, path: Path) -> Path:
    """Left: share of attention against share of tokens; right: what the least attended get."""
    data = results["concentration"]
    figure = new_figure(13, 6)
    curves, bars = figure.subplots(1, 2)
    _draw_curves(curves, data)
    _draw_bars(bars, data)
    title = f"Attention on spatial tokens ({data['scenes']} scenes; bars: {data['intervals']})"
    set_title(figure, title, results, data["n"])
    return save(figure, path)


def _draw_curves(axes: Axes, data: Results) -> None:
    """A curve a layer, of the tokens that predict the answer; the paper's claim as a cross."""
    tokens = 100 * numbers(data["curve"]["tokens"])
    layers, shown = data["layers"], data["curve"]["answer"]
    step = max(1, (len(layers) - 1) // len(LAYER_COLORS))
    for place, index in enumerate(range(0, len(layers) - 1, step)):
        color = LAYER_COLORS[place % len(LAYER_COLORS)]
        axes.plot(tokens, 100 * numbers(shown[index]), color=color, label=f"layer {layers[index]}")
    style: dict[str, Any] = {"color": BLACK, "linewidth": 2.2, "label": "mean over layers"}
    axes.plot(tokens, 100 * numbers(shown[-1]), **style)
    axes.plot((0, 100), (0, 100), color=GREY, linewidth=0.8, linestyle=":", label="all alike")
    claim = f"the paper: {data['least_share']:.0%} get less than {data['small_share']:.0%}"
    mark: dict[str, Any] = {"color": VERMILION, "marker": "X", "markersize": 10, "linestyle": ""}
    axes.plot(100 * data["least_share"], 100 * data["small_share"], label=claim, **mark)
    axes.set(
        title="Each question, tokens that predict the answer",
        xlabel="spatial tokens, least attended first (%)",
        ylabel="share of the attention on spatial tokens (%)",
        xlim=(0, 100),
        ylim=(0, 100),
    )
    axes.grid(alpha=0.25)
    legend_below(axes, 3)


def _draw_bars(axes: Axes, data: Results) -> None:
    """What the least attended tokens get in each layer, with intervals."""
    layers, width = data["layers"], 0.8 / len(BARS)
    for place, (pooled, query, color, label) in enumerate(BARS):
        measured = data[pooled][query]["least"]
        mean = 100 * numbers(measured["mean"])
        low, high = (100 * numbers(side) for side in zip(*measured["interval"], strict=True))
        x = [index + (place - (len(BARS) - 1) / 2) * width for index in range(len(layers))]
        error: dict[str, Any] = {"yerr": (mean - low, high - mean), "capsize": 2}
        axes.bar(x, mean, width, color=color, label=label, **error)
    small = 100 * data["small_share"]
    axes.axhline(small, color=VERMILION, linestyle="--", label=f"the paper's {small:.0f} %")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set(
        title=f"What the {data['least_share']:.0%} least attended tokens get",
        xlabel="decoder layer (1 = first)",
        ylabel="share of the attention on spatial tokens (%)",
    )
    axes.grid(alpha=0.25, axis="y")
    legend_below(axes, 1)
