"""Pictures of figure 4: surviving tokens on the views and in the room, and how much of the room
they cover.
"""

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
    """Per keep ratio one picture of coverage; per scene and keep ratio one of the views and one of
    the room.
    """
    data, files = results["survival"], []
    for ratio in results["keep_ratios"]:
        files.append(draw_coverage(results, ratio, out / f"survival_coverage_keep{ratio:g}.png"))
        for scene, facts in enumerate(results["scenes"]):
            rows = [
                row for row in data["rows"] if row["scene"] == scene and row["keep_ratio"] == ratio
            ]
            ending = (
                f"{scene + 1}_{re.sub(r'[^A-Za-z0-9._-]+', '-', facts['name'])}_keep{ratio:g}.png"
            )
            files.append(draw_views(results, arrays, rows, out / f"survival_views_{ending}"))
            files.append(draw_map(results, arrays, rows, out / f"survival_map_{ending}"))
    return files


def mark_dropped(image: Image, states: npt.NDArray[np.int8], outline: str = "#FFFFFF") -> Image:
    """The image (S, S, 3) with patches of states (P,) 0 darkened and -1 greyed out; 1 stays as it
    is, with a line of the colour `outline` where it ends, so that a black object shows too.
    """
    side, per_side = image.shape[0], round(len(states) ** 0.5)
    place = np.minimum(np.arange(side) * per_side // side, per_side - 1)
    state = states.reshape(per_side, per_side)[place[:, None], place]
    grey = (1 - NO_TOKEN) * image + NO_TOKEN * 225.0
    shown = np.where(
        state[..., None] == 0, DARKNESS * image, np.where(state[..., None] < 0, grey, image)
    )
    shown[_border(state == 1, max(1, side // 112))] = [
        int(outline[i : i + 2], 16) for i in (1, 3, 5)
    ]
    return shown.round().astype(np.uint8)


def _border(inside: npt.NDArray[np.bool_], width_px: int) -> npt.NDArray[np.bool_]:
    """The pixels (S, S) of `inside` within width_px of one outside, up, down, left or right; the
    image's edge is none.
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
        color = strategy_style(row["strategy"])[0]
        outline = "#FFFFFF" if color == BLACK else color  # black would not show on what is dark
        states = patch_states(
            patch_token, arrays[mask_name(scene, row["strategy"], row["keep_ratio"])]
        )
        for axes, image, state in zip(line, views, states, strict=True):
            axes.imshow(mark_dropped(image, state, outline), interpolation="nearest")
        line[0].set_ylabel(
            row_label(row, total),
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
            fontweight="bold",
        )
        line[0].yaxis.label.set_color(color)
    meaning = (
        "bright, outlined: token alive in the last layer   dark: dropped   light grey: no depth, so"
        " no token"
    )
    figure.supxlabel(meaning, fontsize=10)
    set_title(figure, _title(results, rows[0]), results, 1)
    return save(figure, path)


def _title(results: Results, row: Results) -> str:
    question = textwrap.shorten(results["survival"]["drawn_question"], 80)
    return (
        f"Surviving spatial tokens of {row['scene_name']} at keep ratio"
        f" {row['keep_ratio']:g}\n“{question}”"
    )


def row_label(row: Results, total: int) -> str:
    """Strategy, tokens alive in the last layer and cells that they cover, for the drawn question."""
    kind = " (merging)" if row["merges"] else ""
    return (
        f"{row['strategy']}{kind}\n{row['drawn']['tokens']} of {total}"
        f" tokens\n{row['drawn']['coverage']:.0%} of cells"
    )


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
    """Per strategy the room from above and, below it, from the side; kept tokens in the strategy's
    colour.
    """
    scene = rows[0]["scene"]
    xyz_m, camera_m = arrays[f"scene{scene}.xyz_m"], arrays[f"scene{scene}.camera_m"]
    bands = -(-len(rows) // PER_ROW)
    columns = min(PER_ROW, len(rows))
    wide, high_above, high_side = (float(np.ptp(xyz_m[:, axis])) + 1.0 for axis in range(3))
    height_in = (
        3.4 * min((high_above + high_side) / wide, 2.5) + 2.0
    )  # a corridor along y does not fill a wall
    figure = new_figure(3.9 * columns, bands * height_in + 1.2)
    grid = figure.subplots(
        2 * bands, columns, squeeze=False, height_ratios=[high_above, high_side] * bands
    )
    for index in range(bands * columns):
        band, column = divmod(index, columns)
        above, side = grid[2 * band, column], grid[2 * band + 1, column]
        if index >= len(rows) or rows[index]["error"]:
            above.set_axis_off()
            side.set_axis_off()
            if index < len(rows):
                text = (
                    f"{rows[index]['strategy']}: nothing"
                    f" drawn.\n{textwrap.fill(rows[index]['error'], 38)}"
                )
                above.text(
                    0.5,
                    0.5,
                    text,
                    transform=above.transAxes,
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="red",
                )
            continue
        row = rows[index]
        kept = arrays[mask_name(scene, row["strategy"], row["keep_ratio"])]
        above.set_title(row_label(row, len(xyz_m)), fontsize=10)
        for axes, vertical in ((above, 1), (side, 2)):
            _scatter(axes, xyz_m[:, [0, vertical]], kept, row["strategy"])
            axes.plot(camera_m[:, 0], camera_m[:, vertical], color="red", linewidth=0.8, alpha=0.6)
            axes.set_xlabel("x (m)")
        above.set_ylabel("y (m)")
        side.set_ylabel("z (m)")
    legend = (
        "from above, and below that from the side; coloured: alive in the last layer, grey:"
        " dropped, red line: camera path"
    )
    figure.supxlabel(legend, fontsize=10)
    set_title(figure, _title(results, rows[0]), results, 1)
    return save(figure, path)


def _scatter(
    axes: Axes, points_m: npt.NDArray[Any], kept: npt.NDArray[np.bool_], label: str
) -> None:
    for chosen, size, color in ((~kept, 5, DROPPED_COLOR), (kept, 14, strategy_style(label)[0])):
        axes.scatter(points_m[chosen, 0], points_m[chosen, 1], s=size, color=color, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.2)


def draw_coverage(results: Results, keep_ratio: float, path: Path) -> Path:
    """Coverage and position bias by layer, means over scenes and questions, and a table of the last
    layer with spreads.
    """
    data = results["survival"]
    layers = list(range(1, results["num_layers"] + 1))
    figure = new_figure(14, 9.5)
    mosaic: list[Any] = [["coverage", "bias"], ["legend", "legend"], ["table", "table"]]
    panels = figure.subplot_mosaic(mosaic, height_ratios=(1.7, 0.1, 1.1))
    table: list[list[str]] = []
    for label in data["labels"]:
        rows = [
            row
            for row in data["rows"]
            if row["strategy"] == label and row["keep_ratio"] == keep_ratio
        ]
        good = [row for row in rows if not row["error"]]
        if not good:
            table.append([label, "not possible", "", "", "", textwrap.fill(rows[0]["error"], 64)])
            continue
        table.append(_table_row(label, good))
        color, marker = strategy_style(label)
        line = "--" if label in ("random", "uniform", "ada-unroped") else "-"
        for name, panel in (("coverage", "coverage"), ("position_bias", "bias")):
            panels[panel].plot(
                layers,
                over_scenes(good, name)["mean"],
                color=color,
                marker=marker,
                markersize=5,
                linestyle=line,
                label=label,
            )
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
    set_title(
        figure, f"How much of the room survives at keep ratio {keep_ratio:g}", results, data["n"]
    )
    return save(figure, path)


def over_scenes(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Mean per layer of the scenes' means; the spread is over scenes where there are several, else
    over questions.
    """
    means = np.stack([numbers(row[name]["mean"]) for row in rows])
    if len(rows) > 1:
        return {"mean": means.mean(axis=0).tolist(), "std": means.std(axis=0, ddof=1).tolist()}
    return {"mean": means[0].tolist(), "std": rows[0][name]["std"]}


def _table_row(label: str, rows: list[dict[str, Any]]) -> list[str]:
    """One strategy in the last layer: mean over scenes, ± one standard deviation where there is
    one.
    """

    def cell(name: str, scale: float, digits: int, unit: str) -> str:
        found = over_scenes(rows, name)
        std = (found["std"] or [None])[-1]
        return f"{scale * found['mean'][-1]:.{digits}f}{unit}" + (
            "" if std is None else f" ± {scale * std:.{digits}f}"
        )

    achieved = np.mean([row["keep_ratio_achieved"] for row in rows])
    tokens = np.mean([row["counts"][-1] for row in rows])
    note = "tokens not kept are merged into those kept" if rows[0]["merges"] else ""
    if not rows[0]["depends_on_question"]:
        note = "; ".join(filter(None, ("one choice for all questions", note)))
    bias = cell("position_bias", 1, 3, "")
    return [label, f"{achieved:.3f}", f"{tokens:.0f}", cell("coverage", 100, 1, " %"), bias, note]


def _draw_table(axes: Axes, cell_size: str, rows: list[list[str]]) -> None:
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
