"""What a question computed and holds, beside the same unpruned, and the same not cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.pruning.cost import DecoderShape, decode_macs, kv_bytes, prefill_macs, question_macs
from ada3d_ros.usage import NAN, TokenUsage


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens of a prompt: counts: spatial ones that each layer kept, of `total`, of which
    `entered` ones entered the decoder; before, behind: others, before and after the spatial ones.
    element_size: of the model's numbers, bytes.
    """

    shape: DecoderShape
    counts: tuple[int, ...]
    total: int
    entered: int
    before: int
    behind: int
    element_size: int

    @property
    def text(self) -> int:
        return self.before + self.behind

    @property
    def held(self) -> list[int]:
        """Tokens per layer."""
        return [count + self.text for count in self.counts]

    @property
    def full(self) -> list[int]:
        """The same, nothing pruned."""
        return [self.total + self.text] * self.shape.num_layers


def costs_of_question(
    kept: Kept, prefilled: PrefillOutput, prefix: ScenePrefix | None, own_kv_bytes: int = 0
) -> TokenUsage:
    """FLOPs and bytes alone. prefix: the cached scene that the question was asked on; own_kv_bytes:
    of what decoding held beside the prefill's cache.
    """
    shape, size = kept.shape, kept.element_size
    build = unpruned_build = NAN
    if prefix is None:
        prefill, rank = prefill_macs(shape, kept.held), 0.0
        unpruned = prefill_macs(shape, kept.full)
        if prefilled.pruner is not None:
            rank = prefilled.pruner.ranking_macs(shape, kept.counts, kept.text, kept.behind)
        memory, held = prefilled.cache.num_bytes, kv_bytes(shape, kept.held, size)
        unpruned_held = kv_bytes(shape, kept.full, size)
    else:
        keys = [count + kept.before for count in kept.counts]
        prefill = question_macs(shape, kept.behind, keys)
        unpruned = question_macs(shape, kept.behind, [kept.total + kept.before] * len(keys))
        rank = _selection_macs(kept, prefilled)
        memory, held = _of_prefix(kept, prefilled, prefix)
        unpruned_held = stored_bytes(prefix.cache, kept.full)
        build, scene = 2 * prefix.macs, kept.total + kept.before
        unpruned_build = 2 * question_macs(shape, scene, [0] * len(keys), with_head=False)
    return TokenUsage(
        kv_bytes=memory + own_kv_bytes,
        held_kv_bytes=held,
        unpruned_kv_bytes=unpruned_held,
        attended_kv_bytes=kv_bytes(shape, kept.held, size),
        full_kv_bytes=kv_bytes(shape, kept.full, size),
        prefill_flops=2 * prefill,
        unpruned_prefill_flops=2 * unpruned,
        full_prefill_flops=2 * prefill_macs(shape, kept.full),
        build_flops=build,
        unpruned_build_flops=unpruned_build,
        rank_flops=2 * rank,
        decode_flops=2 * decode_macs(shape, [n + 1 for n in kept.held]),
        full_decode_flops=2 * decode_macs(shape, [n + 1 for n in kept.full]),
    )


def stored_bytes(cache: KVCache, lengths: Sequence[int]) -> int:
    """Bytes that so many tokens per layer take in the number format of `cache`."""
    return cache.token_bytes * sum(lengths)


def _of_prefix(kept: Kept, prefilled: PrefillOutput, prefix: ScenePrefix) -> tuple[int, int]:
    """Memory, and of it keys and values held, of the scene, and of a copy where the question has
    its own.
    """
    scene = prefix.cache.num_bytes
    if prefilled.cache is prefix.cache:
        return scene, stored_bytes(prefix.cache, [n + kept.behind for n in prefix.lengths])
    own, lent = prefilled.cache.num_bytes, prefilled.cache.borrowed
    beside = [kept.behind if layer in lent else n for layer, n in enumerate(kept.held)]
    held = stored_bytes(prefix.cache, prefix.lengths) + stored_bytes(prefilled.cache, beside)
    return scene + own, held


def _selection_macs(kept: Kept, prefilled: PrefillOutput) -> float:
    """Of each ranking of the cached scene's keys for one question, and of the attention that a
    schedule was made from.
    """
    pruner = prefilled.pruner
    if pruner is None:
        return 0.0
    rows = len(prefilled.ranked_layers) * (kept.behind if pruner.query == "all" else 1)
    rows += kept.behind if pruner.probe_layer is not None else 0
    return float(rows * kept.shape.hidden_size * (kept.entered + kept.text))
