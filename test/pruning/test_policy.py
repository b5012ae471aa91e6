"""From settings to a strategy: names, budgets, compositions, and what is refused in which words."""

import itertools
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config.pruning import COMPOSED
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.cost import DecoderShape, cost_of
from ada3d_ros.pruning.policy import (
    Policy,
    check_policy,
    describe_policy,
    planned_retention,
    split_name,
)
from ada3d_ros.pruning.strategy import Candidates
from ada3d_ros.types import PromptSequence
from test.support.decoders import (
    INNER,
    LAYERS,
    PRE,
    SHAPE,
    WIDTH,
    config_of,
    generator,
    make_decoder,
    make_prompt,
    policy_of,
    scene_2d,
    scene_3d,
    write_curve,
)

FALLING, RISING = np.linspace(1, 0, LAYERS), np.linspace(0, 1, LAYERS)
FITTED: dict[str, Any] = {"adatoken3d__schedule": "fitted"}
PAIRS = [f"{pre}+{inner}" for pre, inner in itertools.product(PRE, INNER)]


def run(policy: Policy, scene: Candidates, text: int = 6) -> tuple[PrefillOutput, torch.Tensor]:
    """Scene -> choice -> prompt -> pruned prefill; the indices into the scene that entered."""
    total = len(scene.features)
    features, kept = scene.features, torch.arange(total)
    if policy.num_kept_pre_llm(total) < total:
        selection = policy.select(scene)
        features, kept = selection.merge(scene.features), selection.kept
    project = torch.randn(features.shape[1], WIDTH, generator=generator(9)) / 4
    words = torch.randn(3 + text, WIDTH, generator=generator(10))
    embeds = torch.cat((words[:3], features @ project, words[3:]))
    prompt = PromptSequence(
        embeds, torch.arange(len(embeds)), (3, 3 + len(kept)), scene.xyz_m[kept]
    )
    pruner = policy.pruner(SHAPE, len(kept), total, 3 + text)
    return prefill(make_decoder(), prompt, pruner=pruner), kept


# -- every strategy, every composition


@pytest.mark.parametrize("scene", [scene_3d(210), scene_2d(14)], ids=["3d", "2d"])
@pytest.mark.parametrize("ratio", [0.35, 0.7])
@pytest.mark.parametrize("strategy", [*PRE, *INNER, *PAIRS, *COMPOSED])
def test_every_strategy_keeps_what_was_asked(
    strategy: str, ratio: float, scene: Candidates
) -> None:
    """The mean over layers of kept / all: at most what was asked, less at most a token of rounding.

    coarse_voxels: less the tokens that whole voxels leave over. Counts are legal, indices
    ascending, unique and nested.
    """
    total = len(scene.features)
    output, entered = run(policy_of(strategy, ratio, n_min=4), scene)
    counts = output.counts
    assert len(counts) == LAYERS
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[0] == len(entered) == len(entered.unique())
    assert counts[-1] >= 4
    achieved = sum(counts) / LAYERS / total
    pre_llm, in_llm = split_name(strategy)
    # n_min holds more; FastV rounds to the nearest.
    slack = 4.0 if counts[-1] == 4 else 0.5 if in_llm == "fastv" else 0.0
    assert achieved <= ratio + slack / total + 1e-9
    left_over = ratio - min(ratio, len(entered) / total) if pre_llm == "coarse_voxels" else 0.0
    assert achieved > ratio - left_over - 1.0 / total
    assert left_over < 0.2 * ratio
    assert entered.tolist() == sorted(entered.tolist())
    for before, after in itertools.pairwise(output.kept):
        assert after.tolist() == sorted(set(after.tolist()))
        assert set(after.tolist()) <= set(before.tolist())
    if in_llm:
        assert counts[-1] < counts[0]


def test_names_are_split() -> None:
    assert split_name("none") == ("", "")
    assert split_name("voxel_dpp") == ("voxel_dpp", "")
    assert split_name("pdrop") == ("", "pdrop")
    assert split_name("geo_fps+fastv") == ("geo_fps", "fastv")
    assert split_name("adatoken3d_plus") == ("voxel_dpp", "adatoken3d")
    assert not policy_of("none").prunes


def test_what_enters_the_language_model() -> None:
    assert policy_of("voxel_dpp", 0.3).num_kept_pre_llm(200) == 60
    assert policy_of("voxel_dpp+pdrop", 0.36).num_kept_pre_llm(200) == 120  # the square root
    assert policy_of("voxel_dpp+pdrop", 0.36, pre_keep_ratio=0.5).num_kept_pre_llm(200) == 100
    assert policy_of("adatoken3d_plus", 0.1).num_kept_pre_llm(200) == 40  # twice
    assert policy_of("adatoken3d_plus", 0.1, pre_keep_ratio=0.3).num_kept_pre_llm(200) == 60
    assert policy_of("adatoken3d_plus", 0.36).num_kept_pre_llm(200) == 120  # the square root
    assert policy_of("pdrop", 0.3).num_kept_pre_llm(200) == 200
    assert policy_of("voxel_dpp", 0.3).num_kept_pre_llm(20) == 8  # n_min
    assert policy_of("voxel_dpp", 0.3).num_kept_pre_llm(5) == 5
    assert policy_of("voxel_dpp", 0.3).num_kept_pre_llm(0) == 0
    assert policy_of("voxel_dpp", 1.0).num_kept_pre_llm(200) == 200
    assert policy_of("voxel_dpp", 0.29).num_kept_pre_llm(100) == 29


@pytest.mark.parametrize("mode", ["endpoint", "flops"])
@pytest.mark.parametrize("schedule", ["fixed", "fitted", "quadratic", "stages"])
def test_budget_modes_meet_their_value(mode: str, schedule: str, tmp_path: Path) -> None:
    """What counts and costs say, not what the solver says."""
    curve = write_curve(tmp_path / "curve.yaml", (1 - np.linspace(0, 1, LAYERS)) ** 3)
    value = 0.75 if schedule == "quadratic" else 0.4
    policy = policy_of(
        "adatoken3d",
        n_min=1,
        adatoken3d__schedule=schedule,
        adatoken3d__budget__mode=mode,
        adatoken3d__budget__value=value,
        adatoken3d__stage_layers="2,4,6",
        adatoken3d__calibration_file=str(curve),
    )
    pruner = policy.pruner(SHAPE, 5000, 5000, 60)
    assert pruner is not None
    counts = pruner.counts(5000, None)
    if mode == "endpoint":
        assert counts[-1] / 5000 == pytest.approx(value, abs=3e-4)
    else:
        cost = cost_of(SHAPE, counts, 60, 4)
        assert cost.prefill_flops / cost.unpruned_prefill_flops == pytest.approx(value, abs=3e-4)


@pytest.mark.parametrize(("schedule", "value"), [("fixed", 0.3), ("quadratic", 0.6)])
def test_endpoint_is_the_share_in_the_last_layer_with_prune_layers_too(
    schedule: str, value: float
) -> None:
    """`value in the last layer`: also where tokens may go behind layers 2 and 5 alone.

    quadratic: down to 0.49 there.
    """
    policy = policy_of(
        "adatoken3d",
        n_min=1,
        adatoken3d__schedule=schedule,
        adatoken3d__budget__mode="endpoint",
        adatoken3d__budget__value=value,
        adatoken3d__prune_layers="2,5",
    )
    pruner = policy.pruner(SHAPE, 1000, 1000)
    assert pruner is not None
    assert pruner.counts(1000, None)[-1] == pytest.approx(1000 * value, abs=1)


def test_flops_budget_is_a_share_of_the_unpruned_prompt_with_a_choice_before_it() -> None:
    """`value as the share of the unpruned prefill FLOPs`: of all tokens, not of what entered."""
    policy = policy_of(
        "uniform+adatoken3d",
        n_min=1,
        pre_keep_ratio=0.8,
        adatoken3d__budget__mode="flops",
        adatoken3d__budget__value=0.4,
    )
    pruner = policy.pruner(SHAPE, policy.num_kept_pre_llm(5000), 5000, 60)
    assert pruner is not None
    cost = cost_of(
        SHAPE, pruner.counts(policy.num_kept_pre_llm(5000), None), 60, 4, num_before_selection=5000
    )
    assert cost.prefill_flops / cost.unpruned_prefill_flops == pytest.approx(0.4, abs=2e-3)


@pytest.mark.parametrize(
    ("semantics", "value", "last", "mean"),
    [
        ("last_layer_retained", 0.3, 0.3, None),
        ("mean_retained", 0.4, None, 0.4),
        ("mean_dropped", 0.4, None, 0.6),
    ],
)
def test_three_readings_of_the_papers_ratio(
    semantics: str, value: float, last: float | None, mean: float | None
) -> None:
    flat = {"mode": "endpoint", "value": value, "semantics": semantics}
    policy = policy_of(
        "adatoken3d", n_min=1, **{f"adatoken3d__budget__{name}": v for name, v in flat.items()}
    )
    pruner = policy.pruner(SHAPE)
    assert pruner is not None
    if last is not None:
        assert pruner.schedule.retention[-1] == pytest.approx(last, abs=1e-9)
    if mean is not None:
        assert pruner.schedule.mean == pytest.approx(mean, abs=1e-8)


def test_planned_retention() -> None:
    assert planned_retention(config_of({"strategy": "none"}), SHAPE) == ()
    before = planned_retention(config_of({"strategy": "voxel_dpp", "keep_ratio": 0.5}), SHAPE)
    assert before == pytest.approx([0.5] * LAYERS, abs=1e-3)
    for name in ("adatoken3d", "geo_fps+pdrop"):
        found = planned_retention(config_of({"strategy": name, "keep_ratio": 0.5}), SHAPE)
        assert np.mean(found) == pytest.approx(0.5, abs=1e-3)
        assert list(found) == sorted(found, reverse=True)


# -- budgets out of reach


@pytest.mark.parametrize(
    ("strategy", "flat", "words"),
    [
        ("fastv", {}, "keep_ratio = 0.2 cannot be met on this decoder; allowed: 0.25 to 1"),
        ("pdrop", {}, "keep_ratio = 0.2 cannot be met on this decoder; allowed: 0.25 to 1"),
        (
            "adatoken3d",
            {"adatoken3d__first_prune_layer": 4},
            "keep_ratio = 0.2 cannot be met .* allowed: 0.375 to 1",
        ),
        (
            "adatoken3d",
            {"adatoken3d__schedule": "quadratic"},
            r"keep_ratio = 0.2 cannot be met .* allowed: 0\.\d+ to 1",
        ),
        ("logistic", {}, "keep_ratio = 0.05 cannot be met .* allowed: 0.125 to 1"),
        (
            "fastv",
            {"fastv__k": 8},
            "pruning.fastv.k = 8: this decoder has 8 layers; allowed: 1 to 7",
        ),
        ("pdrop", {"pdrop__layers": "2,9"}, "prune layer 9 is not .* behind layers 1 to 7"),
        ("pdrop", {"pdrop__layers": "4,2"}, r"stage layers \[4, 2\] must rise"),
        (
            "adatoken3d",
            {"adatoken3d__prune_layers": "4,12,24"},
            "prune layer 12 is not .* behind layers 1 to 7",
        ),
        (
            "adatoken3d",
            {"adatoken3d__schedule": "stages"},
            "prune layer 8 is not .* behind layers 1 to 7",
        ),
    ],
)
def test_settings_that_this_decoder_cannot_meet(
    strategy: str, flat: dict[str, Any], words: str
) -> None:
    ratio = 0.05 if strategy == "logistic" else 0.2
    with pytest.raises(ConfigError, match=words):
        check_policy(policy_of(strategy, ratio, **flat).config, SHAPE, ratio)


def test_the_bound_an_error_names_is_in_the_users_own_number() -> None:
    """With a choice before it, fastv gets keep_ratio / pre_keep_ratio.

    What the user wrote is what the error names.
    """
    with pytest.raises(ConfigError, match=r"keep_ratio = 0\.1 "):
        check_policy(
            config_of({"strategy": "uniform+fastv", "keep_ratio": 0.1, "pre_keep_ratio": 0.5}),
            SHAPE,
        )


def test_a_fitted_schedule_says_so_where_the_budget_is_out_of_reach(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens may only go behind layer 6 of 8: at least 0.75 is kept.

    The fixed schedule refuses 0.4; the fitted one must not keep 0.76 in silence.
    """
    curve = write_curve(tmp_path / "curve.yaml", FALLING)
    flat = {"adatoken3d__prune_layers": "6", "adatoken3d__calibration_file": str(curve)}
    with pytest.raises(ConfigError, match="cannot be met"):
        policy_of("adatoken3d", 0.4, **flat).pruner(SHAPE)
    message = ""
    with caplog.at_level(logging.WARNING):
        try:
            policy_of("adatoken3d", 0.4, **flat, **FITTED).pruner(SHAPE)
        except ConfigError as error:
            message = str(error)
    assert "0.4" in message + caplog.text


@pytest.mark.parametrize("strategy", [*INNER, *PAIRS, *COMPOSED])
@pytest.mark.parametrize("ratio", [0.1, 0.023, 0.0001])
def test_the_smallest_ratio_that_an_error_names_can_be_met(strategy: str, ratio: float) -> None:
    """For two joined it was computed for the ratio asked, of which one enters the square root."""
    config = policy_of(strategy, 1.0).config
    try:
        check_policy(config, SHAPE, ratio)
    except ConfigError as error:
        found = re.search(r"allowed: ([\d.]+) to 1", str(error))
        assert found is not None
        least = float(found[1])
        assert least > ratio
        check_policy(config, SHAPE, least)
        with pytest.raises(ConfigError, match="cannot be met"):
            check_policy(config, SHAPE, max(0.9 * least - 0.001, ratio))


@pytest.mark.parametrize("strategy", PRE)
@pytest.mark.parametrize("n_min", [1, 8])
@pytest.mark.parametrize("ratio", [0.05, 0.023, 0.0142, 0.001, 0.0001])
def test_choices_before_the_language_model_go_down_to_n_min(
    strategy: str, n_min: int, ratio: float
) -> None:
    """Budgets of 64 and 20 of 1410 tokens are those of published tables."""
    for total in (60, 184, 1410):
        policy = policy_of(strategy, ratio, n_min=n_min)
        assert policy.num_kept_pre_llm(total) == max(n_min, math.floor(ratio * total))
    policy = policy_of(strategy, ratio, n_min=n_min)
    scene = scene_3d()
    count = len(scene.features)
    assert len(policy.select(scene).kept) == max(n_min, math.floor(ratio * count))


@pytest.mark.parametrize("asked", [-0.5, 1e-5, 1.5, math.inf])
@pytest.mark.parametrize("strategy", ["voxel_dpp+pdrop"])
def test_a_keep_ratio_out_of_range_is_refused(strategy: str, asked: float) -> None:
    """The setting allows 0.0001 to 1; a request's ratio means the same thing."""
    with pytest.raises(ConfigError, match=r"keep_ratio = .*allowed: 0\.0001 to 1"):
        policy_of(strategy, asked)


# -- contradictions


def test_entering_with_less_than_is_to_be_kept() -> None:
    with pytest.raises(
        ConfigError,
        match=r"pre_keep_ratio = 0.3 is below the keep ratio 0.5.*allowed: 0.5 to 1, or 0",
    ):
        policy_of("voxel_dpp+pdrop", 0.5, pre_keep_ratio=0.3)
    alone = policy_of("voxel_dpp", 0.5, pre_keep_ratio=0.3)  # which is for two joined
    assert alone.num_kept_pre_llm(100) == 50


@pytest.mark.parametrize(
    ("strategy", "flat", "named"),
    [
        (
            "pdrop",
            {"pdrop__ratios": "0.5,0.25,0.125"},
            r"pruning\.pdrop\.ratios = '0\.5,0\.25,0\.125'",
        ),
        ("adatoken3d", {"adatoken3d__budget__mode": "endpoint"}, r"budget\.mode = 'endpoint'"),
        ("uniform+adatoken3d", {"adatoken3d__budget__mode": "flops"}, r"budget\.mode = 'flops'"),
        ("adatoken3d", {"adatoken3d__budget__mode": "parameters"}, r"budget\.mode = 'parameters'"),
    ],
)
def test_a_request_cannot_ask_for_what_the_settings_fix(
    strategy: str, flat: dict[str, Any], named: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            rf"keep_ratio = 0.3 was asked for, but .*{named} fixes what is kept; leave keep_ratio"
            r" at 0"
        ),
    ):
        policy_of(strategy, 0.3, **flat)
    assert policy_of(strategy, **flat).pruner(SHAPE) is not None


def test_stage_ratios_need_the_mode_that_takes_them() -> None:
    stages = {"adatoken3d__schedule": "stages", "adatoken3d__stage_layers": "2,4,6"}
    with pytest.raises(
        ConfigError,
        match=r"stage_ratios = '0.5,0.3,0.1' fix what is kept: set budget.mode to 'parameters'",
    ):
        policy_of("adatoken3d", adatoken3d__stage_ratios="0.5,0.3,0.1", **stages).pruner(SHAPE)
    with pytest.raises(
        ConfigError, match="'parameters' with schedule 'stages' needs stage_ratios, for example"
    ):
        policy_of("adatoken3d", adatoken3d__budget__mode="parameters", **stages).pruner(SHAPE)
    with pytest.raises(ConfigError, match="3 stage layers and 2 ratios"):
        policy_of("pdrop", pdrop__ratios="0.5,0.25").pruner(SHAPE)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="'adatoken': not a known choice, did you mean 'adatoken3d'"
    ):
        policy_of("adatoken")
    with pytest.raises(ConfigError, match="not a known choice, did you mean 'voxel_dpp'"):
        policy_of("voxel_dp+pdrop")
    with pytest.raises(ConfigError, match="cannot be joined so"):
        policy_of("pdrop+voxel_dpp")
    with pytest.raises(
        ConfigError,
        match=r"unknown setting 'pruning\.keepratio'; did you mean 'pruning\.keep_ratio'",
    ):
        config_of({"keepratio": 0.4})
    with pytest.raises(
        ConfigError,
        match=r"pruning\.keep_ratio = 1\.2: out of range; allowed: 0\.0001 to 1 \(default 0\.41\)",
    ):
        config_of({"keep_ratio": 1.2})
    with pytest.raises(ConfigError, match="the lower bound comes first"):
        config_of({"adatoken3d.fit.beta": [1.0, 0.5]})
    with pytest.raises(
        ConfigError, match=r"pruning\.pdrop\.ratios = '0\.5;0\.2': not of the expected form"
    ):
        config_of({"pdrop.ratios": "0.5;0.2"})
    for wrong in ("0.5,2", "0.5,0.2.1"):
        with pytest.raises(
            ConfigError,
            match=rf"ratios '{re.escape(wrong)}': each must be a share of all spatial tokens",
        ):
            Policy.from_config(config_of({"strategy": "pdrop", "pdrop.ratios": wrong})).pruner(
                SHAPE
            )


# -- few tokens, degenerate information


@pytest.mark.parametrize("count", [0, 1, 7, 8])
@pytest.mark.parametrize("strategy", INNER)
def test_few_tokens_are_all_kept_with_a_warning(
    strategy: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pruner = policy_of(strategy, 0.4).pruner(SHAPE, count, count)
    assert pruner is None
    assert f"{count} spatial tokens, pruning.n_min is 8: nothing is pruned" in caplog.text
    assert prefill(make_decoder(), make_prompt(count), pruner=pruner).counts == (count,) * LAYERS


@pytest.mark.parametrize("information", [np.zeros(LAYERS), RISING], ids=["flat", "rising"])
@pytest.mark.parametrize("where", ["file", "per_scene"])
def test_information_that_says_nothing(
    information: np.ndarray, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """fallback: the fixed curve and a warning; flat: the fit as it comes; error: refused."""
    given = tuple(map(float, information)) if where == "per_scene" else None
    flat = FITTED | {"adatoken3d__calibration": where, "adatoken3d__calibration_file": ""}
    if where == "file":
        flat["adatoken3d__calibration_file"] = str(
            write_curve(tmp_path / "curve.yaml", information)
        )

    def retention(**more: Any) -> tuple[float, ...]:
        pruner = policy_of("adatoken3d", 0.4, **more).pruner(SHAPE, information=given)
        assert pruner is not None
        return pruner.schedule.retention

    with caplog.at_level(logging.WARNING):
        assert retention(**flat, adatoken3d__on_degenerate="flat")[1] == pytest.approx(
            0.31, abs=0.01
        )
        assert not caplog.records
        assert retention(**flat) == retention()
    assert "flat or rises with depth" in caplog.text
    assert "the fixed curve is used (pruning.adatoken3d.on_degenerate)" in caplog.text
    with pytest.raises(
        ConfigError, match=r"flat or rises with depth.*'fallback' takes the fixed curve"
    ):
        retention(**flat, adatoken3d__on_degenerate="error")


def test_information_of_another_decoder(caplog: pytest.LogCaptureFixture) -> None:
    policy = policy_of("adatoken3d", 0.4, adatoken3d__calibration="per_scene", **FITTED)
    assert policy.per_scene
    with pytest.raises(ConfigError, match="of 5 layers, this decoder has 8"):
        policy.pruner(SHAPE, information=(1.0, 0.7, 0.4, 0.2, 0.0))
    unmeasured = (math.nan, *FALLING[1:])  # measure_information refuses NaN
    policy.pruner(SHAPE, information=unmeasured)
    assert "the fixed curve is used" in caplog.text
    refusing = policy_of(
        "adatoken3d",
        0.4,
        **FITTED,
        adatoken3d__on_degenerate="error",
        adatoken3d__calibration="per_scene",
    )
    with pytest.raises(ConfigError, match="says nothing about where to prune"):
        refusing.pruner(SHAPE, information=unmeasured)


def test_a_decoder_of_one_or_two_layers() -> None:
    """What cannot be pruned says so; what can is pruned."""
    for strategy in INNER:
        for L in (1, 2):
            message = ""
            try:
                pruner = policy_of(strategy, 0.6).pruner(DecoderShape(L, 32, 16, 64, 97))
            except ConfigError as error:
                message = str(error)
            if L == 1 or strategy == "fastv":  # fastv: k = 2 layers see everything
                assert "this decoder" in message
            else:
                assert message == ""
                assert pruner is not None
                assert np.mean(pruner.schedule.retention) == pytest.approx(0.6, abs=1e-6)


def test_a_fixed_budget_is_of_all_tokens_when_two_are_joined() -> None:
    """`mean_retained 0.4` was 0.4 of what entered: 0.256 of all."""
    for semantics, reads in (
        ("mean_retained", np.mean),
        ("last_layer_retained", lambda counts: counts[-1]),
    ):
        policy = policy_of(
            "uniform+adatoken3d",
            n_min=1,
            pre_keep_ratio=0.8,
            adatoken3d__budget__mode="endpoint",
            adatoken3d__budget__value=0.4,
            adatoken3d__budget__semantics=semantics,
        )
        pruner = policy.pruner(SHAPE, policy.num_kept_pre_llm(5000), 5000, 60)
        assert pruner is not None
        assert reads(pruner.counts(4000, None)) == pytest.approx(2000, abs=5)


@pytest.mark.parametrize("schedule", ["fixed", "quadratic"])
def test_a_budget_above_what_enters_is_refused(schedule: str) -> None:
    for mode, words in (
        ("flops", "allowed: up to"),
        ("endpoint", "only 0.5 of them enter the language model"),
    ):
        policy = policy_of(
            "uniform+adatoken3d",
            pre_keep_ratio=0.5,
            adatoken3d__schedule=schedule,
            adatoken3d__budget__mode=mode,
            adatoken3d__budget__value=0.9,
        )
        with pytest.raises(ConfigError, match=words):
            policy.pruner(SHAPE, 2500, 5000, 60)


def test_ratios_that_rise_are_refused() -> None:
    for flat in (
        {"strategy": "pdrop", "pdrop.ratios": "0.2,0.5,0.8"},
        {
            "adatoken3d.schedule": "stages",
            "adatoken3d.budget.mode": "parameters",
            "adatoken3d.stage_layers": "2,4",
            "adatoken3d.stage_ratios": "0.3,0.5",
        },
    ):
        with pytest.raises(ConfigError, match="must fall: they are shares of all tokens"):
            Policy.from_config(config_of(flat)).pruner(SHAPE)


def test_what_is_in_force_in_words() -> None:
    def words(**flat: object) -> str:
        config = config_of({name.replace("__", "."): value for name, value in flat.items()})
        return describe_policy(config, planned_retention(config, SHAPE))

    assert words() == "adatoken3d keep_ratio 0.41"
    assert words(strategy="none") == "none"
    assert words(keep_ratio=1.0) == "none"
    endpoint = words(adatoken3d__budget__mode="endpoint", adatoken3d__budget__value=0.1)
    assert endpoint.startswith("adatoken3d pruning.adatoken3d.budget.mode = 'endpoint', mean 0.")
    assert words(strategy="pdrop", pdrop__ratios="0.5,0.4,0.3").endswith("mean 0.550")
    by_question = config_of({"strategy": "logistic", "keep_ratio": 0.6})
    assert planned_retention(by_question, SHAPE) == ()
    joined = config_of({"strategy": "voxel_dpp+pdrop", "keep_ratio": 0.5})
    assert np.mean(planned_retention(joined, SHAPE)) == pytest.approx(0.5, abs=1e-6)
