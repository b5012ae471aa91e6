"""Pictures of an analysis, from its JSON data and arrays alone; no model, no measurement.

matplotlib is imported when something is drawn, and never opens a window (Agg). Colours are Okabe
and Ito's, which colour-blind readers can tell apart; a strategy has the same one in every figure.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[np.float64]
DPI = 110
BLACK, GREY = "#000000", "#7F7F7F"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STRATEGY_STYLES: dict[str, tuple[str, str]] = {  # label -> colour, marker
    "adatoken3d": (BLUE, "o"),
    "ada-unroped": (SKY, "s"),
    "random": (BLACK, "x"),
    "uniform": (GREY, "+"),
    "voxel_dpp": (GREEN, "^"),
    "geo_fps": (ORANGE, "v"),
    "pdrop": (PURPLE, "D"),
    "fastv": (VERMILION, "P"),
    "coarse_voxels": ("#661100", "<"),
    "cond_dpp": ("#999933", ">"),
    "kitoke": ("#AA7744", "d"),
    "holitom": ("#CC6677", "X"),
    "condensed_grid": ("#88CCEE", "H"),
    "logistic": ("#332288", "p"),
    "adatoken3d_plus": ("#6699CC", "8"),
    "none": ("#882255", "*"),
}
OTHER_COLORS = ("#44AA99", "#AA4499", "#DDCC77", "#117733")  # of strategies joined by +
KEY_COLORS = {"system": GREY, "spatial": BLUE, "prompt": ORANGE, "answer": PURPLE}
KEEP_COLORS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE)


def strategy_style(label: str) -> tuple[str, str]:
    """Colour and marker of a strategy: the same everywhere, for names without a fixed one too."""
    if label in STRATEGY_STYLES:
        return STRATEGY_STYLES[label]
    return OTHER_COLORS[sum(label.encode()) % len(OTHER_COLORS)], "h"


def new_figure(width_in: float, height_in: float, layout: str = "constrained") -> Figure:
    """An empty figure that belongs to no window. Raises ConfigError where matplotlib is absent."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"matplotlib cannot be imported ({error}), so there are no pictures; the data is"
            " written. Install matplotlib."
        ) from None
    return Figure(figsize=(width_in, height_in), dpi=DPI, layout=layout)  # type: ignore[arg-type]


def set_title(figure: Figure, title: str, results: Results, n: int) -> None:
    """What, of which model, from how much; in red where the weights are random."""
    text, style = f"{title}\nmodel {results['model']}, n = {n}", {}
    if results["random_weights"]:
        text += "\nRANDOM WEIGHTS: curves mean nothing"
        style = {"color": "red", "fontweight": "bold"}
    figure.suptitle(text, parse_math=False, **style)  # a dollar sign in a question is no formula


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG; returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(path)
    return path


def numbers(values: Sequence[Any]) -> Array:
    """JSON numbers as floats, None as NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def draw_spread(axes: Axes, x: Sequence[float], measured: Results, **style: Any) -> None:
    """A line at the mean, in a band of one standard deviation where there are several samples."""
    mean = numbers(measured["mean"])
    (line,) = axes.plot(x, mean, markersize=4, linewidth=1.6, **style)
    if measured["std"] is not None:
        std, color = numbers(measured["std"]), line.get_color()
        axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def legend_below(axes: Axes, columns: int) -> None:
    """Under the axes, where it covers nothing."""
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False, fontsize=9
    )


def layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """Whole layers on x."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("decoder layer (1 = first)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.set_xlim(layers[0] - 0.3, layers[-1] + 0.3)
    axes.grid(alpha=0.25)


def draw_figures(results: Results, arrays: Arrays, out: Path) -> list[Path]:
    """Every figure that the data holds; returns the files.

    Raises ConfigError where matplotlib is absent.
    """
    from ada3d_ros.lab.analysis.concentration_plot import draw_concentration
    from ada3d_ros.lab.analysis.survival_plots import draw_survival

    files = []
    for name, draw in (
        ("contribution", draw_contribution),
        ("allocation", draw_allocation),
        ("agreement", draw_agreement),
        ("concentration", draw_concentration),
    ):
        if name in results:
            files.append(draw(results, out / f"{name}.png"))
    if "survival" in results:
        files += draw_survival(results, arrays, out)
    return files


def draw_contribution(results: Results, path: Path) -> Path:
    """Figure 1: masses; F and INF; I with the retention curves."""
    data = results["contribution"]
    layers = data["layers"]
    figure = new_figure(15, 6)
    masses, terms, curves = figure.subplots(1, 3)

    # Left: what was measured.
    styles = {
        "S_self": (BLUE, "o", "spatial → spatial"),
        "S_ss": (GREY, "s", "spatial → system"),
        "S_sp": (ORANGE, "^", "prompt → spatial"),
        "S_cross": (PURPLE, "D", "a1 S_sp + a2 S_ss"),
    }
    for name, (color, marker, meaning) in styles.items():
        label = f"{name}: {meaning}"
        draw_spread(masses, layers, data[name], color=color, marker=marker, label=label)
    masses.set(title="Attention masses", ylim=(-0.03, 1.03))
    masses.set_ylabel("share of a query's attention (0 to 1)")

    # Middle and right: what the equations make of it.
    for name, color, marker in (("INF", VERMILION, "o"), ("F", GREEN, "s")):
        draw_spread(terms, layers, data[name], color=color, marker=marker, label=name)
    terms.set(title="Self term F and information INF (eqs. 2, 4)", ylabel="value (no unit)")
    _draw_retention(curves, data)
    for axes in (masses, terms, curves):
        layer_axis(axes, layers)
        legend_below(axes, 1 if axes is curves else 2)
    title = f"Information contribution of spatial tokens (query stride {data['stride']})"
    set_title(figure, title, results, data["n"])
    return save(figure, path)


def _draw_retention(axes: Axes, data: Results) -> None:
    """Normalised information I, and the retention curves that follow from it."""
    # I on a thin black line.
    layers, I = data["layers"], data["I"]["of_mean_masses"]
    style: dict[str, Any] = {"color": BLACK, "marker": "o", "markersize": 4, "linewidth": 1.2}
    axes.plot(layers, I, label="I (eq. 6)", **style)

    # A colour per keep ratio; a curve out of reach is a sentence instead.
    title, problems = "Normalised information and retention", []
    for retention, color in zip(data["retention"], itertools.cycle(KEEP_COLORS), strict=False):
        style = {"color": color, "linewidth": 1.8, "drawstyle": "steps-mid"}
        for kind, line in (("fitted", "-"), ("fixed", "--")):
            found, keep = retention[kind], f"keep {retention['keep_ratio']:g}"
            if "error" in found:
                problems.append(f"{keep}, {kind}: {found['error']}")
                continue
            label = f"{kind}, {keep} (mean {found['mean']:.3f})"
            axes.plot(layers, found["curve"], linestyle=line, label=label, **style)
    if not data["falls_with_depth"]:
        title += "\nI does not fall with depth: the fixed curve is used"
    axes.set(title=title, ylabel="I; share of spatial tokens alive (0 to 1)", ylim=(-0.03, 1.03))
    write_problems(axes, problems)


def write_problems(axes: Axes, problems: Sequence[str]) -> None:
    """Sentences in the middle of the axes, wrapped."""
    if not problems:
        return
    text = "\n".join(textwrap.fill(problem, 46) for problem in problems)
    box = {"facecolor": "white", "edgecolor": "red", "alpha": 0.9}
    middle: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, fontsize=8, bbox=box, **middle)


def draw_allocation(results: Results, path: Path) -> Path:
    """Figure 2: for each kind of query, its attention on each kind of key, stacked."""
    from matplotlib.patches import Patch

    # One panel per kind of query.
    data = results["allocation"]
    layers = data["layers"]
    figure = new_figure(15, 5.6)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (query, keys) in zip(panels, data["attention"].items(), strict=True):
        present = [key for key in KEY_COLORS if keys[key]["mean"][0] is not None]
        count = data["n_with_answer"] if query == "answer" else data["n"]
        axes.set_title(f"{query} tokens attend to (n = {count})")
        layer_axis(axes, layers)
        axes.set(xlim=(layers[0], layers[-1]), ylim=(0, 1))
        if not present:
            write_problems(axes, ["No answer: the model ended at once."])
            continue
        stacked = [numbers(keys[key]["mean"]) for key in present]
        colors = [KEY_COLORS[key] for key in present]
        axes.stackplot(layers, stacked, colors=colors, alpha=0.9, edgecolor="white", linewidth=0.6)
    panels[0].set_ylabel("share of attention (0 to 1)")

    # One legend for all, with how many tokens share what a kind gets.
    handles = [
        Patch(color=color, label=f"{key} keys (mean {data['mean_tokens'][key]:.0f} tokens)")
        for key, color in KEY_COLORS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    set_title(figure, "Attention allocation by kind of token", results, data["n"])
    return save(figure, path)


def standard_error(points: Sequence[Results]) -> dict[str, list[float]]:
    """Means of measured points, with the standard error of each in place of the spread.

    NaN of one sample.
    """
    means, stds = (numbers([point[name] for point in points]) for name in ("mean", "std"))
    counts = np.array([max(point["n"], 1) for point in points])
    return {"mean": means.tolist(), "std": (stds / np.sqrt(counts)).tolist()}


def draw_agreement(results: Results, path: Path) -> Path:
    """Figure 3: measures of agreement (down) for each layer (across) against the pruned share."""
    data = results["agreement"]
    layers = data["layers"]
    figure = new_figure(4.6 * max(len(layers), 2), 10)
    grid = figure.subplots(3, len(layers), sharex=True, sharey="row", squeeze=False)
    measures = {
        "identical": "share of identical answers",
        "prefix": "agreeing beginning\n(share of answer tokens)",
        "kl_nats": "KL of the first token\n(unpruned || pruned), nats",
    }

    # A curve per ranking in every panel of its layer.
    for curve in data["curves"]:
        ranking, points = curve["ranking"], curve["points"]
        color, marker = strategy_style(ranking)
        style = {"color": color, "marker": marker, "label": f"{ranking} ranking"}
        style["linestyle"] = "--" if ranking == "random" else "-"
        x = [100 * point["dropped"]["mean"] for point in points]
        for axes, name in zip(grid[:, layers.index(curve["layer"])], measures, strict=True):
            draw_spread(axes, x, standard_error([point[name] for point in points]), **style)

    # Titles above, measures on the left, one legend below.
    for column, layer in enumerate(layers):
        grid[0, column].set_title(f"dropped once after layer {layer} of {results['num_layers']}")
        grid[2, column].set_xlabel("spatial tokens dropped (%)")
    for row, label in enumerate(measures.values()):
        grid[row, 0].set_ylabel(label)
        for axes in grid[row]:
            axes.grid(alpha=0.25)
            axes.set_ylim(*((-0.03, 1.03) if row < 2 else (0, None)))
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    title = "Agreement with the unpruned model's answers (bands: standard error of the mean)"
    set_title(figure, title, results, data["n"])
    return save(figure, path)
