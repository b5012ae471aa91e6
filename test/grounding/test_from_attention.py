"""Relevance: the attention is the decoder's own, the peak is where a planted gain lies."""

import dataclasses

import pytest
import torch

from ada3d_ros.grounding.from_attention import attention_to_scene, find_peak, guess_at
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import GroundingMethod, PromptSequence

CONFIG = DecoderConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    max_positions=128,
)


@pytest.fixture
def decoder() -> LlamaDecoder:
    torch.manual_seed(0)
    return LlamaDecoder(CONFIG).eval()


def test_attention_is_that_of_the_layers(decoder: LlamaDecoder) -> None:
    prompt = PromptSequence(torch.randn(30, 32), torch.arange(30), (5, 22))
    shares = attention_to_scene(decoder, prompt, 4)
    assert shares.shape == (3, 17)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    with torch.no_grad():
        hidden = prompt.embeds[None]
        for layer in range(3):
            inputs, rope = decoder.layer_inputs(layer, hidden), decoder.rope(prompt.positions)
            q, _, made = decoder.ranking_inputs(layer, inputs, rope, torch.arange(30))
            keys = made.k.repeat_interleave(2, dim=1)
            scores = (q @ keys.transpose(-1, -2) / 8**0.5).masked_fill(
                ~torch.ones(30, 30).tril().bool(), -torch.inf
            )
            expected = scores.softmax(-1)[0, :, 26:, 5:22].mean((0, 1))
            torch.testing.assert_close(shares[layer], expected / expected.sum())
            hidden = decoder.run_layers(layer, layer + 1, hidden, prompt.positions)


def test_the_peak_lies_at_the_planted_gain() -> None:
    xyz = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 4 + 100.0
    neutral = torch.full((3, 200), 1 / 200)
    shares = neutral.clone()
    near = (xyz - xyz[40]).norm(dim=-1) < 0.5
    shares[1, near] += 0.02
    shares[2, 7] += 0.021  # one loud token is no object
    peak = find_peak(shares, neutral, xyz)
    assert peak is not None
    assert float((peak.xyz_m - xyz[40]).norm()) < 0.4
    assert peak.share > 0.5
    guess = guess_at(peak, xyz, "lamp")
    assert guess.method is GroundingMethod.RELEVANCE
    assert guess.score == pytest.approx(peak.share)
    assert 0 < len(guess.evidence_xyz_m) == len(guess.evidence_weights) <= 8


def test_what_attracts_like_anything_else_has_no_peak() -> None:
    neutral = torch.softmax(torch.randn(2, 50), -1)
    assert find_peak(neutral, neutral, torch.rand(50, 3)) is None


def test_bfloat16_works(decoder: LlamaDecoder) -> None:
    prompt = PromptSequence(torch.randn(12, 32).bfloat16(), torch.arange(12), (2, 9))
    shares = attention_to_scene(decoder.bfloat16(), prompt, 2)
    assert shares.dtype == torch.float32
    assert bool(torch.isfinite(shares).all())
    assert dataclasses.asdict(CONFIG)["num_layers"] == len(shares)
