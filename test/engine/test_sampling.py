"""Greedy and nucleus sampling; the stage clock."""

import math

import pytest
import torch

from ada3d_ros.engine.decode import greedy, make_sampler, nucleus_probabilities
from ada3d_ros.errors import ConfigError

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))


def test_greedy_takes_the_first_maximum() -> None:
    assert int(greedy(torch.tensor([0.0, 2.0, 2.0]))) == 1
    assert make_sampler(0.0, 0.5, 0, torch.device("cpu")) is greedy


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, [0, 1, 2, 3]), (0.9, [1, 2, 3]), (0.79, [1, 3]), (0.4, [1]), (0.01, [1])],
)
def test_nucleus_keeps_the_smallest_set_that_reaches_top_p(top_p: float, kept: list[int]) -> None:
    probabilities = nucleus_probabilities(LOGITS, 1.0, top_p)
    assert probabilities.nonzero().flatten().tolist() == kept
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-6)


def test_temperature_sharpens() -> None:
    assert torch.allclose(
        nucleus_probabilities(LOGITS, 0.5, 1.0), LOGITS.exp() ** 2 / (LOGITS.exp() ** 2).sum()
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-60, 1e-45, 1e-40, 1.2e-38, 1e-30, 1e-6, 1e-4])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_temperature_near_zero_is_greedy(
    temperature: float, top_p: float, dtype: torch.dtype
) -> None:
    """Its limit; dividing by it gave infinities, and token 0 of their NaN."""
    sampler = make_sampler(temperature, top_p, 0, torch.device("cpu"))
    for scale in (1.0, -1.0, 100.0, 3e4):
        logits = (LOGITS * scale).to(dtype)
        assert int(sampler(logits)) == int(greedy(logits))


def test_same_seed_same_tokens_and_frequencies_follow_probabilities() -> None:
    def draw(seed: int) -> list[int]:
        sampler = make_sampler(1.0, 0.9, seed, torch.device("cpu"))
        return [int(sampler(LOGITS)) for _ in range(2000)]

    tokens = draw(1)
    assert tokens == draw(1)
    assert tokens != draw(2)
    assert 0 not in tokens
    assert tokens.count(1) / 2000 == pytest.approx(0.5 / 0.95, abs=0.04)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(-0.1, 1.0), (2.1, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, 1.1)]
)
def test_values_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ConfigError, match="allowed 0 to 2"):
        make_sampler(temperature, top_p, 0, torch.device("cpu"))
