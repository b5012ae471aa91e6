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
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence

# Of a layer (0-based): query axis -> key axis it attends to, and how strongly.
PlantedAttention = Callable[[int], dict[int, tuple[int, float]]]


@pytest.fixture
def planted(folder: Path) -> Callable[..., LoadedModel]:
    """A model whose attention is planted and whose hidden state no layer changes.

    Its spatial tokens all embed to axis 1 (plus noise on axes 8 and up), BOS to axis 0, other text
    to axis 2. Attention is planted into rotary pair `pair` of every head.
    """

    def make(
        attention_of: PlantedAttention, pair: int, rope_theta: float, noise: float
    ) -> LoadedModel:
        options = argparse.Namespace(model=folder / "model", device="cpu", precision="fp32")
        loaded = load_for(options)[0]
        model, decoder = loaded.model, loaded.model.decoder
        decoder.config = dataclasses.replace(decoder.config, rope_theta=rope_theta)
        width, d = decoder.config.hidden_size, decoder.config.head_dim
        with torch.no_grad():
            # What tokens embed to.
            decoder.embed_tokens.weight.copy_(torch.eye(width)[2].expand(512, -1))
            decoder.embed_tokens.weight[decoder.config.bos_id] = torch.eye(width)[0]
            last = model.projector[2]
            last.weight.mul_(noise * (torch.arange(width) >= 8)[:, None])
            last.bias.copy_(torch.eye(width)[1])
            # What each layer attends to; it adds nothing to the hidden state.
            for index, layer in enumerate(decoder.layers):
                attention = layer.self_attn
                layer.input_layernorm.weight.fill_(width**-0.5)  # an axis stays a unit vector
                for linear in (attention.o_proj, layer.mlp.down_proj, attention.q_proj):
                    linear.weight.zero_()
                if noise == 0.0:
                    attention.k_proj.weight.zero_()
                for query, (key, strength) in attention_of(index).items():
                    attention.q_proj.weight[pair::d, query] = strength
                    attention.k_proj.weight[:, key] = 0.0
                    attention.k_proj.weight[pair::d, key] = 1.0
        return LoadedModel(model, loaded.tokenizer, loaded.info)

    return make


def _first_spatial_then_bos(layer: int) -> dict[int, tuple[int, float]]:
    """Layers 1 and 2: every token attends to spatial tokens; 3 and 4: to BOS."""
    return {1: (1, 60.0), 2: (1, 60.0)} if layer < 2 else {1: (0, 60.0), 2: (0, 60.0)}


def test_planted_attention_shows_in_figures_1_and_2(
    folder: Path, planted: Callable[..., LoadedModel]
) -> None:
    made = planted(_first_spatial_then_bos, 7, 1e30, 0.0)  # pair 7 hardly turns
    made.model.config = dataclasses.replace(made.model.config, decoder=made.model.decoder.config)
    save_checkpoint(made.model, made.tokenizer, folder / "planted")
    out = folder / "planted_out"
    model = ["--model", str(folder / "planted"), "--device", "cpu", "--precision", "fp32"]
    more = ["--out", str(out), "--figures", "1,2", "--answer-tokens", "3"]
    assert main(["room:0", *model, *more]) == 0
    data = json.loads((out / "analysis.json").read_text())

    # Figure 1: the masses fall from layer 3 on, and so does the schedule.
    contribution = data["contribution"]
    for name, expected in (
        ("S_self", [1, 1, 0, 0]),
        ("S_sp", [1, 1, 0, 0]),
        ("S_ss", [0, 0, 1, 1]),
    ):
        np.testing.assert_allclose(contribution[name]["mean"], expected, atol=1e-3)
    assert contribution["falls_with_depth"] is True
    assert contribution["retention"][0]["used"] == "fitted"

    # Figure 2: every kind of token attends so.
    for query in QUERY_KINDS:
        kinds = data["allocation"]["attention"][query]
        np.testing.assert_allclose(kinds["spatial"]["mean"], [1, 1, 0, 0], atol=1e-3)
        np.testing.assert_allclose(kinds["system"]["mean"], [0, 0, 1, 1], atol=1e-3)


def test_rotary_preference_for_late_tokens_shows_as_position_bias(
    planted: Callable[..., LoadedModel],
) -> None:
    """Keys alike up to noise: with rotary positions the late ones win; without them none does."""
    # Pair 4 turns by 0.01 per position.
    made = planted(lambda layer: {2: (1, 1.0)}, 4, 10000.0, 0.02)
    scene, biases = read_scene(made, "room:0", AgentConfig()), {}
    for strategy in named_strategies(("adatoken3d", UNROPED), (0.41,), AgentConfig()):
        policy = Policy.from_config(strategy.config, 0.41)
        kept = kept_by_layer(made, scene, "What is in the room?", policy)[-1]
        biases[strategy.label] = float(kept.double().mean()) / (len(scene.tokens.xyz_m) - 1)
    assert biases["adatoken3d"] > 0.7
    assert abs(biases[UNROPED] - 0.5) < 0.15


def test_attention_ranking_keeps_the_token_that_the_answer_needs() -> None:
    """Layer 2's last query attends to one spatial token, whose value is the answer.

    Figure 3 must tell the rankings apart.
    """
    # Two layers of one head; all but the planted weights are 0, norms are 1.
    config = DecoderConfig(16, 8, 8, 2, 1, 1, rope_theta=1e30, eos_ids=(15,))
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
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

    # Twenty spatial tokens, another one the important one in each prompt.
    prompts = []
    for important in range(8):
        embeds = torch.zeros(26, 8)
        embeds[[*range(3), *range(23, 26)], 0] = 1.0
        embeds[3:23, 2] = 1.0
        embeds[3 + 2 * important] = torch.eye(8)[1]
        prompts.append(PromptSequence(embeds, torch.arange(26), (3, 23)))
    unpruned = [greedy_answer(decoder, prompt, 2) for prompt in prompts]
    assert all(answer.token_ids[0] == 7 for answer in unpruned)

    # The attention ranking keeps it, a random one does not.
    shares = (0.0, 0.5, 0.9)
    data = measure_agreement(
        decoder, prompts, unpruned, DropSweep((1,), 2, 0, shares), lambda text: None
    )
    ada, random = ([p["identical"]["mean"] for p in curve["points"]] for curve in data["curves"])
    assert ada == [1.0, 1.0, 1.0]
    assert random[0] == 1.0
    assert random[2] < 0.5
