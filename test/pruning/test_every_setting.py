"""Every key of `pruning.*` changes something: schedules, choices, scores or outputs.

A key that does not is dead.
"""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import SETTINGS
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.token_selection import ChosenTokens, pruner_for
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.baselines.condensed_grid import read_pooling
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.fitted import information_settings
from ada3d_ros.pruning.information import Masses, information_of
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import (
    LAYERS,
    SHAPE,
    WIDTH,
    config_of,
    generator,
    make_decoder,
    scene_3d,
    write_curve,
    write_pooling,
)

KEYS = tuple(name.removeprefix("pruning.") for name in SETTINGS if name.startswith("pruning."))
REFUSE = {"adatoken3d.on_degenerate": "error"}  # a fallback would hide a key
FITTED = {
    **REFUSE,
    "adatoken3d.schedule": "fitted",
    "adatoken3d.calibration_file": "falling.yaml",
    "keep_ratio": 0.33,
}
PER_SCENE = {
    **REFUSE,
    "adatoken3d.schedule": "fitted",
    "adatoken3d.calibration": "per_scene",
    "keep_ratio": 0.33,
}
PARAMETERS = {"adatoken3d.budget.mode": "parameters"}
STAGES = {"adatoken3d.schedule": "stages", "adatoken3d.stage_layers": "2,4,6"}
ENDPOINT = {"adatoken3d.budget.mode": "endpoint"}

# key -> (a value that is not the default, the settings under which the key is looked at)
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "strategy": ("pdrop", {}),
    "keep_ratio": (0.6, {}),
    "pre_keep_ratio": (0.9, {"strategy": "uniform+adatoken3d"}),
    "n_min": (40, {}),
    "order": ("selection", {"strategy": "geo_fps"}),
    "pre_positions": ("original", {"strategy": "uniform", "keep_ratio": 0.5}),
    "seed": (7, {"strategy": "random"}),
    "adatoken3d.schedule": ("quadratic", {"keep_ratio": 0.8}),
    "adatoken3d.alpha": (0.6, PARAMETERS),
    "adatoken3d.beta": (0.4, PARAMETERS),
    "adatoken3d.M": (0.05, {}),
    "adatoken3d.stage_layers": ("3,5", STAGES | {"keep_ratio": 0.6}),
    "adatoken3d.stage_ratios": (
        "0.8,0.3,0.1",
        STAGES | PARAMETERS | {"adatoken3d.stage_ratios": "0.9,0.5,0.2"},
    ),
    "adatoken3d.budget.mode": ("flops", {"adatoken3d.budget.value": 0.5}),
    "adatoken3d.budget.value": (0.5, ENDPOINT),
    "adatoken3d.budget.semantics": ("mean_retained", ENDPOINT | {"adatoken3d.budget.value": 0.5}),
    "adatoken3d.inf.a1": (3.0, PER_SCENE),
    "adatoken3d.inf.a2": (0.1, PER_SCENE),
    "adatoken3d.inf.sigma": (0.3, PER_SCENE),
    "adatoken3d.inf.gamma": (0.05, PER_SCENE),
    "adatoken3d.inf.eps": (2.0, PER_SCENE),
    "adatoken3d.inf.alpha_f": (3.0, PER_SCENE),
    "adatoken3d.inf.query_stride": (1, PER_SCENE),
    "adatoken3d.fit.lam": (100.0, FITTED),
    "adatoken3d.fit.L0": (3.0, PARAMETERS),
    "adatoken3d.fit.r_min": (0.2, FITTED),
    "adatoken3d.fit.alpha": ([0.5, 0.6], FITTED),
    "adatoken3d.fit.beta": ([0.001, 0.02], FITTED),
    "adatoken3d.fit.M": ([0.2, 1.0], FITTED),
    "adatoken3d.fit.beta_l2": (50.0, FITTED),
    "adatoken3d.prune_layers": ("2,5", {}),
    "adatoken3d.first_prune_layer": (4, {"keep_ratio": 0.6}),
    "adatoken3d.rank.score": ("logit_mean", {}),
    "adatoken3d.rank.query": ("all", {}),
    "adatoken3d.rank.rope": (False, {}),
    "adatoken3d.positions": ("compact", {}),
    "adatoken3d.calibration": ("per_scene", FITTED),
    "adatoken3d.calibration_file": ("steep.yaml", FITTED),
    "adatoken3d.on_degenerate": (
        "flat",
        FITTED
        | {
            "adatoken3d.calibration_file": "rising.yaml",
            "adatoken3d.on_degenerate": "fallback",
        },
    ),
    "fastv.k": (4, {"strategy": "fastv", "keep_ratio": 0.6}),
    "fastv.round": ("floor", {"strategy": "fastv", "keep_ratio": 0.6}),
    "pdrop.layers": ("1,5", {"strategy": "pdrop"}),
    "pdrop.ratios": ("0.6,0.5,0.4", {"strategy": "pdrop"}),
    "pdrop.positions": ("original", {"strategy": "pdrop"}),
    "logistic.slope_min": (6.0, {"strategy": "logistic"}),
    "logistic.slope_max": (90.0, {"strategy": "logistic"}),
    "logistic.midpoint": (0.6, {"strategy": "logistic"}),
    "voxel_dpp.merge": (False, {"strategy": "voxel_dpp"}),
    "voxel_dpp.merge_radius_voxels": (1.0, {"strategy": "voxel_dpp"}),
    "geo_fps.lam": (0.95, {"strategy": "geo_fps"}),
    "geo_fps.salient_share": (0.5, {"strategy": "geo_fps"}),
    "kitoke.bandwidth": (2.0, {"strategy": "kitoke"}),
    "kitoke.merge_radius_voxels": (1.0, {"strategy": "kitoke"}),
    "holitom.tau": (0.0, {"strategy": "holitom"}),
    "holitom.neighbours": (2, {"strategy": "holitom"}),
    "condensed_grid.file": ("pooling.safetensors", {"strategy": "condensed_grid"}),
}

Outcome = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _in_a_folder_with_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.linspace(0, 1, LAYERS)
    for name, curve in (("falling", (1 - x) ** 1.5), ("steep", (1 - x) ** 6), ("rising", x)):
        write_curve(tmp_path / f"{name}.yaml", curve)
    write_pooling(tmp_path / "pooling.safetensors", scene_3d(2).features.shape[1])
    read_pooling.cache_clear()  # the name is the same in every test's folder
    monkeypatch.chdir(tmp_path)


@functools.cache
def falling_decoder() -> Any:
    """Random weights, deeper queries drawn ever more to the first token: information falls."""
    decoder = make_decoder()
    decoder.embed_tokens.weight[0] = 0.0
    for layer, block in enumerate(decoder.layers):
        block.self_attn.o_proj.weight *= 0.1
        block.mlp.down_proj.weight *= 0.1
        block.self_attn.k_proj.weight[:, 0] = 1.0
        block.self_attn.q_proj.weight[:, 1] = 0.25 * layer
    return decoder


MADE: dict[str, Outcome] = {}


def outcome(flat: dict[str, Any]) -> Outcome:
    """What `made_anew` gave for these settings; the curves' files are the same in every test."""
    key = repr(sorted(flat.items()))
    if key not in MADE:
        MADE[key] = made_anew(flat)
    return MADE[key]


def made_anew(flat: dict[str, Any]) -> Outcome:
    """All that a question's answer depends on: choice, tokens, every layer's counts, logits."""
    policy, scene = Policy.from_config(config_of(flat)), scene_3d(147)
    features, chosen = scene.features, torch.arange(147)
    if policy.num_kept_pre_llm(147) < 147:
        selection = policy.select(scene)
        features, chosen = selection.merge(scene.features), selection.kept
    made = generator(8)
    project = torch.randn(features.shape[1], WIDTH, generator=made) / 4
    words = torch.randn(10, WIDTH, generator=made)
    embeds = torch.cat((words[:3], features @ project, words[3:]))
    embeds[:, 0], embeds[:, 1] = 0.0, 2.0
    embeds[:3, 0] = 4.0
    prompt = PromptSequence(embeds, torch.arange(len(embeds)), (3, 3 + len(chosen)))
    if policy.config.pre_positions == "original":
        places = torch.ones(len(chosen), dtype=torch.int64)
        tokens = SpatialTokens(features, scene.xyz_m[chosen], places, 0.2)
        prompt = replace(prompt, positions=ChosenTokens(tokens, chosen, 147).positions(prompt))
    stride = policy.config.adatoken3d.inf.query_stride
    decoder = falling_decoder()
    information = None
    if policy.per_scene:
        masses = measure_information(decoder, prompt, stride)
        information = tuple(
            map(float, information_of(masses, information_settings(policy.config.adatoken3d)).I)
        )
    pruner = pruner_for(decoder, policy, prompt, 147, information)
    filled = prefill(decoder, prompt, pruner=pruner)
    shares = pruner.schedule.retention if pruner is not None else ()
    return {
        "chosen": chosen,
        "features": features,
        "shares": torch.tensor(shares),
        "counts": torch.tensor(filled.counts),
        "kept": torch.cat(filled.kept),
        "positions": torch.tensor(filled.next_positions),
        "logits": filled.logits,
    }


def differs(a: Outcome, b: Outcome) -> list[str]:
    return [
        name
        for name in a
        if a[name].shape != b[name].shape
        or not torch.allclose(a[name].double(), b[name].double(), atol=1e-6, rtol=0.0)
    ]


def test_every_key_is_looked_at() -> None:
    assert sorted(CHANGES) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_an_effect(key: str) -> None:
    value, around = CHANGES[key]
    base = {"n_min": 2, **around}
    assert value != base.get(key, SETTINGS[f"pruning.{key}"].default)
    assert differs(outcome(base), outcome({**base, key: value}))


@pytest.mark.parametrize("around", [{}, {"strategy": "voxel_dpp+logistic"}, PER_SCENE])
def test_nothing_else_makes_a_difference(around: dict[str, Any]) -> None:
    assert not differs(made_anew(around), made_anew(around))


WHAT = {  # the part of the outcome that a key must change, where several could hide it
    "adatoken3d.rank.score": "kept",
    "adatoken3d.rank.query": "kept",
    "adatoken3d.rank.rope": "kept",
    "adatoken3d.positions": "positions",
    "pdrop.positions": "positions",
    "fastv.round": "counts",
    "n_min": "counts",
    "pre_positions": "positions",
    "voxel_dpp.merge": "features",
    "voxel_dpp.merge_radius_voxels": "features",
    "geo_fps.lam": "chosen",
    "geo_fps.salient_share": "chosen",
    "kitoke.bandwidth": "chosen",
    "kitoke.merge_radius_voxels": "features",
    "holitom.tau": "chosen",
    "holitom.neighbours": "chosen",
    "condensed_grid.file": "features",
    "order": "chosen",
    "seed": "chosen",
    "adatoken3d.fit.beta_l2": "shares",
    "adatoken3d.inf.query_stride": "shares",
    "logistic.slope_min": "counts",
    "logistic.slope_max": "counts",
}


@pytest.mark.parametrize("key", WHAT)
def test_a_key_changes_what_it_is_about(key: str) -> None:
    value, around = CHANGES[key]
    base = {"n_min": 2, **around}
    assert WHAT[key] in differs(outcome(base), outcome({**base, key: value}))


def test_seed_is_that_of_rank_score_random_too() -> None:
    base = {"adatoken3d.rank.score": "random"}
    assert "kept" in differs(outcome(base), outcome({**base, "seed": 7}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("a1", 3.0), ("a2", 0.1), ("sigma", 0.3), ("gamma", 0.05), ("eps", 2.0), ("alpha_f", 3.0)],
)
def test_the_weights_of_information_act_on_a_file_too(
    tmp_path: Path, key: str, value: float
) -> None:
    """The file holds masses; its stored curve alone would leave inf.* without effect."""
    S_self = (0.7, 0.6, 0.45, 0.4, 0.3, 0.28, 0.2, 0.18)
    masses = tuple(Masses(s, 0.9 * s**2, 1 - s) for s in S_self)
    curve = tuple(float(v) for v in information_of(masses).I)
    budget = {"mode": "mean", "value": 0.41}
    file = write_calibration(
        tmp_path / "masses.yaml",
        Calibration(
            "tiny", "", curve, curve, masses, curve, {"alpha": 0.8}, budget, 0.41, samples=1
        ),
    )
    settings = {
        "adatoken3d.schedule": "fitted",
        "adatoken3d.calibration_file": str(file),
        "adatoken3d.on_degenerate": "flat",
    }
    curves = [
        Policy.from_config(config_of({**settings, **extra}), 0.41).pruner(SHAPE)
        for extra in ({}, {f"adatoken3d.inf.{key}": value})
    ]
    assert curves[0] is not None
    assert curves[1] is not None
    difference = np.subtract(curves[0].schedule.retention, curves[1].schedule.retention)
    assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("base", [FITTED, {}], ids=["fitted", "fixed"])
def test_L0_is_an_onset_under_a_budget_too(base: dict[str, Any]) -> None:
    """The layers before it see all tokens, the budget is met by the others."""
    usual = outcome({**base, "keep_ratio": 0.6})["shares"].numpy()
    shares = outcome({**base, "keep_ratio": 0.6, "adatoken3d.fit.L0": 4.0})["shares"].numpy()
    assert (shares[:3] == 1.0).all()
    assert usual[1] < 1.0
    assert shares[4] < shares[3]
    assert shares.mean() == pytest.approx(0.6, abs=1e-5)


def test_the_parameters_are_used_as_written() -> None:
    flat = PARAMETERS | {
        "adatoken3d.alpha": 0.7,
        "adatoken3d.beta": 0.3,
        "adatoken3d.M": 0.1,
        "adatoken3d.fit.L0": 2.0,
    }
    i = np.arange(1, LAYERS + 1)
    expected = np.minimum(1.0, 0.7 * np.exp(-0.3 * (i - 2.0)) + 0.1)
    expected[0] = 1.0
    shares = outcome(flat)["shares"].numpy()
    assert np.abs(shares - np.minimum.accumulate(expected)).max() < 1e-6


@pytest.mark.parametrize("key", KEYS)
def test_a_value_out_of_range_names_key_value_and_range(key: str) -> None:
    setting = SETTINGS[f"pruning.{key}"]
    if setting.choices or setting.pattern:
        bad: Any = "nonsense"
    elif isinstance(setting.default, bool):
        bad = "yes"
    elif isinstance(setting.default, str):
        bad = 5  # calibration_file: any text is a path
    elif isinstance(setting.default, tuple):
        bad = [0.1, math.nan]
    else:
        bad = (setting.high or 0) + 1
    with pytest.raises(ConfigError) as error:
        config_of({key: bad})
    for part in (
        f"pruning.{key} = ",
        repr(bad) if not isinstance(bad, list) else "nan",
        "allowed: ",
        "(default ",
    ):
        assert part in str(error.value)


def test_shape_of_the_decoder_used_here() -> None:
    config = falling_decoder().config
    assert (config.num_layers, config.hidden_size) == (SHAPE.num_layers, WIDTH)
