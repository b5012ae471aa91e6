"""How a budget is shared among the layers of a scene pruned while it is built.

Two curves, in shares of the spatial tokens that enter the decoder: `alive`, what each layer
computes, and `held`, what of it questions read. The budget is the mean of `held`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.schedule import ROUNDING, Curve, UnreachableBudgetError, ratio_list

CURVE_FROM, EVEN_FROM = 0.3, 0.15  # keep ratios from which on `auto` takes the curve, even shares
LATE = (0.5, 0.5, 1.0, 2.0)  # of the budget, by quarters of the depth


@dataclass(frozen=True, slots=True)
class Allocation:
    """alive, held (L,): shares of the spatial tokens that enter; alive never grows, starts at 1;
    held is at most alive.
    """

    alive: tuple[float, ...]
    held: tuple[float, ...]

    @property
    def same(self) -> bool:
        """Whether each layer keeps all that it computes."""
        return self.alive == self.held

    @property
    def ranked(self) -> frozenset[int]:
        """The 0-based layers that rank the tokens of a scene, unless it is too small."""
        before = (1.0, *self.alive[:-1])
        layers = enumerate(zip(before, self.held, strict=True))
        return frozenset(i for i, (alive, held) in layers if held < alive - ROUNDING)

    def counts(self, num_tokens: int, n_min: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of num_tokens alive and held in each layer: at least n_min, or all."""
        least = min(n_min, num_tokens)
        alive, before = [], num_tokens
        for share in self.alive:
            before = min(before, max(int(share * num_tokens + ROUNDING), least))
            alive.append(before)
        held = [
            min(a, max(int(share * num_tokens + ROUNDING), least))
            for a, share in zip(alive, self.held, strict=True)
        ]
        return tuple(alive), tuple(held)


def uses_curve(config: CacheConfig, keep_ratio: float) -> bool:
    """Whether the strategy's own schedule is needed; keep_ratio: of all spatial tokens."""
    return config.alive == "curve" or (config.alive == "auto" and keep_ratio >= CURVE_FROM)


def allocate(
    config: CacheConfig,
    keep_ratio: float,
    curve: Sequence[float],
    measured: Sequence[float] | None = None,
    entered: float = 1.0,
    by_worth: bool = False,
) -> Allocation:
    """The shares under these settings.

    keep_ratio: mean of `held`, of what enters; entered: share of all spatial tokens that does: what
    `auto` does goes by the keep ratio of all; curve (L,): the strategy's own schedule, held, used
    where `uses_curve`; measured (L,): the worth of each layer's share, mean 1, or None; by_worth:
    `auto` computes all that enters and holds by worth, whatever the ratio (adatoken3d_plus). Shares
    written out in `cache.held` (or `cache.alive`, where it is held) decide instead of keep_ratio.
    Raises ConfigError for lists of another length, and budgets out of reach, with what can be had.
    """
    k, alive_kind, held_kind = keep_ratio, config.alive, config.held
    overall = k * entered + ROUNDING  # a product of shares
    even = overall >= EVEN_FROM or entered < 1.0  # a choice before has spread them already
    large = overall >= CURVE_FROM
    late = "late" if measured is None else "measured"
    if by_worth:
        alive_kind = ",".join("1" * len(curve)) if alive_kind == "auto" else alive_kind
        held_kind = late if held_kind == "auto" else held_kind
    if alive_kind == "auto":
        # On few layers the first one, which computes all, leaves the curve less than even shares.
        large = large and min(curve[:2]) >= k - ROUNDING
        alive_kind = "curve" if large else "even" if even else "double"
    if held_kind == "auto":
        same = alive_kind == "curve" or (large and alive_kind != "double")
        held_kind = "alive" if same else "even" if even else late

    alive = _alive(alive_kind, held_kind, k, curve)
    if alive_kind == "curve":  # made for this budget, down to whole tokens
        k = min(k, float(alive.mean()))
    if held_kind == "alive":
        held = alive
    elif held_kind in ("even", "late", "measured"):
        held = _filled(k, _worth(held_kind, len(curve), measured), alive)
    else:
        held = _listed("cache.held", held_kind, len(curve))
        if (held > alive + ROUNDING).any():
            layer = int(np.argmax(held > alive + ROUNDING))
            raise ConfigError(
                f"cache.held = {held_kind!r} keeps {held[layer]:g} in layer {layer + 1}, which"
                f" computes {alive[layer]:g} (cache.alive); allowed: up to that."
            )
    return Allocation(tuple(map(float, alive)), tuple(map(float, np.minimum(held, alive))))


def _alive(kind: str, held_kind: str, k: float, curve: Sequence[float]) -> Curve:
    """What each layer computes (L,)."""
    layers = len(curve)
    if kind == "curve":
        return np.asarray(curve, dtype=np.float64)
    if kind == "double" and held_kind == "alive":
        raise ConfigError(
            "cache.alive = 'double' computes twice the budget, and cache.held = 'alive' would keep"
            " all of it: set cache.held to auto, even, late or measured, or cache.alive to even."
        )
    if kind == "even" and held_kind == "alive":  # layer 1, which sees all, counts in the budget
        if k * layers < 1.0 - ROUNDING:
            raise UnreachableBudgetError("keep_ratio", k, 1.0 / layers)
        share = 1.0 if layers == 1 else max(k * layers - 1.0, 0.0) / (layers - 1)
        return np.array([1.0] + [share] * (layers - 1))
    if kind in ("even", "double"):
        share = min(1.0, k * (1 if kind == "even" else 2))
        return np.array([1.0] + [share] * (layers - 1))
    listed = _listed("cache.alive", kind, layers)
    if listed[0] < 1.0 or (np.diff(listed) > 0.0).any():
        raise ConfigError(
            f"cache.alive = {kind!r}: the first layer computes all tokens, and those that went do"
            " not return; allowed: 1 first, then shares that never grow."
        )
    return listed


def _worth(kind: str, layers: int, measured: Sequence[float] | None) -> Curve:
    """What each layer's share is worth (L,), in any unit."""
    if kind == "even":
        return np.ones(layers)
    if kind == "late":
        return np.asarray(LATE)[np.arange(layers) * len(LATE) // layers]
    if measured is None:
        raise ConfigError(
            "cache.held = 'measured': there is no file that says what each layer's share is worth"
            " (cache.queries_file): write one with `ada3d calibrate --held`, or use late."
        )
    if len(measured) != layers:
        raise ConfigError(
            f"the file of cache.queries_file says what {len(measured)} layers are worth, this"
            f" decoder has {layers}: write one for this model with `ada3d calibrate --held`."
        )
    return np.asarray(measured, dtype=np.float64)


def _filled(k: float, worth: Curve, alive: Curve) -> Curve:
    """Shares in proportion to `worth` with mean k; what a layer does not compute goes to the
    others.
    """
    total, most = k * len(alive), float(np.where(worth > 0.0, alive, 0.0).mean())
    if k > most + ROUNDING:
        raise ConfigError(
            f"keep_ratio = {k:g} is above what the layers compute (cache.alive) and questions read"
            f" (cache.held); allowed: up to {most:.4g} of what enters the language model."
        )
    full = np.zeros(len(alive), dtype=bool)
    for _ in alive:  # each round fills one more layer, or none
        rest = worth[~full].sum()
        scale = (total - alive[full].sum()) / rest if rest > 0.0 else 0.0
        more = full | (scale * worth >= alive)
        if (more == full).all():
            break
        full = more
    return np.where(full, alive, np.minimum(scale * worth, alive))


def _listed(name: str, text: str, layers: int) -> Curve:
    shares = ratio_list(text)
    if len(shares) != layers or not all(0.0 < share <= 1.0 for share in shares):
        raise ConfigError(
            f"{name} = {text!r}: one share above 0 and at most 1 for each of the {layers} layers."
        )
    return np.asarray(shares, dtype=np.float64)
