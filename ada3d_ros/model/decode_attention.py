"""Attention of one query per head over many keys: what decoding asks for, token by token."""

from __future__ import annotations

import threading

import torch
from torch.nn import functional as F

CHUNK = 2**19  # float32 values of keys at a time on a CPU: what its cache holds
_thread = threading.local()


def attend_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """q (B, H, 1, d), k and v (B, G, T, d); returns (B, H, 1, d). mask (B or 1, 1, 1, T): bool, or
    added to the scores.

    The heads of a group are rows of one product, so that no key is copied. On a CPU in float32 and
    by hand: SDPA's kernel reads keys and values at a tenth of the memory's speed there.
    """
    rows = q.reshape(*k.shape[:2], -1, k.shape[3])  # (B, G, H / G, d)
    if q.device.type != "cpu" or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(rows, k, v, attn_mask=mask).reshape(q.shape)
    tokens = max(1, CHUNK // (k.shape[0] * k.shape[1] * k.shape[3]))
    scaled = rows.float().mT * k.shape[3] ** -0.5  # (B, G, d, H / G)
    scores = torch.cat(
        [torch.matmul(_wide(part), scaled) for part in k.split(tokens, dim=2)], dim=2
    )
    if mask is not None:
        scores = (
            scores + mask.mT
            if mask.is_floating_point()
            else scores.masked_fill(~mask.mT, -torch.inf)
        )
    out = torch.zeros_like(rows, dtype=torch.float32)
    for weights, part in zip(
        torch.softmax(scores, dim=2).split(tokens, 2), v.split(tokens, 2), strict=True
    ):
        if rows.shape[2] > 1:
            out += torch.matmul(weights.mT, _wide(part))
        else:  # a sum reads twice as fast as a product of one row
            out += torch.mul(_wide(part), weights, out=_scratch(part)).sum(2, keepdim=True)
    return out.to(q.dtype).reshape(q.shape)


def _wide(part: torch.Tensor) -> torch.Tensor:
    """In float32: itself, or a copy in this thread's scratch."""
    return part if part.dtype == torch.float32 else _scratch(part).copy_(part)


def _scratch(part: torch.Tensor) -> torch.Tensor:
    """This thread's float32 memory in the shape of `part`: fresh pages at every call would cost
    more than the sums.
    """
    held: torch.Tensor | None = getattr(_thread, "scratch", None)
    if held is None or held.numel() < part.numel():
        with torch.inference_mode(False):
            held = _thread.scratch = torch.empty(max(CHUNK, part.numel()), dtype=torch.float32)
    return held[: part.numel()].view(part.shape)
