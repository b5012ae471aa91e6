"""Information contribution of spatial tokens per layer (AdaToken-3D eqs. 1-4 and 6).

Made of attention masses: means over queries of the head-averaged attention that falls on a range of
keys; they lie in 0..1 whatever the scene's size. They are sums of exp(score - log-sum-exp of the
row) over key ranges, a block of queries at a time: no T x T matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.pruning.schedule import Curve
from ada3d_ros.token_rows import TokenRows

Span = tuple[int, int]  # [start, stop)
Keys = Span | torch.Tensor  # a range of the T keys, or which of them, (T,) bool
BLOCK_ELEMENTS = 2**22  # scores held at once


@dataclass(frozen=True, slots=True)
class InformationSettings:
    """Weights of eqs. 2-4; the defaults are those of `pruning.adatoken3d.inf`."""

    a1: float = 0.3
    a2: float = 0.7
    sigma: float = 0.73
    gamma: float = 0.27
    eps: float = 1.0
    alpha_f: float = 1.0


@dataclass(frozen=True, slots=True)
class Masses:
    """One layer: S_self spatial to spatial (eq. 1), S_ss spatial to system, S_sp prompt to spatial.

    S_self + S_ss = 1, since a causal spatial query attends to nothing else: newlines, which have no
    place, count with the system text, and do not ask.
    """

    S_self: float
    S_sp: float
    S_ss: float


@dataclass(frozen=True, eq=False, slots=True)
class Information:
    """Per layer, (L,) float64 each. INF: eq. 4; I: eq. 6, in 0..1, all 0 where INF is constant."""

    S_cross: Curve
    F: Curve
    INF: Curve
    I: Curve


# -- from masses to information


def information_of(
    masses: Sequence[Masses], settings: InformationSettings = InformationSettings()
) -> Information:
    """Eqs. 2, 3, 4 and 6 on the masses of layers 1..L. F(1) = S_self(1)."""
    S_self = np.array([m.S_self for m in masses], dtype=np.float64)
    S_sp = np.array([m.S_sp for m in masses], dtype=np.float64)
    S_ss = np.array([m.S_ss for m in masses], dtype=np.float64)
    S_cross = settings.a1 * S_sp + settings.a2 * S_ss
    F = np.empty_like(S_self)
    for i, value in enumerate(S_self):
        F[i] = value if i == 0 else settings.sigma * value + settings.gamma * F[i - 1]
    INF = np.exp(S_cross / settings.eps) + settings.alpha_f * F + np.log1p(S_self)
    return Information(S_cross, F, INF, normalise(INF))


def normalise(INF: Curve) -> Curve:
    """Eq. 6: min-max to 0..1; 0 everywhere for a constant curve."""
    INF = np.asarray(INF, dtype=np.float64)
    extent = float(np.ptp(INF))
    if extent <= 1e-12 * max(1.0, float(np.abs(INF).max())):
        return np.zeros_like(INF)
    return np.clip((INF - INF.min()) / extent, 0.0, 1.0)


def falls_with_depth(I: Curve) -> bool:
    """Whether I (L,) correlates negatively with depth, as pruning deeper layers more assumes."""
    I = np.asarray(I, dtype=np.float64)
    return float(np.ptp(I)) > 0.0 and float(np.corrcoef(np.arange(len(I)), I)[0, 1]) < 0.0


def mean_masses(samples: Sequence[Sequence[Masses]]) -> list[Masses]:
    """Layer by layer, the mean over scenes and questions."""
    stacked = np.mean([[(m.S_self, m.S_sp, m.S_ss) for m in sample] for sample in samples], axis=0)
    return [Masses(*map(float, row)) for row in stacked]


# -- from attention to masses


def query_rows(
    tokens: int,
    spatial: Span,
    stride: int,
    device: torch.device | None = None,
    among: TokenRows | None = None,
) -> torch.Tensor:
    """Indices (R,) int64 of the queries that masses are measured on, of a prompt of `tokens`.

    Every stride-th spatial token with a place, from the middle of the first stride on, and all
    tokens after them; among: the spatial tokens' rows, None where every one has a place. Raises
    InvalidRequestError where the scene is empty or nothing follows it.
    """
    start, stop = spatial
    places = stop - start if among is None else among.num_placed
    if not (places and stop < tokens):
        raise InvalidRequestError(
            "information is measured on a prompt with spatial tokens and text behind them; this"
            f" one has {places} spatial tokens and {tokens - stop} behind them."
        )
    first = min((stride - 1) // 2, places - 1)
    of_scene = torch.arange(first, places, stride, device=device)
    if among is not None and not among.plain:
        of_scene = among.placed[of_scene]
    return torch.cat((start + of_scene, torch.arange(stop, tokens, device=device)))


def keys_before(spatial: Span, tokens: int, among: TokenRows | None) -> dict[str, Keys]:
    """The keys that a spatial query of `tokens` ones attends to: the system text, newlines with it,
    and the spatial tokens with a place.
    """
    start, stop = spatial
    if among is None or among.plain:
        return {"system": (0, start), "spatial": spatial}
    placed = torch.zeros(tokens, dtype=torch.bool, device=among.placed.device)
    placed[start + among.placed] = True
    before = torch.arange(tokens, device=placed.device) < stop
    return {"system": before & ~placed, "spatial": placed}


def range_masses(
    q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, ranges: Mapping[str, Keys]
) -> dict[str, torch.Tensor]:
    """Head-averaged causal attention of query rows on ranges of the keys, (R,) float32 each.

    q (H, R, d) of the rows (R,); k (G, T, d); roped. Every key a row attends to must lie in one of
    the ranges.
    """
    # Blocks of queries, so that a block's scores fit BLOCK_ELEMENTS.
    heads, count, width = q.shape
    groups, tokens, _ = k.shape
    block, places = max(1, BLOCK_ELEMENTS // (heads * tokens)), rows.tolist()
    columns = torch.arange(tokens, device=k.device)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in ranges}
    scaled = q * width**-0.5
    k = k.contiguous()  # a strided product of 16-bit numbers is ten times slower on a CPU
    for start in range(0, count, block):
        # Scores over the keys up to the block's last query; those after it count for none of them.
        part = rows[start : start + block]
        first, stop = min(places[start : start + block]), max(places[start : start + block]) + 1
        grouped = scaled[:, start : start + block].reshape(groups, -1, width)
        scores = (grouped @ k[:, :stop].transpose(1, 2)).reshape(heads, len(part), stop)

        # Causal mask: what stands before `first` every query of the block attends to.
        mask = torch.zeros(len(part), stop - first, dtype=scores.dtype, device=k.device)
        mask.masked_fill_(columns[first:stop] > part[:, None], float("-inf"))
        scores[..., first:].add_(mask)

        # Shares of each range, mean over heads.
        shares = torch.softmax(scores, dim=-1, dtype=torch.float32)
        for name, keys in ranges.items():
            if isinstance(keys, torch.Tensor):
                of_keys = shares * keys[:stop]
            else:
                of_keys = shares[..., keys[0] : keys[1]]
            pieces[name].append(of_keys.sum(dim=-1).mean(dim=0))
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def layer_masses(
    q: torch.Tensor,
    k: torch.Tensor,
    rows: torch.Tensor,
    spatial: Span,
    among: TokenRows | None = None,
) -> Masses:
    """The masses of one layer.

    q (H, R, d): its roped queries of `query_rows` (R,); k (G, T, d): its roped keys of all tokens;
    among: as there.
    """
    found = range_masses(q, k, rows, keys_before(spatial, k.shape[1], among))
    is_spatial = rows < spatial[1]
    means = (
        found["spatial"][is_spatial].mean(),
        found["spatial"][~is_spatial].mean(),
        found["system"][is_spatial].mean(),
    )
    return Masses(*torch.stack(means).double().tolist())


def attention_masses(attention: torch.Tensor, spatial: Span) -> Masses:
    """The same from a whole causal attention matrix (H, T, T); for checks and recorded data."""
    start, stop = spatial
    mean = attention.double().mean(dim=0)
    return Masses(
        S_self=float(mean[start:stop, start:stop].sum(dim=1).mean()),
        S_sp=float(mean[stop:, start:stop].sum(dim=1).mean()),
        S_ss=float(mean[start:stop, :start].sum(dim=1).mean()),
    )
