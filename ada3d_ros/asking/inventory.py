"""The list of a scene's objects, made between questions: a survey looks for every name of the
vocabulary in the cached scene, a few at a time.

A survey belongs to the scene version that it began with. Where that changes meanwhile, it is
finished, its list says that it is not complete, and another one begins. Belongs to the thread that
owns the model; `snapshot` may be read by any.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from typing import Any

from ada3d_ros.asking.names_at import names_at
from ada3d_ros.asking.presupposed import TAUGHT
from ada3d_ros.asking.vocabulary import find_vocabulary
from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.build_plan import serves_questions
from ada3d_ros.engine.closer_look import CloserLook, look_at
from ada3d_ros.engine.memory_fallback import out_of_memory
from ada3d_ros.engine.phrases import question_states
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.engine.prefix_state import PrefixState
from ada3d_ros.engine.query_context import QueryContext, encode_scene
from ada3d_ros.engine.scene_prefix import PrefixEntry, ScenePrefix
from ada3d_ros.engine.scene_pruning import KeyedMemo
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.errors import Ada3DError
from ada3d_ros.geometry.boxes import points_inside
from ada3d_ros.grounding.from_head import SceneStates, SearchLimits, point_at_each
from ada3d_ros.grounding.from_phrases import Surface
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT, check_support
from ada3d_ros.grounding.held import without_held
from ada3d_ros.grounding.refine import Points, refine_box
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.object_detections import Detection, suppress
from ada3d_ros.scene.object_evidence import telling_points
from ada3d_ros.scene.objects import FoundObject, KeptObjects, ObjectMemory
from ada3d_ros.types import Box3D, RgbdFrame

logger = logging.getLogger(__name__)

PHRASE = "the {name}"  # as names are asked for
MAX_BOXES_A_NAME = 5
MAX_DETECTIONS = 1000  # of one survey; of more the best: each is compared with each in one step
CHECKED_A_STEP = 4  # detections
MAX_BEHIND = 4  # scene versions after which a survey does not wait for the exact prefix
SURE_NAME = 0.95  # of an object that is looked at no closer: how likely the model calls it so
BETTER_NAME = 3.0  # times as likely another name is, in both looks, that it gets (decision 0259)


@dataclass(eq=False, slots=True)
class Survey:
    """One pass through the vocabulary: of which scene, its points (P, 3) and the height of its
    floor in metres, how many names are done, and the boxes found so far. Then one detection an
    object, how many of them were checked against depth, and those that it supports.
    """

    scene: SceneSnapshot
    points: Points
    floor_z_m: float
    done: int = 0
    found: list[Box3D] = field(default_factory=list)
    detections: list[Detection] | None = None
    checked: int = 0
    objects: list[FoundObject] = field(default_factory=list)


class Inventory:
    """The objects of one robot's scene. `snapshot` is replaced, never changed."""

    def __init__(self, loaded: LoadedModel, cache: PrefixCache, config: AgentConfig) -> None:
        self._loaded, self._cache = loaded, cache
        self._vocabulary = find_vocabulary(config.objects.vocabulary, loaded.info.path)
        for note in self._vocabulary.notes:
            logger.warning(note)
        self._lock = threading.Lock()  # for the snapshot's epoch
        self.memory = ObjectMemory(config.objects.max_count)
        self._survey: Survey | None = None
        self._surveyed = self._refused = (-1, -1)  # scene versions: complete, and impossible
        self._epoch = self._numbered = -1  # of the memory, and of the ids given
        self._config, self._memo = config, KeyedMemo()
        self.closer_look = CloserLook(loaded)  # for the asking thread alone
        self.snapshot = ObjectsSnapshot(**self._reason(config))

    @property
    def taught_words(self) -> frozenset[str]:
        """The words of the names that a model of few kinds of questions was taught; empty for one
        that may be asked for anything.
        """
        if not self._loaded.model.config.question_kinds:
            return frozenset()
        return frozenset(" ".join(self._vocabulary.names).lower().split())

    def reset(self, epoch: int) -> None:
        """Another scene: the list is empty at once. Any thread."""
        self._memo.clear()
        with self._lock:
            self.snapshot = ObjectsSnapshot(scene_epoch=epoch, **self._reason(self._config))

    def restore(self, known: KeptObjects, scene: SceneSnapshot) -> None:
        """The list that was kept of this scene; where it was complete, it is not looked for again.
        Call it on the asking thread.
        """
        self._memo.clear()
        self._epoch, self._survey = scene.state.epoch, None
        self._numbered = self._epoch
        self.memory = ObjectMemory.from_told(self._config.objects.max_count, known)
        is_whole = known.snapshot.complete and known.snapshot.scene_version == scene.state.version
        self._surveyed = scene.version if is_whole else (-1, -1)
        self._refused = (-1, -1)
        reason = self._reason(self._config)
        with self._lock:
            self.snapshot = (
                ObjectsSnapshot(scene_epoch=self._epoch, **reason)
                if reason["why_not"]
                else replace(known.snapshot, scene_epoch=self._epoch, complete=is_whole, **reason)
            )

    def offer(self, frame: RgbdFrame, is_keyframe: bool, epoch: int) -> None:
        """It is looked for in what the cached scene holds, not in frames."""

    def make_room(self, scene: SceneSnapshot, config: AgentConfig) -> None:
        """No frame waits."""

    # -- between questions

    def step(self, scene: SceneSnapshot, config: AgentConfig) -> bool:
        """One bounded piece of work: what new keyframes say about the objects, a few names looked
        for in the active prefix, or a few detections checked against depth.

        False: nothing is left for now.
        """
        self._configure(config)
        if self.snapshot.why_not or not scene.keyframes:
            return False
        self._follow(scene)
        if self.memory.observe(scene):
            self._publish(self.snapshot)
            return True
        prefix = self._cache.active
        if prefix is None or not prefix.ready:
            return False
        try:
            if self._survey is None:
                return self._is_due(prefix, scene) and self._start_survey(scene)
            return self._advance(self._survey, prefix, scene)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            problem = "memory ran out; lower objects.phrases_per_step"
        except Ada3DError as error:
            problem = str(error)
        self._survey, self._refused = None, scene.version
        logger.warning("the scene's objects are not looked for: %s", problem)
        return False

    def objects_for(self, query: QueryContext) -> ObjectsSnapshot:
        """The objects that a question is answered from: of its very scene where it is exact or
        there are none yet, else as they are known. Raises as `complete_now`.
        """
        known = self.snapshot
        is_there = known.scene_epoch == query.scene.state.epoch and bool(known.objects)
        return known if is_there and not query.exact else self.complete_now(query)

    def surface_of(self, scene: SceneSnapshot) -> Surface:
        """What depth shows of a scene, made once for its version."""
        return self._memo.get("surface", scene.version, lambda: Surface.from_frames(scene.frames))

    def complete_now(self, query: QueryContext) -> ObjectsSnapshot:
        """The list of the question's scene, made now where it is not there: of the scene that the
        cached prefix holds, which may be a little older where the question need not be exact.

        Raises NoFramesError without depth, ModelError, QuestionTooLongError, what hooks.check does.
        """
        scene = query.scene
        self._configure(query.config)
        if self.snapshot.why_not or scene.version == self._surveyed:
            return self.snapshot
        self._follow(scene)
        encode_scene(query, self._cache.encoder)
        prefix = self._cache.ensure_usable(query)
        if prefix is None:
            return self.snapshot
        if prefix.scene.version == self._surveyed:
            return self.snapshot
        if self._survey is None or self._survey.scene.version != prefix.scene.version:
            self._start_survey(prefix.scene)
        while self._survey is not None:
            query.hooks.check()
            self._advance(self._survey, prefix, scene)
        return self.snapshot

    def _is_due(self, prefix: PrefixEntry, scene: SceneSnapshot) -> bool:
        """Whether a survey begins: of the exact prefix, or where that is long in coming of the one
        that holds all voxels.
        """
        if scene.version in (self._surveyed, self._refused):
            return False
        behind = scene.state.version - self.snapshot.scene_version
        exact = self._cache.state is PrefixState.READY
        return prefix.scene.version == scene.version and (exact or behind > MAX_BEHIND)

    # -- a survey

    def _start_survey(self, scene: SceneSnapshot) -> bool:
        surface = self.surface_of(scene)
        self._survey = Survey(scene, surface.points, surface.floor_z_m)
        self._publish(replace(self._of_scene(scene), complete=False))
        return True

    def _advance(self, survey: Survey, prefix: ScenePrefix, scene: SceneSnapshot) -> bool:
        """The next piece of a survey; scene: as it is now."""
        if survey.done < len(self._vocabulary.names):
            self._search_names(survey, prefix)
        elif survey.detections is None:
            detections = suppress(survey.found)[: self._config.objects.max_count]
            boxes = [each.box for each in detections]
            survey.detections = [
                replace(each, box=without_held(survey.points, each.box, boxes))
                for each in detections
            ]
        elif survey.checked < len(survey.detections):
            self._check_depth(survey, survey.detections, prefix)
        else:
            self.memory.update(survey.objects, scene)
            self._survey, self._surveyed = None, survey.scene.version
            complete = scene.version == survey.scene.version
            self._publish(replace(self._of_scene(survey.scene), complete=complete))
        return True

    def _search_names(self, survey: Survey, prefix: ScenePrefix) -> None:
        """The next few names of the vocabulary in the scene, their boxes moved to the surfaces."""
        # Their states, as one batch.
        config, loaded = self._config, self._loaded
        assert loaded.head is not None
        stop = survey.done + config.objects.phrases_per_step
        names = self._vocabulary.names[survey.done : stop]
        questions = [GROUNDING_PROMPT.format(phrase=PHRASE.format(name=name)) for name in names]
        states = question_states(loaded, prefix, questions, config.model.conversation)

        # Where they point.
        kept = prefix.kept(loaded.model.config.decoder.num_layers - 1)
        kept = prefix.chosen.rows.with_place(kept)
        xyz_m = prefix.xyz_m[kept]
        origin_m = xyz_m.new_tensor(loaded.model.origin_of(prefix.scene))
        in_world = SceneStates(prefix.final_states(), xyz_m + origin_m)
        limits = SearchLimits(MAX_BOXES_A_NAME, config.objects.min_score, faint=True)
        pointed = point_at_each(loaded.head.head, states, in_world, names, limits)

        # The surfaces there; where there is none that fits, there is no object.
        for guesses in pointed:
            boxes: list[Box3D] = []  # of one name
            for guess in guesses:
                box = refine_box(survey.points, guess, survey.floor_z_m)
                if box is not guess and not any(_is_within(box, other) for other in boxes):
                    boxes.append(box)
            survey.found += boxes
        if len(survey.found) > MAX_DETECTIONS:
            survey.found.sort(key=lambda box: -box.score)
            del survey.found[MAX_DETECTIONS:]
        survey.done += len(names)

    def _check_depth(
        self, survey: Survey, detections: list[Detection], prefix: ScenePrefix
    ) -> None:
        """A few of the detections: those that depth supports are objects."""
        least = self._config.boxes.min_support_points
        for detection in detections[survey.checked : survey.checked + CHECKED_A_STEP]:
            others = [other.box for other in detections if other is not detection]
            for box in check_support([detection.box], survey.scene.frames, least):
                points = telling_points(survey.points, box, others)
                named = self._named_closer(replace(detection, box=box), survey.scene, prefix)
                survey.objects.append(FoundObject(named, points))
        survey.checked += CHECKED_A_STEP

    def _named_closer(
        self, detection: Detection, scene: SceneSnapshot, prefix: ScenePrefix
    ) -> Detection:
        """Under that of the names found at its place that fits best, where the model is not sure of
        the first: asked what is there in the scene, and in a closer look at the place.
        """
        loaded, config = self._loaded, self._config
        names = (detection.label, *detection.alternatives)
        if len(names) == 1 or not TAUGHT.issubset(loaded.model.config.question_kinds):
            return detection
        x, y, z = detection.box.center_m.tolist()
        told = names_at(loaded, prefix, (x, y, z), names, config.model.conversation)
        if told[0] >= SURE_NAME:
            return detection
        clock = StageClock(loaded.model.device)
        closer = look_at(loaded, scene, (x, y, z), config, clock, lambda: None)
        if closer is None:
            return detection
        seen = names_at(loaded, closer, (x, y, z), names, config.model.conversation)
        both = [a * b for a, b in zip(told, seen, strict=True)]
        best = max(range(len(names)), key=both.__getitem__)
        if both[best] < BETTER_NAME * both[0]:
            return detection
        others = tuple(name for name in names if name != names[best])
        return Detection(replace(detection.box, label=names[best]), others)

    # -- state

    def _configure(self, config: AgentConfig) -> None:
        """Take the settings of now."""
        if config is self._config:
            return
        if config.objects != self._config.objects:
            self._surveyed = self._refused = (-1, -1)  # what they find may be another thing
        self._config = config
        self.memory.max_count = config.objects.max_count
        reason = self._reason(config)
        if reason["why_not"] != self.snapshot.why_not:
            with self._lock:
                self.snapshot = ObjectsSnapshot(scene_epoch=self.snapshot.scene_epoch, **reason)
            self._epoch = -1

    def _reason(self, config: AgentConfig) -> dict[str, Any]:
        """why_not and is_fault of a snapshot under these settings."""
        why_not, is_fault = "", False
        if not config.objects.enabled:
            why_not = "no objects are kept: objects.enabled is false."
        elif self._loaded.head is None:
            why_not = (
                "no objects are kept: the model has no grounding head (grounding_head.safetensors"
                " beside its weights) to find them with."
            )
        elif self._vocabulary.why_not:
            why_not, is_fault = self._vocabulary.why_not, self._vocabulary.is_fault
        elif not serves_questions(config, Policy.from_config(config.pruning)):
            why_not = (
                "no objects are kept: they are looked for in the cached scene, and these settings"
                " keep none (cache.mode, model.compat, or a strategy that selects per question)."
            )
        return {"why_not": why_not, "is_fault": is_fault}

    def _follow(self, scene: SceneSnapshot) -> None:
        """Forget the objects of another scene."""
        if scene.state.epoch != self._epoch:
            self._epoch, self._survey = scene.state.epoch, None
            self.closer_look.forget()
            self._surveyed = self._refused = (-1, -1)
            first = self.memory.next_number if scene.state.epoch == self._numbered else 1
            self.memory = ObjectMemory(self._config.objects.max_count, first)
            self._numbered = scene.state.epoch

    def _of_scene(self, scene: SceneSnapshot) -> ObjectsSnapshot:
        state = scene.state
        return ObjectsSnapshot(
            scene_epoch=state.epoch,
            scene_version=state.version,
            stamp_ns=state.newest_ns,
            frame_id=scene.frames[-1].frame_id,
        )

    def _publish(self, snapshot: ObjectsSnapshot) -> None:
        """With the objects as they are known now, unless the scene was reset meanwhile."""
        with self._lock:
            if self._epoch >= self.snapshot.scene_epoch:
                self.snapshot = replace(snapshot, objects=self.memory.objects)


def _is_within(box: Box3D, other: Box3D) -> bool:
    """Whether the centre of one lies in the other: two of a name that do are one thing."""
    pairs = (box, other), (other, box)
    return any(bool(points_inside(a.center_m[None], b)[0]) for a, b in pairs)
