"""Pictures of figure 4: surviving tokens on the views and in the room, and what they cover."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.lab.analysis.plots import (
    BLACK,
    Arrays,
    Results,
    layer_axis,
    new_figure,
    numbers,
    save,
    set_title,
    strategy_style,
)
from ada3d_ros.lab.analysis.survival import mask_name, patch_states

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = npt.NDArray[np.uint8]
DARKNESS = 0.22  # brightness of a patch whose token was dropped
NO_TOKEN = 0.75  # how far a patch without a token is blended into light grey
DROPPED_COLOR = "#D8D8D8"
PER_ROW = 4  # strategies beside each other on the map


def draw_survival(results: Results, arrays: Arrays, out: Path) -> list[Path]:
    """Per keep ratio a picture of coverage; per scene also one of the views and one of the room."""
    files = []
    for ratio in results["keep_ratios"]:
        files.append(draw_coverage(results, ratio, out / f"survival_coverage_keep{ratio:g}.png"))
        at_ratio = [row for row in results["survival"]["rows"] if row["keep_ratio"] == ratio]
        for scene, facts in enumerate(results["scenes"]):
            rows = [row for row in at_ratio if row["scene"] == scene]
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", facts["name"])
            ending = f"{scene + 1}_{name}_keep{ratio:g}.png"
            files.append(draw_views(results, arrays, rows, out / f"survival_views_{ending}"))
            files.append(draw_map(results, arrays, rows, out / f"survival_map_{ending}"))
    return files


def mark_dropped(image: Image, states: npt.NDArray[np.int8], outline: str = "#FFFFFF") -> Image:
    """The image (S, S, 3) with patches of states (P,) 0 darkened and -1 greyed out.

    1 stays as it is, with a line of the colour `outline` where it ends, so that a black object
    shows too.
    """
    # The state of each pixel's patch.
    side, per_side = image.shape[0], round(len(states) ** 0.5)
    place = np.minimum(np.arange(side) * per_side // side, per_side - 1)
    state = states.reshape(per_side, per_side)[place[:, None], place]

    grey = (1 - NO_TOKEN) * image + NO_TOKEN * 225.0
    with_token = np.where(state[..., None] == 0, DARKNESS * image, image)
    shown = np.where(state[..., None] < 0, grey, with_token)
    rgb = [int(outline[i : i + 2], 16) for i in (1, 3, 5)]
    shown[_border(state == 1, max(1, side // 112))] = rgb
    return shown.round().astype(np.uint8)


def _border(inside: npt.NDArray[np.bool_], width_px: int) -> npt.NDArray[np.bool_]:
    """The pixels (S, S) of `inside` within width_px of one outside, up, down, left or right.

    The image's edge is none.
    """
    border = np.zeros_like(inside)
    for axis in (0, 1):
        for step in range(1, width_px + 1):
            for shift in (step, -step):
                moved = np.roll(inside, shift, axis)
                edge = slice(0, step) if shift > 0 else slice(-step, None)
                moved[(edge, slice(None)) if axis == 0 else (slice(None), edge)] = True
                border |= inside & ~moved
    return border


def draw_views(results: Results, arrays: Arrays, rows: list[dict[str, Any]], path: Path) -> Path:
    """One line per strategy: up to six views, dropped patches dark."""
    # A strategy out of reach has a sentence, on a lower line.
    scene = rows[0]["scene"]
    views, patch_token = arrays[f"scene{scene}.views"], arrays[f"scene{scene}.patch_token"]
    total = len(arrays[f"scene{scene}.xyz_m"])
    heights = [0.4 if row["error"] else 1.0 for row in rows]
    figure = new_figure(1.75 * len(views) + 2.6, 1.75 * sum(heights) + 1.6)
    grid = figure.subplots(len(rows), len(views), squeeze=False, height_ratios=heights)
    for line, row in zip(grid, rows, strict=True):
        for axes in line:
            axes.set(xticks=[], yticks=[])
        if row["error"]:
            _write_across(line, row)
            continue

        # The views, then the strategy's name beside the first one.
        color = strategy_style(row["strategy"])[0]
        outline = "#FFFFFF" if color == BLACK else color  # black would not show on what is dark
        kept = arrays[mask_name(scene, row["strategy"], row["keep_ratio"])]
        states = patch_states(patch_token, kept)
        for axes, image, state in zip(line, views, states, strict=True):
            axes.imshow(mark_dropped(image, state, outline), interpolation="nearest")
        style: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": color}
        line[0].set_ylabel(row_label(row, total), rotation=0, ha="right", va="center", **style)
    meaning = (
        "bright, outlined: token alive in the last layer   dark: dropped   light grey: no depth, so"
        " no token"
    )
    figure.supxlabel(meaning, fontsize=10)
    set_title(figure, _title(results, rows[0]), results, 1)
    return save(figure, path)


def _title(results: Results, row: Results) -> str:
    question = textwrap.shorten(results["survival"]["drawn_question"], 80)
    where = f"{row['scene_name']} at keep ratio {row['keep_ratio']:g}"
    return f"Surviving spatial tokens of {where}\n“{question}”"


def row_label(row: Results, total: int) -> str:
    """Strategy, tokens alive in the last layer and cells they cover, for the drawn question."""
    name = f"{row['strategy']}{' (merging)' if row['merges'] else ''}"
    drawn = row["drawn"]
    return f"{name}\n{drawn['tokens']} of {total} tokens\n{drawn['coverage']:.0%} of cells"


def _write_across(line: npt.NDArray[Any], row: Results) -> None:
    """The error sentence in place of the views."""
    for axes in line:
        axes.set_axis_off()
    text = f"{row['strategy']}: nothing drawn. {textwrap.fill(row['error'], 90)}"
    drawn = line[0].text(
        0.0, 0.5, text, transform=line[0].transAxes, va="center", fontsize=9, color="red"
    )
    drawn.set_in_layout(False)  # it may reach over the other views' places


def draw_map(results: Results, arrays: Arrays, rows: list[dict[str, Any]], path: Path) -> Path:
    """Per strategy the room from above and below that from the side; kept tokens in colour."""
    # Two panels per strategy, as high as the room is deep and high.
    xyz_m = arrays[f"scene{rows[0]['scene']}.xyz_m"]
    bands = -(-len(rows) // PER_ROW)
    columns = min(PER_ROW, len(rows))
    wide, high_above, high_side = (float(np.ptp(xyz_m[:, axis])) + 1.0 for axis in range(3))
    relative_height = min((high_above + high_side) / wide, 2.5)  # of a corridor along y too
    figure = new_figure(3.9 * columns, bands * (3.4 * relative_height + 2.0) + 1.2)
    heights = [high_above, high_side] * bands
    grid = figure.subplots(2 * bands, columns, squeeze=False, height_ratios=heights)

    for index in range(bands * columns):
        band, column = divmod(index, columns)
        above, side = grid[2 * band, column], grid[2 * band + 1, column]
        if index < len(rows) and not rows[index]["error"]:
            _draw_room(above, side, arrays, rows[index])
            continue
        # Places that are left over stay empty; a strategy out of reach has a sentence.
        above.set_axis_off()
        side.set_axis_off()
        if index < len(rows):
            _write_error(above, rows[index])
    legend = (
        "from above, and below that from the side; coloured: alive in the last layer, grey:"
        " dropped, red line: camera path"
    )
    figure.supxlabel(legend, fontsize=10)
    set_title(figure, _title(results, rows[0]), results, 1)
    return save(figure, path)


def _draw_room(above: Axes, side: Axes, arrays: Arrays, row: Results) -> None:
    """One strategy's tokens and the camera's path from above and from the side."""
    scene = row["scene"]
    xyz_m, camera_m = arrays[f"scene{scene}.xyz_m"], arrays[f"scene{scene}.camera_m"]
    kept = arrays[mask_name(scene, row["strategy"], row["keep_ratio"])]
    above.set_title(row_label(row, len(xyz_m)), fontsize=10)
    for axes, vertical, name in ((above, 1, "y"), (side, 2, "z")):
        _scatter(axes, xyz_m[:, [0, vertical]], kept, row["strategy"])
        axes.plot(camera_m[:, 0], camera_m[:, vertical], color="red", linewidth=0.8, alpha=0.6)
        axes.set_xlabel("x (m)")
        axes.set_ylabel(f"{name} (m)")


def _write_error(axes: Axes, row: Results) -> None:
    """The error sentence in place of a room."""
    text = f"{row['strategy']}: nothing drawn.\n{textwrap.fill(row['error'], 38)}"
    middle: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, fontsize=9, color="red", **middle)


def _scatter(
    axes: Axes, points_m: npt.NDArray[Any], kept: npt.NDArray[np.bool_], label: str
) -> None:
    for chosen, size, color in ((~kept, 5, DROPPED_COLOR), (kept, 14, strategy_style(label)[0])):
        axes.scatter(points_m[chosen, 0], points_m[chosen, 1], s=size, color=color, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.2)


def draw_coverage(results: Results, keep_ratio: float, path: Path) -> Path:
    """Coverage and position bias by layer, and a table of the last layer with spreads.

    Means over scenes and questions.
    """
    data = results["survival"]
    layers = list(range(1, results["num_layers"] + 1))
    figure = new_figure(14, 9.5)
    mosaic: list[Any] = [["coverage", "bias"], ["legend", "legend"], ["table", "table"]]
    panels = figure.subplot_mosaic(mosaic, height_ratios=(1.7, 0.1, 1.1))

    # A curve in both panels and a row of the table per strategy.
    table: list[list[str]] = []
    at_ratio = [row for row in data["rows"] if row["keep_ratio"] == keep_ratio]
    for label in data["labels"]:
        rows = [row for row in at_ratio if row["strategy"] == label]
        good = [row for row in rows if not row["error"]]
        if not good:
            table.append([label, "not possible", "", "", "", textwrap.fill(rows[0]["error"], 64)])
            continue
        table.append(_table_row(label, good))
        color, marker = strategy_style(label)
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5}
        style["linestyle"] = "--" if label in ("random", "uniform", "ada-unroped") else "-"
        for name, panel in (("coverage", "coverage"), ("position_bias", "bias")):
            mean = over_scenes(good, name)["mean"]
            panels[panel].plot(layers, mean, label=label, **style)

    # What the axes say, one legend, the table.
    cell = f"{data['cell_m']:g} m"
    panels["coverage"].set(title=f"Share of occupied {cell} cells kept", ylim=(-0.02, 1.04))
    panels["coverage"].set_ylabel("share of cells (0 to 1)")
    panels["bias"].set_title("Mean rank of the tokens kept (0 first, 1 last; 0.5 = no bias)")
    panels["bias"].set_ylabel("mean rank (0 to 1)")
    panels["bias"].axhline(0.5, color="black", linewidth=0.8, alpha=0.5)
    for name in ("coverage", "bias"):
        layer_axis(panels[name], layers)
    handles, names = panels["coverage"].get_legend_handles_labels()
    panels["legend"].set_axis_off()
    panels["legend"].legend(handles, names, loc="center", ncols=8, frameon=False)
    _draw_table(panels["table"], cell, table)
    title = f"How much of the room survives at keep ratio {keep_ratio:g}"
    set_title(figure, title, results, data["n"])
    return save(figure, path)


def over_scenes(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Mean per layer of the scenes' means.

    The spread is over scenes where there are several, else over questions.
    """
    means = np.stack([numbers(row[name]["mean"]) for row in rows])
    if len(rows) > 1:
        return {"mean": means.mean(axis=0).tolist(), "std": means.std(axis=0, ddof=1).tolist()}
    return {"mean": means[0].tolist(), "std": rows[0][name]["std"]}


def _table_row(label: str, rows: list[dict[str, Any]]) -> list[str]:
    """One strategy in the last layer: mean over scenes, ± one standard deviation of several."""

    def cell(name: str, scale: float, digits: int, unit: str) -> str:
        found = over_scenes(rows, name)
        std = (found["std"] or [None])[-1]
        mean = f"{scale * found['mean'][-1]:.{digits}f}{unit}"
        return mean if std is None else f"{mean} ± {scale * std:.{digits}f}"

    achieved = np.mean([row["keep_ratio_achieved"] for row in rows])
    tokens = np.mean([row["counts"][-1] for row in rows])
    note = "tokens not kept are merged into those kept" if rows[0]["merges"] else ""
    if not rows[0]["depends_on_question"]:
        note = "; ".join(filter(None, ("one choice for all questions", note)))
    bias = cell("position_bias", 1, 3, "")
    return [label, f"{achieved:.3f}", f"{tokens:.0f}", cell("coverage", 100, 1, " %"), bias, note]


def _draw_table(axes: Axes, cell_size: str, rows: list[list[str]]) -> None:
    """The rows of `_table_row` below their headings; strategies out of reach in red."""
    axes.set_axis_off()
    last = "last layer"
    head = [
        "strategy",
        "keep ratio achieved",
        f"tokens, {last}",
        f"{cell_size} cells, {last}",
        f"mean rank, {last}",
        "note",
    ]
    widths = (0.11, 0.13, 0.11, 0.14, 0.14, 0.37)
    drawn = axes.table(rows, colLabels=head, loc="center", cellLoc="left", colWidths=widths)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.scale(1.0, 1.3)

    # Cell by cell: headings bold, strategies in their colour, errors on two lines.
    for (row, column), cell in drawn.get_celld().items():
        cell.set_linewidth(0.3)
        cell.PAD = 0.03 if column == 5 else 0.08
        failed = row > 0 and rows[row - 1][1] == "not possible"
        if failed:
            cell.set_height(cell.get_height() * 1.8)
        if row == 0:
            cell.set_text_props(fontweight="bold", ha="left")
        elif column == 0:
            cell.set_text_props(color=strategy_style(rows[row - 1][0])[0], fontweight="bold")
        elif failed:
            cell.set_text_props(color="red", fontsize=7 if column == 5 else 9)
