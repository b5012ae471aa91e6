"""The prefix cache: a scene's keys and values, kept between questions, updated in steps.

The active prefix answers questions. Voxels that new keyframes add are appended to it (order of
arrival, earlier means frozen: exact for that order); the exact prefix in voxel order is built anew
as the pending one when nothing else is to do, or when too much is stale, and then becomes active.
All of it belongs to the thread that owns the model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ada3d_ros.config.agent import AgentConfig
from ada3d_ros.engine.build_plan import plan_build, prunes_at_build, scene_size, serves_questions
from ada3d_ros.engine.cache_report import CacheReport
from ada3d_ros.engine.deadline import LatencyModel
from ada3d_ros.engine.decode import prepare_decoding
from ada3d_ros.engine.memory_fallback import out_of_memory
from ada3d_ros.engine.prefix_state import TRANSITIONS, PrefixEvent, PrefixState
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_prefix import PrefixEntry, PrefixOptions
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import Ada3DError
from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.pruning.cost import PromptSizes
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.queries_file import BY_QUERIES
from ada3d_ros.pruning.question_queries import QueriesFile, RecordedQueries
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import NAN

if TYPE_CHECKING:
    from ada3d_ros.engine.prune_choice import PruneChoice
    from ada3d_ros.engine.query_context import QueryContext

logger = logging.getLogger(__name__)

RESERVED_TOKENS = 512  # positions kept free after the scene for a question and its answer
QUESTION_TOKENS = 64  # of a usual question, for which memory is kept beside the answer's


class PrefixCache:
    """One robot's scene in one model. `state` says what it can do now; see
    prefix_state.PrefixState."""

    def __init__(
        self,
        loaded: LoadedModel,
        pruning: ScenePruning,
        encoder: SceneEncoder,
        latency: LatencyModel | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = PrefixState.ABSENT
        self.report = CacheReport()  # replaced, never changed: other threads may read it
        self.active: PrefixEntry | None = None
        self.pending: PrefixEntry | None = None
        self._serves = False  # whether questions under the settings are answered from here
        self.encoder, self.queries = encoder, RecordedQueries()
        self._queries_file: QueriesFile | None = None  # that they began with
        self._loaded, self._pruning, self._now = loaded, pruning, now
        self._config: AgentConfig | None = None
        self._policy: Policy | None = None
        self._key: tuple[Any, ...] = ()  # what a prefix must agree in to serve
        self._place: tuple[int, Origin] = -1, (0.0, 0.0, 0.0)  # epoch of the scene, and its origin
        self._version = (-1, -1)  # of the scene
        self._changed_at = now()
        self._asked: StageClock | None = None  # of the question that was served last
        self._refused: tuple[Any, ...] = ()  # a scene and settings of which no prefix can be made
        self._builds = self._appends = 0
        self.choice: PruneChoice | None = None  # under `cache.prune: auto`
        self._latency = latency or LatencyModel()
        self._build_s = 0.0  # that the pending prefix took so far

    # -- for questions

    def ensure_usable(self, query: QueryContext) -> PrefixEntry | None:
        """The prefix that answers a question asked now; None where the settings allow none.

        query.exact: of this very scene in voxel order, however long that takes. Else, once there is
        one, a question waits for all voxels that are new, and for one chunk of the next prefix
        where too much of this one is stale. The encoder holds the scene's keyframes. Raises what
        hooks.check raises, QuestionTooLongError.
        """
        scene, check, clock = query.scene, query.hooks.check, query.clock
        if query.config is not self._config:
            self._configure(query.config)
        if not self._serves:
            return None
        if scene.version != self._version:
            self._on_scene_change(scene)
        self._changed_at = self._now()
        is_again = clock is self._asked  # with a deadline: to plan, then to answer
        self._asked = clock
        if self.state is not PrefixState.READY and not (is_again and self.active):
            if query.exact:
                self._build_exact(scene, clock, check)
            else:
                self._refresh(scene, clock, check)
            self._report()
        return self.active

    def serves_under(self, config: AgentConfig) -> bool:
        """Whether questions under these settings are answered from here."""
        self._configure(config)
        return self._serves

    @property
    def staleness(self) -> float:
        """Share of the scene's voxels that the active prefix does not hold as they are; NaN without
        one.
        """
        if self.state is PrefixState.READY:
            return 0.0
        if self.active is None or not self.encoder.table.views:
            return NAN
        return self._stale_share(self.active)

    def _build_exact(
        self, scene: SceneSnapshot, clock: StageClock, check: Callable[[], None]
    ) -> None:
        if self.pending is not None and self.pending.scene.version != scene.version:
            self._abandon_build()
        self._note_if_caught_up(scene)
        while self.state is not PrefixState.READY:
            check()
            self._build_chunk(scene, clock)

    def _refresh(self, scene: SceneSnapshot, clock: StageClock, check: Callable[[], None]) -> None:
        """Make the active prefix hold all voxels of the scene, old ones as they were."""
        assert self._config is not None
        limit = self._config.cache.max_staleness
        if self.active is not None and self._stale_share(self.active) > limit:
            self._build_chunk(scene, clock)  # else questions without a pause would keep it stale
        while self.active is None:
            check()
            self._build_chunk(scene, clock)
        with clock.stage("scene_s"):
            self._pass_waiting(self.active, check)
            self._append_new_tokens(self.active, scene)
            self._pass_waiting(self.active, check)
        self._note_if_caught_up(scene)

    @staticmethod
    def _pass_waiting(active: PrefixEntry, check: Callable[[], None]) -> None:
        while not active.ready:
            check()
            active.step()

    # -- between questions

    def step(self, scene: SceneSnapshot, config: AgentConfig, clock: StageClock) -> bool:
        """One bounded piece of work between questions: a keyframe encoded, or a chunk of a prefix.
        False: nothing is left for now.
        """
        self._configure(config)
        self._on_scene_change(scene)
        encoder = self.encoder
        missing = encoder.follow(scene)
        if not scene.keyframes or not self._loaded.model.config.has_video_tower:
            return False
        if missing and not encoder.model.reference:
            encoder.encode_keyframe(missing[0], clock)
            return True
        if missing or not self._serves or self._refused == (self._key, scene.version):
            return False
        worked = self._step_prefix(scene, clock)
        self._report()
        return worked

    def forget(self) -> None:
        """Free the keys and values."""
        self.active = self.pending = None
        self.transition(PrefixEvent.FORGOTTEN)
        self._report()

    def _step_prefix(self, scene: SceneSnapshot, clock: StageClock) -> bool:
        try:
            if self.active is not None:
                # What answers comes first: chunks that wait, then voxels that are new.
                if not self.active.ready:
                    self.active.step()
                    self._note_if_caught_up(scene)
                    return True
                if self._append_new_tokens(self.active, scene):
                    self._note_if_caught_up(scene)
                    return True
                if self.state is PrefixState.READY or not self._rebuild_is_due(self.active):
                    return False
            self._build_chunk(scene, clock)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self._abandon_build(scene)
            logger.warning(
                "no memory for the cached scene: questions go on with what is there; keep fewer"
                " views or use cache.kv int8."
            )
            return False
        except Ada3DError as error:  # no depth, too long: the question says so too
            self._abandon_build(scene)
            logger.info("no cached scene for now: %s", error)
            return False
        return True

    def _rebuild_is_due(self, active: PrefixEntry) -> bool:
        assert self._config is not None
        cache = self._config.cache
        quiet = self._now() - self._changed_at >= cache.settle_sec
        return quiet or self._stale_share(active) > cache.max_staleness

    # -- state

    def transition(self, event: PrefixEvent) -> None:
        """Move to the next state. Raises KeyError for an event that the state does not know."""
        self.state = TRANSITIONS[self.state, event]

    def _configure(self, config: AgentConfig) -> None:
        """Take the settings of now; a prefix made under others is forgotten."""
        if config is self._config:
            return
        policy = Policy.from_config(config.pruning)
        self._config, self._policy = config, policy
        if config.cache.prune != "auto":
            self.choice = None
        elif self.choice is None:
            from ada3d_ros.engine.prune_choice import PruneChoice  # where it is chosen

            self.choice = PruneChoice(self._latency)
        self._serves = serves_questions(config, policy)
        choice: tuple[Any, ...] = ()
        if policy.pre_llm and policy.prunes:
            places = config.pruning.pre_positions
            choice = (policy.pre_llm, policy.keep_ratio, places, policy.choice_key(1 << 20))
        built: tuple[Any, ...] = ()
        if prunes_at_build(config, policy):
            file = self._pruning.queries_file(config)
            if file is not self._queries_file:
                self._queries_file = file
                self.queries = RecordedQueries(file, self._loaded.model.device)
            built = config.pruning, config.cache.as_built()
        key = choice, built, config.model.conversation, config.cache.kv
        if key != self._key and self.state is not PrefixState.ABSENT:
            self.forget()
        self._key = key

    def _on_scene_change(self, scene: SceneSnapshot) -> None:
        """Forget another scene, or one whose origin moved; note when this one changes."""
        place = scene.state.epoch, self._loaded.model.origin_of(scene)
        if place != self._place:
            self._place = place
            self.forget()
        if scene.version != self._version:
            self._version, self._changed_at = scene.version, self._now()
            self.transition(PrefixEvent.SCENE_CHANGED)

    def _note_if_caught_up(self, scene: SceneSnapshot) -> None:
        active = self.active
        if self.state is not PrefixState.STALE or active is None:
            return
        current = active.scene.version == scene.version and active.in_order and active.ready
        if current and self._stale_share(active) == 0.0:
            self.transition(PrefixEvent.CAUGHT_UP)

    def _stale_share(self, entry: PrefixEntry) -> float:
        return entry.stale_share(self.encoder.table)

    # -- building and appending

    def _build_chunk(self, scene: SceneSnapshot, clock: StageClock) -> None:
        """One chunk of the pending prefix, begun if there is none; active once it is ready."""
        if self.pending is None:
            self.pending = self._start_build(scene, clock)
            self.transition(PrefixEvent.BUILD_STARTED)
        begun = clock.now()
        with clock.stage("scene_s"):
            self.pending.step()
        self._build_s += clock.now() - begun
        if self.pending.ready:
            self.active, self.pending = self.pending, None
            if self.choice is not None:
                kind = "whole" if self.active.held is None else "build"
                self.choice.record_build(kind, len(self.active.embeds), self._build_s)
            self._builds += 1
            prepare_decoding(self._loaded.model.decoder, self.active.cache)
            self.transition(PrefixEvent.BUILD_FINISHED)
            if self.active.scene.version != scene.version:
                self.transition(PrefixEvent.SCENE_CHANGED)

    @torch.inference_mode()
    def _start_build(self, scene: SceneSnapshot, clock: StageClock) -> PrefixEntry:
        loaded, config, policy = self._loaded, self._config, self._policy
        assert config is not None
        assert policy is not None
        self._build_s = 0.0
        # Spatial tokens, those chosen of them, and the prompt up to them.
        tokens, selected = self.encoder.tokens(clock), bool(policy.pre_llm) and policy.prunes
        with clock.stage("scene_s") if selected else nullcontext():
            chosen = self._pruning.choose(loaded.model, tokens, policy, scene.version, ())
        with clock.stage("spatial_s"):
            embeds = loaded.model.project(chosen.tokens.features)
        ids = loaded.tokenizer.encode_question("", config.model.conversation)
        prompt = loaded.model.build_prompt(
            ids[: ids.index(IMAGE_ID) + 1], embeds, None, chosen.tokens.xyz_m
        )
        pruner = None
        rows = chosen.rows
        if self._prunes(config, policy, rows.num_placed):
            text = len(ids) + rows.num_newlines
            sizes = PromptSizes(rows.num_placed, text, chosen.num_candidates)
            allocation = self._pruning.allocation(config, policy, sizes)
            pruner = plan_build(loaded, config, allocation, self.queries)
        options = PrefixOptions(
            chunk_tokens=config.cache.chunk_tokens,
            int8=config.cache.kv == "int8",
            with_states=loaded.head is not None,
            reserve=min(RESERVED_TOKENS, config.generation.max_new_tokens + QUESTION_TOKENS),
            original_positions=config.pruning.pre_positions == "original",
            pruner=pruner,
            queries=self.queries if config.cache.ranking in BY_QUERIES else None,
        )
        context = SceneContext(scene, tokens, chosen, embeds)
        entry = PrefixEntry(loaded.model.decoder, prompt, context, options)
        entry.hold(self.encoder.table, selected)
        return entry

    def _prunes(self, config: AgentConfig, policy: Policy, total: int) -> bool:
        """Whether a scene of so many spatial tokens is pruned while it is built."""
        if not prunes_at_build(config, policy) or total <= config.pruning.n_min:
            return False
        choice = self.choice
        return choice is None or choice.for_scene(scene_size(config, total)) == "build"

    def _abandon_build(self, refused: SceneSnapshot | None = None) -> None:
        """refused: a scene of which no prefix can be made under these settings."""
        if refused is not None:
            self._refused = (self._key, refused.version)
        if self.pending is not None:
            self.pending = None
            self.transition(PrefixEvent.BUILD_ABANDONED)

    def _append_new_tokens(self, active: PrefixEntry, scene: SceneSnapshot) -> bool:
        """Append what the scene has and the prefix lacks; whether any was due."""
        if active.scene.version == scene.version:
            return False
        model, table = self._loaded.model, self.encoder.table
        appended = active.append_new_tokens(table, model, scene, RESERVED_TOKENS)
        self._appends += appended
        return appended

    def _report(self) -> None:
        active, pending = self.active, self.pending
        self.report = CacheReport(
            version=active.scene.state.version if active else 0,
            spatial=len(active.embeds) if active else 0,
            keyframes=len(active.scene.keyframes) if active else 0,
            staleness=self.staleness,
            kv_bytes=sum(entry.num_bytes for entry in (active, pending) if entry is not None),
            building=pending.num_waiting if pending else 0,
            builds=self._builds,
            appends=self._appends,
        )
