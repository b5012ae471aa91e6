"""Repetition penalty: what was said already is offered with less.

As transformers has it for prompts that enter as embeddings: of the new tokens alone, whose logits
are divided by the penalty where they are positive and multiplied by it where they are negative.
"""

from __future__ import annotations

import torch


class RepetitionPenalty:
    """Of one answer; `add` what is said, call it with what is offered next."""

    def __init__(self, penalty: float, vocab_size: int, device: torch.device) -> None:
        self._penalty = penalty
        self._said = torch.zeros(vocab_size, dtype=torch.bool, device=device)

    def add(self, token_id: int) -> None:
        self._said[token_id] = True

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocab,) in which what was said is less likely, the others as they are."""
        less = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(self._said, less, logits)


def penalty_for(value: float, logits: torch.Tensor) -> RepetitionPenalty | None:
    """None for 1, which changes nothing. logits (..., vocab): like those that it will get."""
    if value == 1.0:
        return None
    return RepetitionPenalty(value, logits.shape[-1], logits.device)
