"""Rotary position embedding, LLaMA's rotate-half layout: dimension i turns with i + d/2.

Shapes: B batch, T tokens, d head dimension.
"""

from __future__ import annotations

import torch

# cos and sin, (B or 1, 1, T, d). sin has the sign of its share: minus in the first half.
Rope = tuple[torch.Tensor, torch.Tensor]


def rope_tables(positions: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rope:
    """`Rope` of positions (T,) or (B, T) int64, the angles in float32."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    inv_freq = 1.0 / theta ** (pairs / head_dim)
    angles = positions.reshape(-1, positions.shape[-1], 1).float() * inv_freq  # (B, T, d / 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1).unsqueeze(1), torch.cat((-sin, sin), dim=-1).unsqueeze(1)


def rope_rows(rope: Rope, rows: torch.Tensor) -> Rope:
    """The tables of some of the positions, rows (n,) int64."""
    return rope[0][:, :, rows], rope[1][:, :, rows]


def apply_rope(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """x (B, heads, T, d) rotated, LLaMA's rotate-half layout: dimension i pairs with i + d/2."""
    low, high = x.chunk(2, dim=-1)
    return (x * rope[0]).add_(torch.cat((high, low), dim=-1).mul_(rope[1]))


class RopeTable:
    """`Rope` of every position of a model, computed once per device and format."""

    def __init__(self, max_positions: int, head_dim: int, theta: float) -> None:
        self._sizes = max_positions, head_dim, theta
        self._table: torch.Tensor | None = None  # (max_positions, 2, d)

    def rows(self, positions: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Rope:
        """Of positions (T,) or (B, T) int64, all below max_positions."""
        table = self._table
        if table is None or table.device != device or table.dtype != dtype:
            table = self._table = self._make(device, dtype)
        rows = table.index_select(0, positions.flatten())
        cos, sin = rows.view(-1, 1, positions.shape[-1], *table.shape[1:]).unbind(3)
        return cos, sin

    def _make(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        max_positions, head_dim, theta = self._sizes
        with torch.inference_mode(False):  # autograd may take it, too
            positions = torch.arange(max_positions, device=device)
            cos, sin = rope_tables(positions, head_dim, theta, dtype)
            return torch.stack((cos[0, 0], sin[0, 0]), dim=1)
