"""No strategy, and no measurement, ever holds a T x T tensor.

A mode looks at every tensor that torch makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.pruning import information
from ada3d_ros.pruning.information import attention_masses
from test.support.decoders import INNER, SHAPE, make_decoder, make_prompt, policy_of

N, SYSTEM, TEXT = 300, 20, 6
TOTAL = SYSTEM + N + TEXT


class SquareError(AssertionError):
    """A tensor with two dimensions of at least T."""


class NoSquares(TorchDispatchMode):
    """Raises where an operation outside SDPA returns two dimensions of at least `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.excused, self.seen = limit, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not self.excused:
                self.seen += 1
                if sum(size >= self.limit for size in tensor.shape) >= 2:
                    raise SquareError(f"{func} made {tuple(tensor.shape)}")
        return out


@contextmanager
def no_squares(limit: int) -> Iterator[NoSquares]:
    mode, attend = NoSquares(limit), F.scaled_dot_product_attention

    def excused(*args: Any, **kwargs: Any) -> torch.Tensor:
        mode.excused += 1
        try:
            return attend(*args, **kwargs)
        finally:
            mode.excused -= 1

    with pytest.MonkeyPatch.context() as patch, mode:
        patch.setattr(F, "scaled_dot_product_attention", excused)
        yield mode
    assert mode.seen > 100


STRATEGIES = [
    *((name, {}) for name in INNER),
    ("adatoken3d", {"adatoken3d__rank__query": "all"}),
    ("adatoken3d", {"adatoken3d__rank__score": "head_max", "adatoken3d__rank__rope": False}),
    ("adatoken3d", {"adatoken3d__rank__score": "random", "adatoken3d__positions": "compact"}),
]


@pytest.mark.parametrize(("strategy", "flat"), STRATEGIES)
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_pruned_prefill_holds_no_square(strategy: str, flat: dict[str, Any], kv_heads: int) -> None:
    """The limit is the number of spatial tokens still alive at the end, not T.

    A square of what is left counts as well.
    """
    decoder, prompt = make_decoder(num_kv_heads=kv_heads), make_prompt(N, SYSTEM, TEXT)
    pruner = policy_of(strategy, 0.7, n_min=100, **flat).pruner(SHAPE, N, N, SYSTEM + TEXT)
    assert pruner is not None
    with no_squares(100):
        filled = prefill(decoder, prompt, pruner=pruner)
    assert filled.counts[-1] >= 100


@pytest.mark.parametrize("stride", [1, 10])
def test_measuring_information_holds_no_square(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of queries, however many spatial tokens ask."""
    monkeypatch.setattr(information, "BLOCK_ELEMENTS", 4 * TOTAL * 16)
    decoder, prompt = make_decoder(), make_prompt(N, SYSTEM, TEXT)
    with no_squares(TOTAL // 4):
        masses = measure_information(decoder, prompt, stride)
    assert len(masses) == 8


def test_the_block_bounds_what_is_held_at_once() -> None:
    """2560 spatial tokens on 32 heads: a block of queries holds the stated number of scores."""
    assert information.BLOCK_ELEMENTS <= 2**24
    heads, tokens = 32, 2560 + 61
    assert information.BLOCK_ELEMENTS // (heads * tokens) < tokens // 4


def test_the_guard_sees_squares() -> None:
    """What it forbids: scores of all by all, and attention written out; both are caught."""
    q = torch.randn(4, TOTAL, 8)
    with pytest.raises(SquareError, match=r"made .*326, 326"):
        with no_squares(TOTAL):
            q @ q.transpose(1, 2)
    with pytest.raises(SquareError):
        with no_squares(TOTAL):
            attention_masses(torch.ones(1, TOTAL, TOTAL) / TOTAL, (SYSTEM, SYSTEM + N))
