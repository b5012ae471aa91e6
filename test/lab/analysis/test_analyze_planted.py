"""Attention planted into a decoder: the figures of `ada3d analyze` must show it."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.lab.analysis.allocation import QUERY_KINDS
from ada3d_ros.lab.analysis.analyze import main
from ada3d_ros.lab.analysis.survival import UNROPED, kept_by_layer, named_strategies
from ada3d_ros.lab.evaluation.agreement import DropSweep, greedy_answer, measure_agreement
from ada3d_ros.lab.evaluation.scenes import load_for, read_scene
from ada3d_ros.model.checkpoint import LoadedModel, save_checkpoint
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence

Look = Callable[
    [int], dict[int, tuple[int, float]]
]  # 0-based layer -> {query axis: (key axis, strength)}
CONFIG = dataclasses.replace(
    TINY_CONFIG,
    decoder=DecoderConfig(512, 64, 128, 4, 4, 2),
    vision=dataclasses.replace(
        TINY_CONFIG.vision, hidden_size=32, intermediate_size=64, image_size=56
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted")
    write_random_checkpoint(path / "model", 3, CONFIG)
    return path


@pytest.fixture
def planted(folder: Path) -> Callable[..., LoadedModel]:
    """A model whose spatial tokens all embed to axis 1 (plus noise on axes 8 and up), BOS to axis
    0, other text to axis 2, and whose hidden state no layer changes. look(layer) -> {query axis:
    (key axis, strength)} plants attention, in the rotary pair of that number of every head.
    """

    def make(look: Look, pair: int, rope_theta: float, noise: float) -> LoadedModel:
        loaded, _, _ = load_for(
            argparse.Namespace(model=folder / "model", device="cpu", precision="fp32")
        )
        model = loaded.model
        decoder = model.decoder
        decoder.config = dataclasses.replace(decoder.config, rope_theta=rope_theta)
        width, d = decoder.config.hidden_size, decoder.config.head_dim
        with torch.no_grad():
            decoder.embed_tokens.weight.copy_(torch.eye(width)[2].expand(512, -1))
            decoder.embed_tokens.weight[decoder.config.bos_id] = torch.eye(width)[0]
            last = model.projector[2]
            last.weight.mul_(noise * (torch.arange(width) >= 8)[:, None])
            last.bias.copy_(torch.eye(width)[1])
            for index, layer in enumerate(decoder.layers):
                attention = layer.self_attn
                layer.input_layernorm.weight.fill_(width**-0.5)  # an axis stays a unit vector
                for linear in (attention.o_proj, layer.mlp.down_proj, attention.q_proj):
                    linear.weight.zero_()
                if noise == 0.0:
                    attention.k_proj.weight.zero_()
                for query, (key, strength) in look(index).items():
                    attention.q_proj.weight[pair::d, query] = strength
                    attention.k_proj.weight[:, key] = 0.0
                    attention.k_proj.weight[pair::d, key] = 1.0
        return LoadedModel(model, loaded.tokenizer, loaded.info)

    return make


def _planted_look(layer: int) -> dict[int, tuple[int, float]]:
    """Layers 1 and 2: everyone looks at spatial tokens; 3 and 4: at BOS."""
    return {1: (1, 60.0), 2: (1, 60.0)} if layer < 2 else {1: (0, 60.0), 2: (0, 60.0)}


def test_planted_attention_shows_in_figures_1_and_2(
    folder: Path, planted: Callable[..., LoadedModel]
) -> None:
    made = planted(_planted_look, 7, 1e30, 0.0)  # pair 7 hardly turns
    made.model.config = dataclasses.replace(made.model.config, decoder=made.model.decoder.config)
    save_checkpoint(made.model, made.tokenizer, folder / "planted")
    out = folder / "planted_out"
    fixed = [
        "--model",
        str(folder / "planted"),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    assert main(["room:0", *fixed, "--figures", "1,2", "--answer-tokens", "3"]) == 0
    data = json.loads((out / "analysis.json").read_text())
    for name, expected in (
        ("S_self", [1, 1, 0, 0]),
        ("S_sp", [1, 1, 0, 0]),
        ("S_ss", [0, 0, 1, 1]),
    ):
        np.testing.assert_allclose(data["contribution"][name]["mean"], expected, atol=1e-3)
    assert data["contribution"]["falls_with_depth"] is True
    assert data["contribution"]["retention"][0]["used"] == "fitted"
    for query in QUERY_KINDS:
        kinds = data["allocation"]["attention"][query]
        np.testing.assert_allclose(kinds["spatial"]["mean"], [1, 1, 0, 0], atol=1e-3)
        np.testing.assert_allclose(kinds["system"]["mean"], [0, 0, 1, 1], atol=1e-3)


def test_rotary_preference_for_late_tokens_shows_as_position_bias(
    planted: Callable[..., LoadedModel],
) -> None:
    """Keys alike up to noise: with rotary positions the late ones win; without them none does."""
    made = planted(
        lambda layer: {2: (1, 1.0)}, 4, 10000.0, 0.02
    )  # pair 4 turns by 0.01 per position
    scene, biases = read_scene(made, "room:0", AgentConfig()), {}
    for strategy in named_strategies(("adatoken3d", UNROPED), (0.41,), AgentConfig()):
        kept = kept_by_layer(
            made, scene, "What is in the room?", Policy.from_config(strategy.config, 0.41)
        )[-1]
        biases[strategy.label] = float(kept.double().mean()) / (len(scene.tokens.xyz_m) - 1)
    assert biases["adatoken3d"] > 0.7
    assert abs(biases[UNROPED] - 0.5) < 0.15


def test_attention_ranking_keeps_the_token_that_the_answer_needs() -> None:
    """Layer 2's last query looks at one spatial token, whose value is the answer: figure 3 must
    tell the rankings apart.
    """
    decoder = (
        LlamaDecoder(DecoderConfig(16, 8, 8, 2, 1, 1, rope_theta=1e30, eos_id=15))
        .requires_grad_(False)
        .eval()
    )
    for name, parameter in decoder.named_parameters():
        parameter.fill_(8**-0.5 if "layernorm" in name else 1.0 if "norm" in name else 0.0)
    attention = decoder.layers[1].self_attn
    attention.q_proj.weight[3, 0] = 80.0  # dimension 3 of 8 turns slowest
    attention.k_proj.weight[3, 1] = 1.0
    attention.v_proj.weight[4, 1] = 1.0
    attention.o_proj.weight[5, 4] = 3.0
    decoder.embed_tokens.weight[:, 0] = 1.0
    decoder.lm_head.weight[7, 5] = 1.0  # token 7 if the token was seen
    decoder.lm_head.weight[3, 0] = 0.1  # token 3 if not
    prompts = []
    for important in range(8):
        embeds = torch.zeros(26, 8)
        embeds[[*range(3), *range(23, 26)], 0] = 1.0
        embeds[3:23, 2] = 1.0
        embeds[3 + 2 * important] = torch.eye(8)[1]
        prompts.append(PromptSequence(embeds, torch.arange(26), (3, 23)))
    unpruned = [greedy_answer(decoder, prompt, 2) for prompt in prompts]
    assert all(answer.token_ids[0] == 7 for answer in unpruned)
    shares = (0.0, 0.5, 0.9)
    data = measure_agreement(
        decoder, prompts, unpruned, DropSweep((1,), 2, 0, shares), lambda text: None
    )
    ada, random = ([p["identical"]["mean"] for p in curve["points"]] for curve in data["curves"])
    assert ada == [1.0, 1.0, 1.0]
    assert random[0] == 1.0
    assert random[2] < 0.5
