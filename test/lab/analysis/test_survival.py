"""Figure 4 of `ada3d analyze`: which tokens survive, against the engine's own prefill."""

from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.lab.analysis.survival import (
    UNROPED,
    kept_by_layer,
    mask_name,
    named_strategies,
    patch_states,
)
from ada3d_ros.lab.evaluation.scenes import VoxelScene, scene_prompt
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy


def row_of(analysed: dict[str, Any], label: str, keep_ratio: float) -> dict[str, Any]:
    rows = analysed["survival"]["rows"]
    (row,) = [r for r in rows if r["strategy"] == label and r["keep_ratio"] == keep_ratio]
    return dict(row)


def test_survivors_are_those_of_the_last_layer(
    loaded: LoadedModel, scene: VoxelScene, analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    question = analysed["survival"]["drawn_question"]
    labels = ("adatoken3d", UNROPED, "uniform")
    for strategy in named_strategies(labels, analysed["keep_ratios"], AgentConfig()):
        # The engine's own prefill of the same prompt.
        policy = Policy.from_config(strategy.config, strategy.keep_ratio)
        prompt, chosen = scene_prompt(loaded, scene, question, policy)
        kept = chosen.kept
        if policy.in_llm:
            shape = DecoderShape.from_config(loaded.model.decoder.config)
            pruner = policy.pruner(shape, len(kept), chosen.num_before_selection)
            kept = prefill(loaded.model.decoder, prompt, pruner=pruner).kept[-1]
        mask = arrays[mask_name(0, strategy.label, strategy.keep_ratio)]
        assert np.flatnonzero(mask).tolist() == kept.tolist()

        # The row counts them, the cells they lie in, and their mean rank.
        row = row_of(analysed, strategy.label, strategy.keep_ratio)
        assert row["counts"][-1] == row["drawn"]["tokens"] == len(kept)
        cells = [tuple(np.round(xyz / 0.5).tolist()) for xyz in arrays["scene0.xyz_m"]]
        share = len({cells[i] for i in kept.tolist()}) / len(set(cells))
        bias = np.flatnonzero(mask).mean() / (len(mask) - 1)
        assert row["drawn"]["coverage"] == pytest.approx(share)
        assert row["drawn"]["position_bias"] == pytest.approx(bias)


def test_masks_on_views_agree_with_kept_indices(
    scene: VoxelScene, config: LlavaConfig, arrays: dict[str, np.ndarray]
) -> None:
    patch_token, kept = arrays["scene0.patch_token"], arrays[mask_name(0, "adatoken3d", 0.41)]
    states = patch_states(patch_token, kept)
    indices = set(np.flatnonzero(kept).tolist())
    expected = [[-1 if t < 0 else int(t in indices) for t in view] for view in patch_token.tolist()]
    assert states.tolist() == expected

    # Six views spread over the recording, as the vision tower got them.
    views = np.arange(6) * len(scene.frames) // 6
    np.testing.assert_array_equal(patch_token, scene.patch_token.numpy()[views])
    pixels = scene.views.pixels[torch.from_numpy(views)].permute(0, 2, 3, 1).numpy()
    shown = (arrays["scene0.views"] / 255 - config.vision.image_mean) / config.vision.image_std
    np.testing.assert_allclose(shown, pixels, atol=1e-5 + 0.5 / 255 / 0.26)


def test_indices_of_joined_strategies_are_those_of_the_scene(
    loaded: LoadedModel, scene: VoxelScene, analysed: dict[str, Any]
) -> None:
    """What the decoder keeps are places among the tokens that entered, not among all."""
    question = analysed["survival"]["drawn_question"]
    (joined,) = named_strategies(("random+adatoken3d",), (0.41,), AgentConfig())
    policy = Policy.from_config(joined.config, 0.41)
    kept = kept_by_layer(loaded, scene, question, policy)
    _, chosen = scene_prompt(loaded, scene, question, policy)
    assert kept[0].tolist() == chosen.kept.tolist()
    assert int(kept[0][-1]) >= len(kept[0])  # not the first ones
    assert set(kept[-1].tolist()) < set(kept[0].tolist())


def test_a_strategy_out_of_reach_is_a_sentence_and_not_a_picture(
    analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    row = row_of(analysed, "fastv", 0.3)
    assert row["error"] == (
        "keep_ratio = 0.3 cannot be met on this decoder; allowed: 0.5 to 1 (its first layers see"
        " all tokens; a strategy before the language model, as voxel_dpp, can go lower)."
    )
    assert mask_name(0, "fastv", 0.3) not in arrays
    assert "coverage" not in row
