"""config.json: every setting that changes the arithmetic is either run or refused by name."""

import dataclasses
from typing import Any

import pytest

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.config_file import read_config
from ada3d_ros.model.layout import build_meta_model
from ada3d_ros.model.random_checkpoint import TINY_CONFIG

BASE = {k: v for k, v in LlavaConfig().to_json().items() if k != "rope_theta"}


def read(**changes: Any) -> LlavaConfig:
    return read_config(BASE | changes)


def test_config_survives_the_round_trip() -> None:
    assert read_config(LlavaConfig().to_json()) == LlavaConfig()


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    "value",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        {"type": "dynamic", "factor": 2.0},
        {"rope_type": "llama3"},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"full_attention": {"rope_type": "default"}},
        "yarn",
    ],
)
def test_scaled_positions_are_refused_in_both_spellings(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{name} = .* is not supported"):
        read(**{name: value})


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({}, 1e4),
        ({"rope_theta": None}, 1e4),
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 500000}, 5e5),
        ({"rope_scaling": {"rope_type": "default"}, "rope_theta": 5e5}, 5e5),
        ({"rope_parameters": None, "rope_scaling": None}, 1e4),
    ],
)
def test_rope_theta_of_both_spellings(changes: dict[str, Any], theta: float) -> None:
    assert read(**changes).decoder.rope_theta == theta


def test_two_rope_thetas_are_a_contradiction() -> None:
    with pytest.raises(
        CheckpointError, match=r"rope_theta = 10000, rope_parameters\.rope_theta = 500000"
    ):
        read(rope_theta=1e4, rope_parameters={"rope_theta": 5e5})


def test_head_dim_must_be_what_the_sizes_say() -> None:
    assert read(head_dim=128) == read(head_dim=None) == LlavaConfig()
    with pytest.raises(CheckpointError, match=r"head_dim 64 differs from .* = 128"):
        read(head_dim=64)


def test_quantised_checkpoints_are_refused_by_name() -> None:
    assert read(quantization_config=None) == LlavaConfig()
    for value in ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {}):
        with pytest.raises(CheckpointError, match="quantization_config"):
            read(quantization_config=value)


def test_token_ids() -> None:
    """One begins a prompt, several may end an answer."""
    for value, expected in ((None, 1), ([5], 5), (5, 5), (0, 0)):
        assert read(bos_token_id=value).decoder.bos_id == expected
    for eos, ids in ((None, (2,)), ([5], (5,)), (5, (5,)), ([7, 5, 7], (7, 5))):
        assert read(eos_token_id=eos).decoder.eos_ids == ids
    for name, wrong, words in (
        ("bos_token_id", [2, 32000], "a list of 2 ids"),
        ("bos_token_id", [], "a list of 0 ids"),
        ("eos_token_id", [], "a list of 0 ids"),
        ("bos_token_id", "two", "not a token id"),
        ("eos_token_id", [2, True], "not a token id"),
    ):
        with pytest.raises(CheckpointError, match=f"{name} = .*{words}"):
            read(**{name: wrong})
    without = {k: v for k, v in BASE.items() if not k.endswith("_token_id")}
    decoder = read_config(without).decoder
    assert (decoder.bos_id, decoder.eos_ids) == (1, (2,))


@pytest.mark.parametrize("act", ["swishy", "xielu", ["gelu"]])
def test_unknown_activations_are_refused(act: Any) -> None:
    with pytest.raises(CheckpointError, match=r"hidden_act = .* is not supported"):
        read(hidden_act=act)
    with pytest.raises(
        CheckpointError, match=r"hidden_act = .* of the vision tower is not supported"
    ):
        read(mm_vision_config={**BASE["mm_vision_config"], "hidden_act": act})


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_known_activations_of_the_tower_build(act: str) -> None:
    vision = dataclasses.replace(TINY_CONFIG.vision, hidden_act=act)
    build_meta_model(dataclasses.replace(TINY_CONFIG, vision=vision))
