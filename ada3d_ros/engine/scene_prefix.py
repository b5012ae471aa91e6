"""The part of the prompt before the question, through the decoder once: system prompt and spatial
tokens.

Its keys and values do not depend on the question, since attention looks back only. It is built a
chunk at a time, so that a question never waits for more than one, and spatial tokens seen later can
be put behind it. A question is then only its own rows.
"""

from __future__ import annotations

from functools import partial

import torch

from ada3d_ros.engine.int8_cache import Int8KVCache
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.token_selection import ChosenTokens
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens


class ScenePrefix:
    """System rows at positions 0.., then the spatial tokens in the order they were put in, then
    room for a question.

    rows (N, D): the spatial tokens as the decoder gets them; chosen: the same before the projector,
    and which of all `tokens` of the scene they are; scene: the keyframes they were made of. `ready`
    once all rows have passed. with_states: keep the final states, which a grounding head points
    with. Not safe across threads.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        prompt: PromptSequence,
        tokens: SpatialTokens,
        chosen: ChosenTokens,
        scene: SceneSnapshot,
        chunk_tokens: int = 256,
        int8: bool = False,
        with_states: bool = False,
        reserve: int = 512,
    ) -> None:
        self.decoder, self.tokens, self.chosen, self.scene = decoder, tokens, chosen, scene
        self.start, stop = prompt.spatial_span
        self.rows = prompt.embeds[self.start : stop]
        room = max(stop - chunk_tokens, 0) + reserve
        self._empty_cache = partial(
            Int8KVCache if int8 else KVCache, decoder.config.num_layers, room
        )
        self.cache: KVCache = self._empty_cache()
        self._waiting = prompt.embeds[:stop]  # rows that have not passed
        self._chunk_tokens = chunk_tokens
        self._states: list[torch.Tensor] | None = [] if with_states else None
        self._passed = 0

    @property
    def ready(self) -> bool:
        return not len(self._waiting)

    @property
    def waiting(self) -> int:
        """Rows that have not passed yet."""
        return len(self._waiting)

    @property
    def next_position(self) -> int:
        return self.start + len(self.rows)

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
        chunk = self._waiting[: self._chunk_tokens]
        if self._passed:
            self.crop()
        else:  # what a failed first chunk left
            self.cache = self._empty_cache()
        positions = torch.arange(self._passed, self._passed + len(chunk), device=chunk.device)
        hidden = self.decoder.run_layers(
            0, self.decoder.config.num_layers, chunk[None], positions, self.cache
        )
        if self._states is not None:
            self._states.append(self.decoder.norm(hidden[0]))
        self._passed += len(chunk)
        self._waiting = self._waiting[len(chunk) :]
        return not self.ready

    def append_tokens(
        self, rows: torch.Tensor, tokens: SpatialTokens, scene: SceneSnapshot
    ) -> None:
        """More spatial tokens, rows (M, D), behind those that are in; they pass with the next
        steps. What is in stays as it is.
        """
        before = self.chosen.tokens
        joined = SpatialTokens(
            torch.cat((before.features, tokens.features)),
            torch.cat((before.xyz_m, tokens.xyz_m)),
            torch.cat((before.num_patches, tokens.num_patches)),
            before.voxel_size_m,
        )
        total, rows = joined.features.shape[0], rows.to(self.rows.dtype)
        chosen = ChosenTokens(joined, torch.arange(total, device=rows.device), total)
        all_rows, waiting = torch.cat((self.rows, rows)), torch.cat((self._waiting, rows))
        # All at once, since memory may end above.
        self.tokens, self.chosen, self.rows, self.scene, self._waiting = (
            joined,
            chosen,
            all_rows,
            scene,
            waiting,
        )

    def final_states(self) -> torch.Tensor:
        """Normed states (N, D) of the spatial tokens after the last layer; only of a prefix made
        with them.
        """
        assert self._states is not None
        if len(self._states) > 1:
            self._states = [torch.cat(self._states)]
        return self._states[0][self.start :]
