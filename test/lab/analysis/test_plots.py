"""Pictures from made-up data: files of a sensible size, honest titles, a colour per strategy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ada3d_ros.config.pruning import STRATEGIES as ALL_STRATEGIES
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.plots import (
    STRATEGY_STYLES,
    draw_agreement,
    draw_allocation,
    draw_contribution,
    draw_figures,
    new_figure,
    save,
    set_title,
    standard_error,
    strategy_style,
)
from ada3d_ros.lab.analysis.survival import STRATEGIES, mask_name, patch_states
from ada3d_ros.lab.analysis.survival_plots import DARKNESS, mark_dropped, over_scenes

LAYERS = [1, 2, 3]
HEAD: dict[str, Any] = {
    "model": "toy $1 and $2",
    "random_weights": False,
    "n": 1,
    "num_layers": 3,
    "keep_ratios": [0.4],
    "scenes": [{"name": "room:0"}],
}


def measured(values: list[float], std: list[float | None] | None = None) -> dict[str, Any]:
    return {"n": 1, "mean": values, "std": std or [None] * len(values), "of_mean_masses": values}


def contribution() -> dict[str, Any]:
    names = ("S_self", "S_sp", "S_ss", "S_cross", "F", "INF", "I")
    retention = [
        {
            "keep_ratio": 0.4,
            "fitted": {"error": "keep_ratio = 0.4 cannot be met on this decoder."},
            "fixed": {"curve": [1, 0.1, 0.1], "mean": 0.4},
            "used": "fixed",
        }
    ]
    curves = {name: measured([0.9, 0.5, 0.1]) for name in names}
    return {
        "n": 1,
        "stride": 10,
        "layers": LAYERS,
        "falls_with_depth": True,
        "retention": retention,
        **curves,
    }


def allocation() -> dict[str, Any]:
    keys = ("system", "spatial", "prompt", "answer")
    some = {key: measured([0.25] * 3, [0.1] * 3) for key in keys}
    none: dict[str, Any] = {key: {"n": 0, "mean": [None] * 3, "std": [None] * 3} for key in keys}
    counts = dict.fromkeys(keys, 10.0)
    return {
        "n": 1,
        "n_with_answer": 0,
        "layers": LAYERS,
        "mean_tokens": counts,
        "attention": {"spatial": some, "prompt": some, "answer": none},
    }


def agreement() -> dict[str, Any]:
    def point(share: float) -> dict[str, Any]:
        number = {"n": 4, "mean": 1 - share, "std": 0.2}
        return {
            "share": share,
            "dropped": {**number, "mean": share},
            "identical": number,
            "prefix": number,
            "kl_nats": number,
        }

    points = [point(share) for share in (0.0, 0.5)]
    curves = [{"layer": 1, "ranking": name, "points": points} for name in ("adatoken3d", "random")]
    return {"n": 4, "layers": [1], "curves": curves}


def survival() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "scene0.views": generator.integers(0, 255, (2, 56, 56, 3)).astype(np.uint8),
        "scene0.patch_token": generator.integers(-1, 30, (2, 16)),
        "scene0.xyz_m": generator.uniform(-2, 2, (30, 3)).astype(np.float32),
        "scene0.camera_m": generator.uniform(-1, 1, (5, 3)).astype(np.float32),
        mask_name(0, "adatoken3d", 0.4): generator.random(30) < 0.3,
    }
    drawn = {"tokens": 9, "coverage": 0.3, "position_bias": 0.6}
    row = {"scene": 0, "scene_name": "room:0", "keep_ratio": 0.4}
    rows = [
        {
            **row,
            "strategy": "adatoken3d",
            "error": "",
            "merges": False,
            "depends_on_question": True,
            "drawn": drawn,
            "counts": [30, 9, 9],
            "keep_ratio_achieved": 0.4,
            "coverage": measured([1, 0.3, 0.3]),
            "position_bias": measured([0.5, 0.6, 0.6]),
        },
        {**row, "strategy": "fastv", "error": "keep_ratio = 0.4 cannot be met on this decoder."},
    ]
    data = {
        "n": 1,
        "cell_m": 0.5,
        "labels": ["adatoken3d", "fastv"],
        "drawn_question": "What costs $5?",
        "rows": rows,
    }
    return data, arrays


def test_every_figure_is_a_readable_picture(tmp_path: Path) -> None:
    """Also with one sample, no answers, and a strategy that does not work."""
    data, arrays = survival()
    results = {
        **HEAD,
        "contribution": contribution(),
        "allocation": allocation(),
        "agreement": agreement(),
        "survival": data,
    }
    files = draw_figures(results, arrays, tmp_path)
    assert [file.name for file in files] == [
        "contribution.png",
        "allocation.png",
        "agreement.png",
        "survival_coverage_keep0.4.png",
        "survival_views_1_room-0_keep0.4.png",
        "survival_map_1_room-0_keep0.4.png",
    ]
    for file in files:
        with Image.open(file) as image:
            image.load()
            assert image.format == "PNG"
            assert 500 <= image.width <= 4000
            assert 400 <= image.height <= 4000
            assert np.asarray(image.convert("L")).std() > 5  # not blank


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert draw_figures({**HEAD, "allocation": allocation()}, {}, tmp_path) == [
        tmp_path / "allocation.png"
    ]


@pytest.mark.parametrize(
    ("name", "data", "draw"),
    [
        ("contribution", contribution(), draw_contribution),
        ("allocation", allocation(), draw_allocation),
        ("agreement", agreement(), draw_agreement),
    ],
)
def test_random_weights_are_said_in_red(
    name: str, data: dict[str, Any], draw: Any, tmp_path: Path
) -> None:
    def red(random_weights: bool) -> int:
        path = draw(
            {**HEAD, "random_weights": random_weights, name: data}, tmp_path / f"{name}.png"
        )
        with Image.open(path) as image:
            top = np.asarray(image.convert("RGB"))[:75].astype(int)
        return int(((top[..., 0] > 200) & (top[..., 1] < 80) & (top[..., 2] < 80)).sum())

    assert red(True) > 500
    assert red(False) == 0


def test_titles_name_the_model_and_n(tmp_path: Path) -> None:
    figure = new_figure(6, 4)
    set_title(figure, "Something", HEAD, 12)
    assert figure.get_suptitle() == "Something\nmodel toy $1 and $2, n = 12"
    set_title(figure, "Something", {**HEAD, "random_weights": True}, 12)
    assert figure.get_suptitle().endswith("RANDOM WEIGHTS: curves mean nothing")
    assert save(figure, tmp_path / "empty.png").is_file()  # a dollar sign is no formula


def test_strategies_have_colours_of_their_own_that_stay() -> None:
    assert set(STRATEGY_STYLES) == {*STRATEGIES, *ALL_STRATEGIES}
    assert len({color for color, _ in STRATEGY_STYLES.values()}) == len(STRATEGY_STYLES)
    assert len({marker for _, marker in STRATEGY_STYLES.values()}) == len(STRATEGY_STYLES)
    joined = strategy_style("voxel_dpp+adatoken3d")
    assert joined == strategy_style("voxel_dpp+adatoken3d")
    assert joined[0] not in {color for color, _ in STRATEGY_STYLES.values()}


def test_dropped_patches_are_darkened_and_kept_ones_are_not() -> None:
    image = np.full((56, 56, 3), 200, np.uint8)
    patch_token = np.array([[0, 1, -1, 2] * 4])
    states = patch_states(patch_token, np.array([True, False, True]))[0]
    assert states.tolist() == [1, 0, -1, 1] * 4
    shown = mark_dropped(image, states, "#0072B2")
    assert (shown[:, 14:28] == round(200 * DARKNESS)).all()
    assert (shown[:, 28:42] > 200).all()  # no token: towards light grey
    assert (shown[:, :13] == 200).all()
    assert (shown[:, 13] == (0, 0x72, 0xB2)).all()  # where the kept part ends
    assert (shown[:, 42] == (0, 0x72, 0xB2)).all()
    assert (shown[:, 43:] == 200).all()


def test_spread_over_scenes_and_standard_errors() -> None:
    rows = [{"coverage": measured([1.0, 0.4])}, {"coverage": measured([1.0, 0.2])}]
    found = over_scenes(rows, "coverage")
    assert found["mean"] == pytest.approx([1.0, 0.3])
    assert found["std"] == pytest.approx([0.0, 0.02**0.5])
    assert over_scenes(rows[:1], "coverage")["std"] == [None, None]
    assert standard_error([{"n": 4, "mean": 1.0, "std": 0.2}]) == {
        "mean": [1.0],
        "std": [pytest.approx(0.1)],
    }


def test_without_matplotlib_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="matplotlib cannot be imported"):
        new_figure(4, 3)
