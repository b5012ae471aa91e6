"""System prompt and spatial tokens, the part of a prompt before the question, decoded once.

Its keys and values do not depend on the question, since attention looks back only. It is built a
chunk at a time, or pruned on the way a layer at a time (engine/scene_build.py), so that a question
that comes meanwhile need not wait for all of it, and spatial tokens seen later can be appended. A
question is then only its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache
from ada3d_ros.engine.scene_build import PrunedPass, ScenePruner, SceneTokens
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape, LayerWork, build_macs
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.scene_table import HeldScene, SceneTable
from ada3d_ros.types import PromptSequence, SpatialTokens


@dataclass(frozen=True, slots=True)
class PrefixOptions:
    """chunk_tokens: that pass the layers in one step; int8: keys and values in 8 bits; with_states:
    keep the final states, which a grounding head points with; reserve: room for so many tokens of a
    question and its answer; original_positions: chosen tokens stand where they would among all;
    pruner: what prunes it while it is built, or None; queries: where
    those of questions on it are recorded, or None.
    """

    chunk_tokens: int = 256
    int8: bool = False
    with_states: bool = False
    reserve: int = 512
    original_positions: bool = False
    pruner: ScenePruner | None = None
    queries: RecordedQueries | None = None


class ScenePrefix:
    """System tokens at positions 0.., then the spatial tokens in the order they came, then room for
    a question.

    embeds (N, D): the spatial tokens as the decoder gets them; chosen: the same before the
    projector, and which of all `tokens` of the scene they are; scene: the keyframes they were made
    of. held: per layer, which of the N it keeps for questions, ascending indices (n_i,); None where
    each keeps all. `ready` once all tokens have passed. Not safe across threads.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        prompt: PromptSequence,
        context: SceneContext,
        options: PrefixOptions = PrefixOptions(),
    ) -> None:
        self.decoder, self.options = decoder, options
        self.scene, self.tokens, self.chosen = context.scene, context.tokens, context.chosen
        self.start, stop = prompt.spatial_span
        self.embeds = prompt.embeds[self.start : stop]
        pruner, layers = options.pruner, decoder.config.num_layers
        whole = 0 if pruner is not None else max(stop - options.chunk_tokens, 0)
        self._capacity = whole + options.reserve
        self.positions = prompt.positions[:stop]  # (start + N,) int64, as the tokens stand
        self.num_evicted = 0  # positions before what follows that nothing takes any more
        if options.original_positions:
            self.positions = self.chosen.positions(prompt)[:stop]
        if self.next_position >= decoder.config.max_positions:
            shorter = (
                "set pruning.pre_positions to compact"
                if options.original_positions
                else "choose tokens before the language model (pruning.strategy"
                " voxel_dpp+adatoken3d): pruning inside it frees no positions"
            )
            raise QuestionTooLongError(
                f"the scene ends at position {self.next_position}, the model's positions end at"
                f" {decoder.config.max_positions}: no room for a question. Keep fewer views"
                f" (keyframe.max_views), or {shorter}."
            )
        self._waiting = prompt.embeds[:stop]  # tokens that have not passed
        self._states: list[torch.Tensor] = []
        self.head_keys: torch.Tensor | None = None  # of final_states, from whoever asks for them
        self._passed = 0
        self.lengths = (0,) * layers  # of the keys held in each layer, the last question's not
        self.held: tuple[torch.Tensor, ...] | None = None
        self._pruner, self._pass = pruner, cast(PrunedPass | None, None)
        self.macs = 0.0  # of building and appending
        self.cache = self._empty_cache()

    @property
    def ready(self) -> bool:
        return not len(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Tokens that have not passed yet."""
        return len(self._waiting)

    @property
    def next_position(self) -> int:
        """Of what follows all spatial tokens."""
        return self.position_after(len(self.embeds))

    def position_after(self, count: int) -> int:
        """Of what follows the first `count` spatial tokens, the others not being there."""
        if self.options.original_positions:
            count = self.chosen.num_before_selection
        return self.start + count + self.num_evicted

    @property
    def xyz_m(self) -> torch.Tensor:
        """(N, 3) float32 of the spatial tokens, world."""
        return self.chosen.tokens.xyz_m

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values, the room for questions included."""
        return self.cache.num_bytes

    def crop(self) -> None:
        """Forget the last question, and give back the room that a long one took."""
        self.cache.set_lengths(self.lengths)
        self.cache.give_back()

    def kept(self, layer: int) -> torch.Tensor:
        """Which of the N spatial tokens the layer keeps, (n_i,) int64 ascending."""
        if self.held is None:
            return torch.arange(len(self.embeds), device=self.embeds.device)
        return self.held[layer]

    def step(self) -> bool:
        """One chunk through all layers, or where it is pruned all that wait through one layer;
        whether more is to do. Where it fails (memory), what waits waits on.
        """
        return self._step_pruned() if self._pruner is not None else self._step_chunk()

    @torch.inference_mode()
    def _step_chunk(self) -> bool:
        chunk = self._waiting[: self.options.chunk_tokens]
        if self._passed:
            self.crop()
        else:  # what a failed first chunk left
            self.cache = self._empty_cache()
        positions = self.positions[self._passed : self._passed + len(chunk)]
        layers = self.decoder.config.num_layers
        hidden = self.decoder.run_layers(0, layers, chunk[None], positions, self.cache)
        if self.options.with_states:
            self._states.append(self.decoder.norm(hidden[0]))
            self.head_keys = None
        self._passed += len(chunk)
        self.lengths = (self._passed,) * layers
        self._count([LayerWork(self._passed - len(chunk), len(chunk))] * layers)
        self._waiting = self._waiting[len(chunk) :]
        return not self.ready

    def _step_pruned(self) -> bool:
        assert self._pruner is not None
        if self._pass is None:
            if self._passed:
                self.crop()
            else:  # what a failed first pass left
                self.cache = self._empty_cache()
            total, start = len(self._waiting), max(self.start - self._passed, 0)
            first = self._passed - self.start + start
            xyz_m = self.xyz_m[first : first + total - start]
            positions = self.positions[self._passed :]
            rows = self.chosen.rows.crop(first, first + total - start)
            after = self.next_position
            tokens = SceneTokens(self._waiting, positions, start, after, xyz_m, rows)
            self._pass = PrunedPass(self.decoder, tokens, self._pruner, self.cache)
        running, self._pass = self._pass, None  # a failed one is of no use
        if running.step():
            self._pass = running
        else:
            self.take_pass(running)
        return not self.ready

    def take_pass(self, done: PrunedPass) -> None:
        """What a pass through all layers came to."""
        held, before = tuple(done.passed.held), self._passed - self.start
        if self.held is not None:
            pairs = zip(self.held, held, strict=True)
            held = tuple(torch.cat((old, more + before)) for old, more in pairs)
        pruner = replace(cast(ScenePruner, self._pruner), ranking=done.frozen())
        states = [self.decoder.norm(done.hidden)] if self.options.with_states else []
        # All at once, since memory may end above.
        self.held, self._pruner = held, pruner
        self._states += states
        self.head_keys = None
        self._count(done.passed.work)
        self.lengths = self.cache.lengths
        self._passed += done.num_tokens
        self._waiting = self._waiting[done.num_tokens :]

    def _count(self, work: Sequence[LayerWork]) -> None:
        self.macs += build_macs(DecoderShape.from_config(self.decoder.config), work)

    def append_tokens(
        self, embeds: torch.Tensor, tokens: SpatialTokens, scene: SceneSnapshot
    ) -> None:
        """More spatial tokens, embeds (M, D), after those that are in; they pass with the next
        steps. What is in stays as it is.
        """
        before = self.chosen.tokens
        joined = SpatialTokens(
            torch.cat((before.features, tokens.features)),
            torch.cat((before.xyz_m, tokens.xyz_m)),
            torch.cat((before.num_patches, tokens.num_patches)),
            before.voxel_size_m,
        )
        total, embeds = joined.features.shape[0], embeds.to(self.embeds.dtype)
        chosen = ChosenTokens(joined, torch.arange(total, device=embeds.device), total)
        all_embeds = torch.cat((self.embeds, embeds))
        first = self.next_position
        places = torch.arange(first, first + len(embeds), device=embeds.device)
        positions = torch.cat((self.positions, places))
        waiting = torch.cat((self._waiting, embeds))
        # All at once, since memory may end above.
        self.tokens, self.chosen, self.scene = joined, chosen, scene
        self.embeds, self._waiting, self.positions = all_embeds, waiting, positions

    @torch.inference_mode()
    def evict(self, kept: torch.Tensor) -> None:
        """Go on with the spatial tokens kept (n,) int64 ascending of the N, one at least: the
        others' keys and values go, what came after them stays as it was, its positions too; all in
        the buffers that are there. What follows stands behind the last that is kept.
        """
        assert self.ready
        assert len(kept)
        kept = kept.to(self.embeds.device)
        new_index = torch.full((len(self.embeds),), -1, device=kept.device)
        new_index[kept] = torch.arange(len(kept), device=kept.device)
        system = torch.arange(self.start, device=kept.device)
        rows, held = [], []  # of each layer
        for layer in range(self.decoder.config.num_layers):
            index = new_index[self.kept(layer)]
            stays = torch.nonzero(index >= 0)[:, 0]
            rows.append(torch.cat((system, self.start + stays)))
            held.append(index[stays])
        self.crop()
        with_state = rows[-1] if self.held is None else rows[-1][self.start :] - self.start
        states = [torch.cat(self._states)[with_state]] if self._states else []
        tokens, count = self.chosen.tokens.at(kept), len(kept)
        chosen = ChosenTokens(tokens, torch.arange(count, device=kept.device), count)
        positions = self.positions[torch.cat((system, self.start + kept))]
        following, embeds = int(positions[-1]) + 1, self.embeds[kept]
        self.cache.keep_tokens(rows)
        # All at once, since memory may end above.
        self.num_evicted = following - self.start - count
        self.held = None if self.held is None else tuple(held)
        self._states, self.head_keys = states, None
        self.tokens, self.chosen, self.embeds = tokens, chosen, embeds
        self.positions, self.lengths = positions, self.cache.lengths
        self._passed = self.start + count

    def final_states(self) -> torch.Tensor:
        """Normed states (n_L, D) of the spatial tokens with a place that the last layer keeps; of a
        prefix made with them alone.
        """
        assert self.options.with_states
        if len(self._states) > 1:
            self._states = [torch.cat(self._states)]
        states = self._states[0] if self.held is not None else self._states[0][self.start :]
        rows = self.chosen.rows
        if rows.plain:
            return states
        return states[~rows.is_newline[self.kept(self.decoder.config.num_layers - 1)]]

    def _empty_cache(self) -> KVCache:
        kind = Int8KVCache if self.options.int8 else KVCache
        return kind(self.decoder.config.num_layers, self._capacity)


class PrefixEntry(ScenePrefix):
    """A prefix and what of its scene it was made of.

    whole: all that the scene has are tokens of the prefix, neither capped nor chosen from.
    """

    made_of: HeldScene
    whole: bool

    @property
    def in_order(self) -> bool:
        """Whether its tokens stand as those of a prefix made anew would."""
        return self.made_of.in_order

    def hold(self, table: SceneTable, selected: bool) -> None:
        """Note that it was made of the table. selected: only some of its tokens were taken."""
        self.made_of = table.hold()
        total = self.chosen.num_before_selection
        self.whole = not selected and len(self.embeds) == table.num_tokens == total

    def stale_share(self, table: SceneTable) -> float:
        """Share of what is held or there now that is not held as it is now."""
        return table.stale_share(self.made_of)

    @torch.inference_mode()
    def append_new_tokens(
        self, table: SceneTable, model: Backbone, scene: SceneSnapshot, reserve: int
    ) -> bool:
        """Append what the table has and the prefix lacks, after frames that are gone were cut out
        where the model's form allows it; False where there is no way or no room.

        reserve: positions kept free after them. What is held already stays as it was.
        """
        # Only a prefix that holds the whole scene can grow, and only as far as the prompt has room.
        if not self.whole:
            return False
        left = table.without_gone(self.made_of) if self.ready else None
        kept, made_of = (None, self.made_of) if left is None else left
        num_kept, following = len(self.embeds), self.next_position
        if kept is not None:
            num_kept = len(kept)
            following = int(self.positions[self.start + int(kept[-1])]) + 1 if num_kept else 0
        tokens, made_of = model.new_tokens(table, made_of)
        config, count = model.config, len(tokens.features)
        room = min(
            config.max_spatial_tokens(len(scene.keyframes)) - num_kept,
            config.max_length - following - reserve,
        )
        if count > room or not num_kept:
            return False
        if kept is not None:
            self.evict(kept)
        self.append_tokens(model.project(tokens.features), tokens, scene)
        self.made_of = made_of
        return True
