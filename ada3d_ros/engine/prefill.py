"""Prefill: a prompt through all layers, keys and values kept, logits of the last token only.

Two ways: the whole prompt (`prefill`), dropping spatial tokens between layers as published; or a
question after a scene whose keys and values are cached (`prefill_question`), each layer attending
to the best of them. Text tokens never drop, and each layer's KV cache has its own length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.layer_walk import LayerWalk, RankAndDrop, RecordQueries
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import InvalidRequestError, ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import NAN, PromptSequence


@dataclass(frozen=True, eq=False, slots=True)
class FinalStates:
    """Normed hidden states after the last layer: query (D,) of the last prompt token, spatial (N,
    D) of the tokens kept to the end that have a place; none (0, D) of a cached scene made without
    them.
    """

    query: torch.Tensor
    spatial: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class PrefillOutput:
    """What decode starts from.

    logits (vocab,) of the last prompt token; next_positions: of the first generated token, per
    layer; kept: per layer (N_i,) int64, ascending indices into the N spatial tokens of the prompt.
    rank_s: what ranking and dropping add to the prefill: queries, scores, selection, gathering, and
    the keys of tokens that go (the others' keys the layer reuses); NaN without a pruner. states:
    where asked for. pruner: what dropped or selected them; ranked_layers: the 0-based layers whose
    attention ranked for it.
    """

    logits: torch.Tensor
    cache: KVCache
    next_positions: tuple[int, ...]
    kept: tuple[torch.Tensor, ...]
    rank_s: float = NAN
    states: FinalStates | None = None
    pruner: LayerPruner | None = None
    ranked_layers: tuple[int, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """Spatial tokens alive in each layer, newlines too."""
        return tuple(map(len, self.kept))


@torch.inference_mode()
def prefill(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    reserve: int = 256,
    pruner: LayerPruner | None = None,
    with_states: bool = False,
) -> PrefillOutput:
    """The whole prompt through all layers, its spatial tokens dropped as `pruner` says. reserve:
    tokens that decode may append before a buffer must grow. with_states: hand out the final states
    that a grounding head points with.

    Raises ModelError where scores or logits are not finite (as after an overflow in float16),
    InvalidRequestError where no prompt token follows the spatial tokens that could rank them.
    """
    walk = LayerWalk(decoder, prompt, KVCache(decoder.config.num_layers, reserve))
    visitor = None
    if pruner is not None and len(walk.kept):
        if prompt.spatial_span[1] >= prompt.embeds.shape[0]:
            raise InvalidRequestError(
                "no prompt token follows the spatial tokens, so nothing can rank them: put the"
                " question behind the scene, or use a strategy before the language model."
            )
        visitor = RankAndDrop(pruner, rows_of(prompt), decoder.device)
    walk.run(visitor)
    states = None
    if with_states:
        normed, rows = decoder.norm(walk.hidden[0]), rows_of(prompt)
        spatial = normed[slice(*walk.spatial)]
        if not rows.plain:
            spatial = spatial[~rows.is_newline[walk.kept]]
        states = FinalStates(normed[-1], spatial)
    return _finish(walk, visitor, states, pruner)


@torch.inference_mode()
def prefill_question(
    prefix: ScenePrefix,
    question: torch.Tensor,
    reserve: int = 256,
    pruner: LayerPruner | None = None,
    count: int | None = None,
    with_states: bool = False,
) -> PrefillOutput:
    """Embeddings (T, D) of the question after the first `count` spatial tokens of the scene (None:
    all); only they pass through the layers.

    Unpruned this is the full prefill exactly, in another order of sums, and the output's cache is
    the prefix's own, lent until its next question, or a copy where its room ends. With a pruner
    each layer attends to the best of the scene's keys for this question, as many as the schedule
    says, in a copy; layers before the first that selects are lent too. That is not the paper's
    computation: there a kept token has seen only kept ones, here it has seen the whole scene; both
    are one up to the first pruned layer. Of a prefix that was pruned while it was built, each layer
    attends to what it holds: no pruner then. `kept` are indices into the prefix's spatial tokens.
    Raises as `prefill` does.
    """
    if not len(question):
        raise InvalidRequestError(
            "no prompt token follows the spatial tokens: put the question behind the scene."
        )
    decoder = prefix.decoder
    prefix.crop()
    count = len(prefix.embeds) if count is None else count
    first = prefix.position_after(count)
    positions = torch.arange(first, first + len(question), device=question.device)
    prompt, room = PromptSequence(question, positions, (0, 0)), len(question) + reserve

    # Unpruned: the cached keys themselves. Pruned: what each layer selects of them.
    visitor = None
    if pruner is None or not count:
        walk = LayerWalk(decoder, prompt, _cropped_cache(prefix, count, room))
    else:
        assert prefix.held is None, "pruned already"
        from ada3d_ros.engine.select_keys import RankAndSelect  # where it is asked for

        walk = LayerWalk(decoder, prompt, KVCache(decoder.config.num_layers, room))
        visitor = RankAndSelect(pruner, prefix, count, room)
    walk.kept = torch.arange(count, device=question.device)
    recorder = None if prefix.options.queries is None else RecordQueries(walk.attend)
    if recorder is not None:
        walk.attend = recorder
    walk.run(visitor)
    states, held = None, prefix.held
    if with_states:
        spatial = prefix.final_states() if prefix.options.with_states else walk.hidden[0, :0]
        rows = prefix.chosen.rows
        kept = rows.with_place(walk.kept_per_layer[-1])
        if held is None and len(kept) < len(spatial):
            spatial = spatial[kept if rows.plain else rows.number[kept]]
        states = FinalStates(decoder.norm(walk.hidden[0, -1]), spatial)
    if held is not None:
        walk.kept_per_layer = list(held)
    output = _finish(walk, visitor, states, pruner)
    if recorder is not None and prefix.options.queries is not None:  # of finite numbers alone
        prefix.options.queries.record(recorder.unroped(walk.rope))
    return output


def _cropped_cache(prefix: ScenePrefix, count: int, room: int) -> KVCache:
    """The prefix's cache with room for so many more tokens, lent; a copy, the question's own, where
    it has not so much room, and of a smaller budget.
    """
    cache, stop = prefix.cache, prefix.start + count
    if count == len(prefix.embeds):
        return cache if cache.has_room(room) else cache.copied(room)
    held = [cache.held(layer) for layer in range(len(cache.lengths))]
    return KVCache.holding([(k[:, :, :stop], v[:, :, :stop]) for k, v in held], room)


def _finish(
    walk: LayerWalk,
    visitor: RankAndDrop | None,
    states: FinalStates | None,
    pruner: LayerPruner | None,
) -> PrefillOutput:
    """Logits and results of a walk that has run all layers; waits for the device."""
    logits = walk.decoder.logits(walk.hidden[0, -1])
    require_finite(logits)
    if visitor is not None:
        require_finite_scores(visitor)
    assert walk.cache is not None
    return PrefillOutput(
        logits=logits,
        cache=walk.cache,
        next_positions=tuple(walk.next_positions),
        kept=tuple(walk.kept_per_layer),
        rank_s=visitor.timer.total_s() if visitor is not None else NAN,
        states=states,
        pruner=pruner,
        ranked_layers=tuple(visitor.ranked_layers) if visitor is not None else (),
    )


def require_finite(logits: torch.Tensor) -> None:
    """Raise ModelError unless all of the logits are finite; waits for the device."""
    if not bool(torch.isfinite(logits).all()):
        raise not_finite(logits.dtype)


def not_finite(dtype: torch.dtype) -> ModelError:
    """The error of logits that are NaN or infinite."""
    return ModelError(
        f"the model's output is not finite in {dtype}: the weights are damaged, or float16"
        " overflowed (use model.precision bf16 or fp32)."
    )


def require_finite_scores(visitor: RankAndDrop) -> None:
    """Raise ModelError for a ranking that was not finite. Asked once, at the end, so that no layer
    waits.
    """
    if visitor.finite and not bool(torch.stack(visitor.finite).all()):
        finite = torch.stack(visitor.finite).tolist()
        layer = visitor.ranked_layers[finite.index(False)]
        raise ModelError(
            f"the ranking scores of layer {layer + 1} are not finite (NaN): the weights are"
            " damaged, or float16 overflowed (use model.precision bf16 or fp32)."
        )
