"""A closer look: parts of the views as a scene of their own, with a prefix of its own.

For what a question names and the cached scene does not show, and for objects that the model is not
sure of. Such a prefix holds all spatial tokens, unpruned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.query_context import QueryContext, thin
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import NoFramesError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.scene.cutouts import Point, around, in_quarters
from ada3d_ros.scene.keyframes import SceneSnapshot

MAX_VIEWS = 8  # in quarters; of more an even share, the newest among them


class CloserLook:
    """At one robot's scene, in quarters: made when it is asked for and kept until the scene
    changes; quarters that are encoded stay so. For the thread that owns the model alone.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._encoder = loaded, SceneEncoder(loaded.model)
        self._made: tuple[tuple[int, int], ScenePrefix] | None = None  # of a scene's version

    def forget(self) -> None:
        """Of another scene, or to free memory."""
        self._encoder, self._made = SceneEncoder(self._loaded.model), None

    def prefix(self, query: QueryContext) -> ScenePrefix:
        """Of the query's scene as it is now, whose views are its `scene`.

        Timed as any encoding of a scene. Raises NoFramesError without depth, QuestionTooLongError
        where the scene leaves no room for a question, what hooks.check raises.
        """
        scene, clock, check = query.scene, query.clock, query.hooks.check
        if self._made is not None and self._made[0] == scene.version:
            return self._made[1]
        count = len(scene.keyframes)
        some = thin(scene, (MAX_VIEWS + 0.5) / count) if count > MAX_VIEWS else scene
        parts = in_quarters(some.keyframes)
        self._encoder.update(replace(scene, keyframes=parts), clock, check)
        prefix = _prefix_of(self._loaded, self._encoder, scene, query.config, clock)
        with clock.stage("scene_s"):
            while prefix.step():
                check()
        self._made = scene.version, prefix
        return prefix


def look_at(
    loaded: LoadedModel,
    scene: SceneSnapshot,
    place_m: Point,
    config: AgentConfig,
    clock: StageClock,
    check: Callable[[], None],
) -> ScenePrefix | None:
    """The prefix of a closer look at one place of a scene, metres in the world frame, from the few
    views that are nearest; None where none shows it. Raises as `CloserLook.prefix`.
    """
    parts = around(scene.keyframes, place_m)
    if not parts:
        return None
    encoder = SceneEncoder(loaded.model)
    encoder.update(replace(scene, keyframes=parts), clock, check)
    try:
        prefix = _prefix_of(loaded, encoder, scene, config, clock)
    except NoFramesError:  # of no depth reading
        return None
    while prefix.step():
        check()
    return prefix


def _prefix_of(
    loaded: LoadedModel,
    encoder: SceneEncoder,
    scene: SceneSnapshot,
    config: AgentConfig,
    clock: StageClock,
) -> ScenePrefix:
    """Of what the encoder holds, views of parts of the scene's; no token has passed yet."""
    tokens = encoder.tokens(clock)
    total = len(tokens.features)
    chosen = ChosenTokens(tokens, torch.arange(total, device=tokens.features.device), total)
    with torch.inference_mode():
        embeds = loaded.model.project(tokens.features)
    ids = loaded.tokenizer.encode_question("", config.model.conversation)
    prompt = loaded.model.build_prompt(ids[: ids.index(IMAGE_ID) + 1], embeds, None, tokens.xyz_m)
    options = PrefixOptions(chunk_tokens=config.cache.chunk_tokens, with_states=True)
    context = SceneContext(scene, tokens, chosen, embeds)
    return ScenePrefix(loaded.model.decoder, prompt, context, options)
