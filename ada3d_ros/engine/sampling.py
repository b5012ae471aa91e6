"""From logits to the next token: greedy, or temperature with nucleus sampling from an explicit
generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ada3d_ros.errors import ConfigError

Sampler = Callable[
    [torch.Tensor], torch.Tensor
]  # logits (vocab,) to a token id () int64 on the same device


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token; the lowest id of equals."""
    return logits.argmax(dim=-1)


def nucleus_probabilities(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities (vocab,) float32 of the smallest set of tokens whose probability reaches top_p;
    0 for the others.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p  # the token that crosses top_p stays
    kept = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    return kept / kept.sum()


def make_sampler(temperature: float, top_p: float, seed: int, device: torch.device) -> Sampler:
    """temperature 0: greedy. Otherwise a sampler with its own generator: the same seed gives the
    same answer.

    Raises ConfigError outside temperature 0..2 and top_p 0.01..1.
    """
    if not 0.0 <= temperature <= 2.0 or not 0.01 <= top_p <= 1.0:
        raise ConfigError(
            f"temperature = {temperature} (allowed 0 to 2), top_p = {top_p} (allowed 0.01 to 1)."
        )
    if temperature == 0.0:
        return greedy
    generator = torch.Generator(device).manual_seed(seed)

    def sample(logits: torch.Tensor) -> torch.Tensor:
        probabilities = nucleus_probabilities(logits, temperature, top_p)
        # torch.multinomial's own way for one draw, without its check, for which a GPU's host would
        # wait at every token.
        return probabilities.div_(
            torch.empty_like(probabilities).exponential_(1, generator=generator)
        ).argmax(dim=-1)

    return sample
