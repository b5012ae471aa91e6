"""What an answer took: seconds per stage, tokens, floating-point operations, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Seconds per stage, the device synchronised at its end; NaN = the stage did not run."""

    preprocess_s: float = NAN  # views resized and normalised
    vision_s: float = NAN  # CLIP tower
    spatial_s: float = NAN  # unprojection, 3D position embedding, voxel pooling, projector
    scene_s: float = NAN  # selection before the model, a schedule's fit, the scene's prefix
    prefill_s: float = NAN  # prompt through the decoder, ranking included
    rank_s: float = NAN  # ranking and selection inside prefill
    first_token_s: float = NAN  # TTFT: from taking the request up to the first token
    decode_s: float = NAN  # all tokens after the first
    postprocess_s: float = NAN  # box parsing and depth checks
    total_s: float = NAN


def added(first: StageTimings, second: StageTimings) -> StageTimings:
    """Both, one after the other: the first token came after all of the first; a stage that ran in
    neither stays NaN.
    """
    names = [field.name for field in fields(StageTimings)]
    sums = {name: _sum(getattr(first, name), getattr(second, name)) for name in names}
    if not math.isnan(second.first_token_s):
        sums["first_token_s"] = _sum(first.total_s, second.first_token_s)
    return StageTimings(**sums)


def _sum(first_s: float, second_s: float) -> float:
    given = [seconds for seconds in (first_s, second_s) if not math.isnan(seconds)]
    return sum(given) if given else NAN


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Counts and costs of one answer; spatial tokens are the scene's or, in 2D, an image's patches.

    keep ratio = mean over layers of kept / total spatial tokens; per_layer: kept in each layer.
    FLOP = 2 multiply-accumulates, from the actual counts. prefill_flops: of this question;
    unpruned_ = the same with nothing pruned, the scene cached as it was; full_ = the same prompt
    unpruned and not cached: full_ to unpruned_ is what caching saved, unpruned_ to the actual what
    pruning saved. build_flops: of the cached scene, paid once, proxies included. decode: one
    generated token.

    kv_bytes: memory that answering took, the cached scene with its room and a question's
    own copy; held_: of it, keys and values of scene and question; unpruned_: the same with
    nothing pruned; attended_, full_: in the model's number format, what a token reads, and the
    whole prompt.
    """

    prompt: int = 0  # all tokens that entered the decoder
    generated: int = 0
    spatial_total: int = 0
    spatial_kept: int = 0  # after the last pruning layer
    keep_ratio_requested: float = NAN
    keep_ratio_achieved: float = NAN
    strategy: str = "none"
    kv_bytes: int = 0
    held_kv_bytes: int = 0
    unpruned_kv_bytes: int = 0
    attended_kv_bytes: int = 0
    full_kv_bytes: int = 0
    prefill_flops: float = NAN
    unpruned_prefill_flops: float = NAN
    full_prefill_flops: float = NAN
    build_flops: float = NAN  # NaN = no cached scene
    unpruned_build_flops: float = NAN
    rank_flops: float = NAN  # on top of prefill_flops
    decode_flops: float = NAN
    full_decode_flops: float = NAN
    per_layer: tuple[int, ...] = ()
    # share of the occupied 0.5 m cells that the last layer's tokens still lie in; NaN in 2D
    coverage: float = NAN
