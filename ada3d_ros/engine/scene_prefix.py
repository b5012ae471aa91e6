"""System prompt and spatial tokens, the part of a prompt before the question, decoded once.

Its keys and values do not depend on the question, since attention looks back only. It is built a
chunk at a time, so that a question that comes meanwhile need not wait for all of it, and spatial
tokens seen later can be appended. A question is then only its own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.spatial import mean_tokens
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.voxel_table import VoxelTable, ascending_order, find_voxels
from ada3d_ros.types import PromptSequence, SpatialTokens


@dataclass(frozen=True, slots=True)
class PrefixOptions:
    """chunk_tokens: that pass the layers in one step; int8: keys and values in 8 bits; with_states:
    keep the final states, which a grounding head points with; reserve: tokens kept free for a
    question and its answer.
    """

    chunk_tokens: int = 256
    int8: bool = False
    with_states: bool = False
    reserve: int = 512


class ScenePrefix:
    """System tokens at positions 0.., then the spatial tokens in the order they came, then room for
    a question.

    embeds (N, D): the spatial tokens as the decoder gets them; chosen: the same before the
    projector, and which of all `tokens` of the scene they are; scene: the keyframes they were made
    of. `ready` once all tokens have passed. Not safe across threads.
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
        self._capacity = max(stop - options.chunk_tokens, 0) + options.reserve
        self._waiting = prompt.embeds[:stop]  # tokens that have not passed
        self._states: list[torch.Tensor] = []
        self._passed = 0
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
        return self.start + len(self.embeds)

    @property
    def xyz_m(self) -> torch.Tensor:
        """(N, 3) float32 of the spatial tokens, world."""
        return self.chosen.tokens.xyz_m

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values, the room for questions included."""
        return self.cache.num_bytes

    def crop(self) -> None:
        """Forget the last question."""
        self.cache.set_lengths([self._passed] * self.decoder.config.num_layers)

    @torch.inference_mode()
    def step(self) -> bool:
        """One chunk through all layers; whether more are waiting. Where it fails (memory), the
        chunk waits on.
        """
        chunk = self._waiting[: self.options.chunk_tokens]
        if self._passed:
            self.crop()
        else:  # what a failed first chunk left
            self.cache = self._empty_cache()
        positions = torch.arange(self._passed, self._passed + len(chunk), device=chunk.device)
        layers = self.decoder.config.num_layers
        hidden = self.decoder.run_layers(0, layers, chunk[None], positions, self.cache)
        if self.options.with_states:
            self._states.append(self.decoder.norm(hidden[0]))
        self._passed += len(chunk)
        self._waiting = self._waiting[len(chunk) :]
        return not self.ready

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
        waiting = torch.cat((self._waiting, embeds))
        # All at once, since memory may end above.
        self.tokens, self.chosen, self.scene = joined, chosen, scene
        self.embeds, self._waiting = all_embeds, waiting

    def final_states(self) -> torch.Tensor:
        """Normed states (N, D) of the spatial tokens after the last layer; of a prefix made with
        them alone.
        """
        assert self.options.with_states
        if len(self._states) > 1:
            self._states = [torch.cat(self._states)]
        return self._states[0][self.start :]

    def _empty_cache(self) -> KVCache:
        kind = Int8KVCache if self.options.int8 else KVCache
        return kind(self.decoder.config.num_layers, self._capacity)


class PrefixEntry(ScenePrefix):
    """A prefix and the state of the voxels it was made of: coords (V, 3) int64 ascending, and the
    table's revision (V,) at each.

    whole: all voxels are tokens of the prefix, neither capped nor chosen from; ordered: in voxel
    order, nothing was appended.
    """

    coords: torch.Tensor
    revisions: torch.Tensor
    whole: bool
    ordered: bool
    _known: tuple[int, int, float] | None  # table's revision, voxels held, and what came of it

    def hold(self, table: VoxelTable, selected: bool) -> None:
        """Note that it was made of these voxels. selected: only some of them became tokens."""
        self.coords = table.sums.coords
        self.revisions = torch.full_like(table.changed, table.revision)
        total = self.chosen.num_before_selection
        self.whole = not selected and len(self.embeds) == len(table.sums) == total
        self.ordered, self._known = True, None

    def stale_share(self, table: VoxelTable) -> float:
        """Share of the voxels, held or there now, that are not held as they are now."""
        state = table.revision, len(self.coords)
        if self._known is None or self._known[:2] != state:
            self._known = (*state, self._count_stale(table))
        return self._known[2]

    @torch.inference_mode()
    def append_new_voxels(
        self, table: VoxelTable, model: Llava3D, scene: SceneSnapshot, reserve: int
    ) -> bool:
        """Append the table's voxels that are not held; False where there is no way or no room.

        reserve: positions kept free after them. Voxels held already keep their earlier means.
        """
        now, config = table.sums.coords, model.config
        new = torch.nonzero(find_voxels(self.coords, now) < 0)[:, 0]
        # Only a prefix that holds the whole scene can grow, and only as far as the prompt has room.
        room = min(
            config.token_cap - len(self.embeds), config.max_length - self.next_position - reserve
        )
        if not self.whole or len(new) > room:
            return False
        tokens = mean_tokens(table.sums.at(new), self.embeds.dtype, config.voxel_size_m)
        # The voxels are kept in ascending order, as find_voxels needs them.
        joined = torch.cat((self.coords, now[new]))
        order = ascending_order(joined)
        revisions = torch.cat((self.revisions, table.changed[new]))
        coords, revisions = joined[order], revisions[order]
        self.append_tokens(model.project(tokens.features), tokens, scene)
        self.coords, self.revisions = coords, revisions
        self.ordered = self.ordered and not len(new)
        return True

    def _count_stale(self, table: VoxelTable) -> float:
        now = table.sums.coords
        index = find_voxels(self.coords, now)
        known = index >= 0
        changed = table.changed > torch.where(known, self.revisions[index.clamp(min=0)], -1)
        vanished = len(self.coords) - int(known.sum())
        return (int(changed.sum()) + vanished) / max(len(now) + vanished, 1)
