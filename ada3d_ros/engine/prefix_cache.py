"""The scene paid once: what is kept of it between questions, brought up to date a piece at a time.

A prefix in active answers questions. Voxels that new keyframes add are put behind it (order of
arrival, earlier means frozen: exact for that order); the exact prefix in voxel order is built anew
beside it when nothing else is to do, or when too much is stale, and then takes its place. All of it
belongs to the thread that owns the model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from ada3d_ros.config.agent import AgentConfig
from ada3d_ros.engine.memory_errors import out_of_memory
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import ChosenTokens
from ada3d_ros.errors import Ada3DError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import IMAGE_ID, render_question
from ada3d_ros.model.spatial import mean_tokens
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.voxel_table import VoxelTable, find_voxels
from ada3d_ros.types import NAN, AskHooks, SpatialTokens

logger = logging.getLogger(__name__)

ROOM_TOKENS = 512  # kept free behind the scene for a question and its answer


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The scene cache in numbers, for diagnostics. staleness as in `Answer`; building: rows that
    wait in the prefix being built.
    """

    version: int = 0
    spatial: int = 0
    keyframes: int = 0
    staleness: float = NAN
    kv_bytes: int = 0
    building: int = 0
    builds: int = 0
    appends: int = 0


@dataclass(eq=False, slots=True)
class PrefixEntry:
    """A prefix and the state of the voxels it was made of: coords (V, 3), and the table's revision
    at each.
    """

    prefix: ScenePrefix
    key: tuple[object, ...]
    coords: torch.Tensor
    revisions: torch.Tensor
    whole: bool  # all voxels are rows of the prefix: neither capped nor chosen from
    ordered: bool = True  # nothing was put behind it
    _known: tuple[int, int, float] | None = (
        None  # revision of the table, voxels held, and the share that came of it
    )

    @property
    def num_bytes(self) -> int:
        """Size of its keys and values."""
        return self.prefix.num_bytes

    def stale_share(self, table: VoxelTable) -> float:
        """Share of the voxels, held or there now, that are not held as they are now."""
        state = table.revision, len(self.coords)
        if self._known is None or self._known[:2] != state:
            self._known = (*state, self._count_stale(table))
        return self._known[2]

    def _count_stale(self, table: VoxelTable) -> float:
        now = table.sums.coords
        rows = find_voxels(self.coords, now)
        known = rows >= 0
        changed = table.changed > torch.where(known, self.revisions[rows.clamp(min=0)], -1)
        gone = len(self.coords) - int(known.sum())
        return (int(changed.sum()) + gone) / max(len(now) + gone, 1)


class PrefixCache:
    """One robot's scene in one model."""

    def __init__(
        self, loaded: LoadedModel, pruning: ScenePruning, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.vision = SceneEncoder(loaded.model)
        self.report = CacheReport()  # replaced, never changed: other threads may read it
        self._loaded, self._pruning, self._now = loaded, pruning, now
        self._active: PrefixEntry | None = None
        self._pending: PrefixEntry | None = None
        self._epoch = -1
        self._refused: tuple[object, ...] | None = (
            None  # a scene and settings that no prefix can be made of
        )
        self._last_change = now()
        self._seen_version: tuple[int, int] = (-1, -1)
        self._builds = self._appends = 0

    @staticmethod
    def serves(policy: Policy, config: AgentConfig) -> bool:
        """Whether questions under these settings are answered from a cached scene."""
        return (
            config.cache.mode == "cached"
            and config.model.compat != "reference"
            and not policy.is_query_conditioned
        )

    def forget(self) -> None:
        """Free everything."""
        self._active = self._pending = None
        self.vision.forget()
        self._report()

    def forget_prefixes(self) -> None:
        """Free the keys and values; what was seen stays."""
        self._active = self._pending = None
        self._report()

    @property
    def encoder(self) -> SceneEncoder:
        """What was seen: the keyframes' patches by voxel."""
        return self.vision

    @property
    def active(self) -> PrefixEntry | None:
        """The prefix that answers questions."""
        return self._active

    @property
    def pending(self) -> PrefixEntry | None:
        """The prefix that is being built."""
        return self._pending

    @property
    def num_voxels(self) -> int:
        """Voxels seen, an upper bound of the spatial tokens."""
        return len(self.vision.table.sums) if self.vision.table.views else 0

    def follow(self, scene: SceneSnapshot, hooks: AskHooks, clock: StageClock) -> SpatialTokens:
        """All spatial tokens of the scene as it is; looks at keyframes not looked at yet."""
        self._on_scene_change(scene)
        self.vision.follow(scene.keyframes, hooks, clock)
        return self.vision.tokens(clock)

    def part(self, names: Sequence[int], clock: StageClock) -> SpatialTokens:
        """The spatial tokens of some of the keyframes (by index) that were looked at."""
        with clock.stage("spatial_s"), torch.inference_mode():
            return self._loaded.model.spatial_tokens(self.vision.table.of_views(names))

    def for_question(
        self,
        scene: SceneSnapshot,
        policy: Policy,
        config: AgentConfig,
        hooks: AskHooks,
        clock: StageClock,
        exact: bool,
    ) -> ScenePrefix:
        """The prefix that answers a question asked now, of this scene or a little behind it.

        exact: of this very scene in voxel order, however long that takes. Else, once there is one,
        a question waits for the keyframes still to be looked at, and for one chunk of the next
        prefix where too much of this one is stale. Raises what hooks.check raises, NoFramesError,
        QuestionTooLongError.
        """
        self._on_scene_change(scene)
        self._last_change = self._now()
        key = self._key(scene, policy, config)
        self.vision.follow(scene.keyframes, hooks, clock)
        if exact:
            if self._pending is not None and self._pending.prefix.scene.version != scene.version:
                self._pending = None
            while not self._is_exact(key, scene):
                hooks.check()
                self._build_piece(key, scene, policy, config, clock)
        else:
            self._ensure_usable(key, scene, policy, config, hooks, clock)
        assert self._active is not None
        self._report()
        return self._active.prefix

    def step(
        self, scene: SceneSnapshot, policy: Policy, config: AgentConfig, clock: StageClock
    ) -> bool:
        """One bounded piece of work ahead of questions: a keyframe looked at, or a chunk. False:
        nothing is left for now.
        """
        self._on_scene_change(scene)
        if not scene.keyframes or not self._loaded.model.config.has_video_tower:
            return False
        self.vision.drop_all_but(scene.keyframes)
        missing = self.vision.missing(scene.keyframes)
        if missing and not self.vision.model.reference:
            self.vision.encode_keyframe(missing[0], clock)
            return True
        if missing or not self.serves(policy, config):
            return False
        worked = self._advance_prefix(scene, policy, config, clock)
        self._report()
        return worked

    def staleness(self) -> float:
        """Of the prefix in active: share of the scene's voxels that it does not hold as they are;
        NaN without one.
        """
        if self._active is None or not self.vision.table.views:
            return NAN
        return self._active.stale_share(self.vision.table)

    # -- inside

    def _on_scene_change(self, scene: SceneSnapshot) -> None:
        """Forget another scene; note when this one changes."""
        if scene.state.epoch != self._epoch:
            self.forget()
            self._epoch = scene.state.epoch
        if scene.version != self._seen_version:
            self._seen_version, self._last_change = scene.version, self._now()

    def _key(self, scene: SceneSnapshot, policy: Policy, config: AgentConfig) -> tuple[object, ...]:
        """What a prefix must agree in to serve, beside how up to date it is."""
        base = Policy.from_config(policy.config)
        choice = (
            (base.pre_llm, base.keep_ratio, base.choice_key(1 << 20))
            if base.pre_llm and base.prunes
            else ()
        )
        return scene.state.epoch, choice, config.model.conversation, config.cache.kv

    def _serving(self, key: tuple[object, ...]) -> PrefixEntry | None:
        """The prefix in active, if it serves under these settings."""
        return self._active if self._active is not None and self._active.key == key else None

    def _is_exact(self, key: tuple[object, ...], scene: SceneSnapshot) -> bool:
        active = self._serving(key)
        if active is None or active.prefix.scene.version != scene.version:
            return False
        return (
            active.ordered and active.prefix.ready and active.stale_share(self.vision.table) == 0.0
        )

    def _ensure_usable(
        self,
        key: tuple[object, ...],
        scene: SceneSnapshot,
        policy: Policy,
        config: AgentConfig,
        hooks: AskHooks,
        clock: StageClock,
    ) -> None:
        active = self._serving(key)
        if (
            active is not None
            and active.stale_share(self.vision.table) > config.cache.max_staleness
        ):
            # One chunk: questions without a pause would keep it stale.
            self._build_piece(key, scene, policy, config, clock)
        while self._serving(key) is None:
            hooks.check()
            self._build_piece(key, scene, policy, config, clock)
        active = self._serving(key)
        assert active is not None
        with clock.stage("scene_s"):
            self._append_new_voxels(active, scene)
            while not active.prefix.ready:
                hooks.check()
                active.prefix.step()

    def _advance_prefix(
        self, scene: SceneSnapshot, policy: Policy, config: AgentConfig, clock: StageClock
    ) -> bool:
        key = self._key(scene, policy, config)
        if self._refused == (key, scene.version):
            return False
        active = self._serving(key)
        try:
            if active is not None:
                if not active.prefix.ready:
                    active.prefix.step()
                    return True
                if self._append_new_voxels(active, scene):
                    return True
                stale = active.stale_share(self.vision.table)
                quiet = self._now() - self._last_change >= config.cache.settle_sec
                exact = active.ordered and stale == 0.0
                if exact or not (quiet or stale > config.cache.max_staleness):
                    return False
            self._build_piece(key, scene, policy, config, clock)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self._pending, self._refused = None, (key, scene.version)
            logger.warning(
                "no memory for the cached scene: questions go on with what is there; keep fewer"
                " views or use cache.kv int8."
            )
            return False
        except Ada3DError as error:  # no depth, too long: the question says so too
            self._pending, self._refused = None, (key, scene.version)
            logger.info("no cached scene for now: %s", error)
            return False
        return True

    def _append_new_voxels(self, active: PrefixEntry, scene: SceneSnapshot) -> bool:
        """Put the voxels behind that the scene has and the prefix lacks; whether there was anything
        to do.
        """
        if active.prefix.scene.version == scene.version:
            return False
        table, prefix = self.vision.table, active.prefix
        now = table.sums.coords
        new = (
            torch.nonzero(find_voxels(active.coords, now) < 0)[:, 0]
            if active.whole
            else now.new_zeros(0, 1)[:, 0]
        )
        config = self._loaded.model.config
        room = min(
            config.token_cap - len(prefix.rows),
            config.max_length - prefix.next_position - ROOM_TOKENS,
        )
        if not active.whole or len(new) > room:
            return False
        tokens = mean_tokens(table.sums.at(new), prefix.rows.dtype, config.voxel_size_m)
        joined = torch.cat((active.coords, now[new]))
        order = _ascending(joined)
        revisions = torch.cat((active.revisions, table.changed[new]))
        coords, revisions = joined[order], revisions[order]
        with torch.inference_mode():
            prefix.append_tokens(self._loaded.model.project(tokens.features), tokens, scene)
        active.coords, active.revisions = coords, revisions
        active.ordered = active.ordered and not len(new)
        self._appends += 1
        return True

    def _build_piece(
        self,
        key: tuple[object, ...],
        scene: SceneSnapshot,
        policy: Policy,
        config: AgentConfig,
        clock: StageClock,
    ) -> None:
        """One chunk of the next prefix, begun if there is none; in active once it is ready."""
        if self._pending is None or self._pending.key != key:
            self._pending = None
            self._pending = self._start_build(
                key, scene, Policy.from_config(policy.config), config, clock
            )
        with clock.stage("scene_s"):
            self._pending.prefix.step()
        if self._pending.prefix.ready:
            self._active, self._pending = self._pending, None
            self._builds += 1

    @torch.inference_mode()
    def _start_build(
        self,
        key: tuple[object, ...],
        scene: SceneSnapshot,
        policy: Policy,
        config: AgentConfig,
        clock: StageClock,
    ) -> PrefixEntry:
        loaded, table = self._loaded, self.vision.table
        tokens = self.vision.tokens(clock)
        with clock.stage("scene_s") if policy.pre_llm and policy.prunes else nullcontext():
            chosen = self._pruning.choose(loaded.model, tokens, policy, scene.version, ())
        with clock.stage("spatial_s"):
            rows = loaded.model.project(chosen.tokens.features)
        ids = loaded.tokenizer.encode(render_question("", config.model.conversation))
        prompt = loaded.model.build_prompt(
            ids[: ids.index(IMAGE_ID) + 1], rows, None, chosen.tokens.xyz_m
        )
        prefix = ScenePrefix(
            loaded.model.decoder,
            prompt,
            tokens,
            chosen,
            scene,
            config.cache.chunk_tokens,
            config.cache.kv == "int8",
            with_states=loaded.head is not None,
            reserve=ROOM_TOKENS,
        )
        revisions = torch.full_like(table.changed, table.revision)
        whole = len(rows) == len(table.sums) == chosen.num_before_selection
        return PrefixEntry(
            prefix,
            key,
            table.sums.coords,
            revisions,
            whole and not (policy.pre_llm and policy.prunes),
        )

    def _report(self) -> None:
        active, pending = self._active, self._pending
        self.report = CacheReport(
            version=active.prefix.scene.state.version if active else 0,
            spatial=len(active.prefix.rows) if active else 0,
            keyframes=len(active.prefix.scene.keyframes) if active else 0,
            staleness=self.staleness(),
            kv_bytes=sum(made.prefix.num_bytes for made in (active, pending) if made is not None),
            building=pending.prefix.waiting if pending else 0,
            builds=self._builds,
            appends=self._appends,
        )


def _ascending(coords: torch.Tensor) -> torch.Tensor:
    """The order (N,) that sorts distinct voxels (N, 3) by x, then y, then z."""
    order = torch.arange(len(coords), device=coords.device)
    for axis in (2, 1, 0):
        order = order[torch.sort(coords[order, axis], stable=True).indices]
    return order


def crop_to_budget(prefix: ScenePrefix, policy: Policy) -> ChosenTokens | None:
    """What of the prefix's tokens a question under this policy gets: all, or a first part where
    their order is nested; None where its budget needs a choice of its own.
    """
    total = prefix.chosen.num_before_selection
    if not fits_prefix(policy, total):
        return None
    count, held = (
        policy.num_kept_pre_llm(total),
        Policy.from_config(policy.config).num_kept_pre_llm(total),
    )
    return prefix.chosen if count == held else prefix.chosen.first(count)


def fits_prefix(policy: Policy, total: int) -> bool:
    """Whether a prefix of `total` spatial tokens, chosen from as configured, begins with this
    policy's choice.
    """
    count, held = (
        policy.num_kept_pre_llm(total),
        Policy.from_config(policy.config).num_kept_pre_llm(total),
    )
    return count == held or (policy.nested and count < held < total)
