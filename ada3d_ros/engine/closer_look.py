"""A closer look at a scene: its views in quarters, as a prefix of its own.

For what a question names and the cached scene does not show: the prefix is made when it is asked
for, of all spatial tokens, and kept until the scene changes; quarters that are encoded stay so.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ada3d_ros.engine.query_context import QueryContext, thin
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.scene.cutouts import in_quarters

MAX_VIEWS = 8  # in quarters; of more an even share, the newest among them


class CloserLook:
    """The closer look at one robot's scene; for the thread that owns the model alone."""

    def __init__(self, model: Backbone) -> None:
        self._encoder = SceneEncoder(model)
        self._made: tuple[tuple[int, int], ScenePrefix] | None = None  # of a scene's version

    def forget(self) -> None:
        """Of another scene, or to free memory."""
        self._encoder, self._made = SceneEncoder(self._encoder.model), None

    def prefix(self, query: QueryContext) -> ScenePrefix:
        """Of the query's scene as it is now, whose views are its `scene`.

        Timed as any encoding of a scene. Raises NoFramesError without depth, QuestionTooLongError
        where the scene leaves no room for a question, what hooks.check raises.
        """
        scene, clock, loaded = query.scene, query.clock, query.loaded
        if self._made is not None and self._made[0] == scene.version:
            return self._made[1]
        count = len(scene.keyframes)
        some = thin(scene, (MAX_VIEWS + 0.5) / count) if count > MAX_VIEWS else scene
        cut = replace(scene, keyframes=in_quarters(some.keyframes))
        self._encoder.update(cut, clock, query.hooks.check)
        tokens = self._encoder.tokens(clock)

        # All of them, unpruned.
        total = len(tokens.features)
        chosen = ChosenTokens(tokens, torch.arange(total, device=tokens.features.device), total)
        with clock.stage("spatial_s"), torch.inference_mode():
            embeds = loaded.model.project(tokens.features)
        ids = loaded.tokenizer.encode_question("", query.config.model.conversation)
        prompt = loaded.model.build_prompt(
            ids[: ids.index(IMAGE_ID) + 1], embeds, None, tokens.xyz_m
        )
        options = PrefixOptions(chunk_tokens=query.config.cache.chunk_tokens, with_states=True)
        context = SceneContext(scene, tokens, chosen, embeds)
        prefix = ScenePrefix(loaded.model.decoder, prompt, context, options)
        with clock.stage("scene_s"):
            while prefix.step():
                query.hooks.check()
        self._made = scene.version, prefix
        return prefix
