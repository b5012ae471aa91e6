"""The list of a scene's objects, made by a detector: frame by frame its boxes are lifted into the
world and merged into things.

Frames wait in a queue that is denser than the keyframes. A step looks at one of them, the oldest.
What a detector or its file does wrong is a sentence and a count; the next frame is tried all the
same. Belongs to the thread that asks; `offer`, `snapshot`, `report` and `reset` are for any.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from ada3d_ros.asking.object_source import SceneQuery
from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import DeviceLostError
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.perception.detector import Detector, DetectorReport
from ada3d_ros.perception.frame_queue import FrameQueue, WaitingFrame
from ada3d_ros.perception.lifting import lift_all
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import KeptObjects, ObjectMemory
from ada3d_ros.types import NAN, RgbdFrame

logger = logging.getLogger(__name__)

FAULTS_IN_A_ROW = 3  # frames failed, after which the list is taken to be at fault
TIMED = 50  # frames whose times are kept
NOT_YET = "the detector has not looked at this scene yet: ask again in a moment."
NOT_ENABLED = "no objects are kept: objects.enabled is false."


class DetectedInventory:
    """The objects of one robot's scene. `snapshot` and `report` are replaced, never changed.

    now: the clock of what is recent, in s.
    """

    def __init__(
        self, detector: Detector, config: AgentConfig, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._detector, self._config = detector, config
        self._lock = threading.Lock()  # for the snapshot's epoch
        self._map = ObjectMap(config.detector.min_views, self._min_score)
        self.memory = ObjectMemory(config.objects.max_count)

        # The frames.
        self._queue = FrameQueue(now)
        self._work = threading.RLock()  # one frame at a time, whoever has it looked at
        self._epoch = self._numbered = -1  # of map and memory, and of the ids given
        self._last_looked = -math.inf  # number of the latest frame that was, of this epoch
        self._looked_at_scene = 0  # frames of this epoch
        self._judged_anew = False  # settings changed: the list follows with the next step

        # What is told.
        self._seconds: deque[float] = deque(maxlen=TIMED)
        self._refused: Counter[str] = Counter()
        self._report = DetectorReport(detector.info)
        self.snapshot = ObjectsSnapshot(why_not=self._why_not())

    @property
    def detector(self) -> Detector:
        return self._detector

    @property
    def taught_words(self) -> frozenset[str]:
        """Empty: what is not among its kinds is told by its list."""
        return frozenset()

    @property
    def report(self) -> DetectorReport:
        """What the detector did so far, in numbers."""
        queue = self._queue
        recent, recent_unseen = queue.recent()
        return replace(
            self._report,
            dropped=queue.dropped,
            unmatched=queue.unmatched,
            waiting=len(queue),
            recent=recent,
            recent_unseen=recent_unseen,
        )

    def reset(self, epoch: int) -> None:
        self._queue.clear()
        with self._lock:
            self.snapshot = ObjectsSnapshot(scene_epoch=epoch, why_not=self._why_not())

    def restore(self, known: KeptObjects, scene: SceneSnapshot) -> None:
        """The list that was kept of this scene. The frames that it was made of are not looked at
        again; what new ones show is matched with it by label and place. Call it on the asking
        thread.
        """
        with self._work:
            if not self._config.objects.enabled:
                return
            self._epoch = self._numbered = scene.state.epoch
            self._map.reset()
            self.memory = ObjectMemory.from_told(
                self._config.objects.max_count, known.without_keys()
            )
            self._last_looked, self._looked_at_scene = -math.inf, int(not known.snapshot.why_not)
            with self._lock:
                self.snapshot = replace(known.snapshot, scene_epoch=self._epoch)

    # -- frames in

    def offer(self, frame: RgbdFrame, is_keyframe: bool, epoch: int) -> None:
        """A frame of the scene; taken in where it adds to those that were."""
        if self._config.objects.enabled:
            self._queue.offer(frame, is_keyframe, epoch, self._config.keyframe)

    def make_room(self, scene: SceneSnapshot, config: AgentConfig) -> None:
        """Look at frames until no other one makes one of them go: for who must not miss any."""
        while self._queue.is_full and self.step(scene, config):
            pass

    # -- between questions

    def step(self, scene: SceneSnapshot, config: AgentConfig) -> bool:
        """What new keyframes say about the objects, and one frame through the detector."""
        with self._work:
            if not self._begin(scene, config):
                return False
            observed = self.memory.observe(scene)
            waiting = self._queue.take(scene.state.epoch)
            if waiting is None:
                self._queue.begin_round()
            else:
                self._look_at(waiting, scene)
            if observed or waiting is not None:
                self._publish(scene)
            return waiting is not None

    def objects_for(self, query: SceneQuery) -> ObjectsSnapshot:
        """Of all frames where the question is exact, else as they are known: it waits for nothing
        but the step that runs.
        """
        if query.exact:
            return self.complete_now(query)
        known = self.snapshot
        if known.scene_epoch != query.scene.state.epoch or known.stamp_ns < 0:
            return replace(known, why_not=known.why_not or NOT_YET)
        return known

    def complete_now(self, query: SceneQuery) -> ObjectsSnapshot:
        """Of all frames, those that wait taken in first, as far as the question's deadline allows.
        Raises what hooks.check does.
        """
        scene = query.scene
        with self._work:
            if not self._begin(scene, query.config):
                return self.snapshot
            while True:
                query.hooks.check()
                late = query.clock.elapsed_s() >= query.question.deadline_s
                waiting = None if late else self._queue.take(scene.state.epoch)
                if waiting is None:
                    break
                self._look_at(waiting, scene)
            self._queue.begin_round()
            self.memory.observe(scene)
            return self._publish(scene)

    # -- one frame

    def _look_at(self, waiting: WaitingFrame, scene: SceneSnapshot) -> None:
        """Through the detector, and what it shows into the list; put off where nothing is known of
        it yet.
        """
        # Its boxes.
        frame, name = waiting.frame, self._detector.info.name
        try:
            said = self._detector.detect(frame)
        except DeviceLostError:
            raise
        except Exception as error:  # of the detector: the next frame may be another matter
            self._count_fault(f"{name}: {error}" if str(error) else repr(error))
            return
        if said is None:
            self._queue.put_off(waiting)
            return

        # Their places, and the things that they are of.
        try:
            lifted = lift_all(frame, said.detections)
            self._map.add(frame, lifted.candidates, waiting.is_keyframe)
            self._list(scene)
        except Exception as error:  # ours, or boxes that are none
            self._count_fault(f"the boxes of {name} cannot be lifted: {error!r}", lifting=error)
            return

        # What it did, in numbers.
        self._queue.note_seen()
        self._last_looked = max(self._last_looked, waiting.number)
        self._looked_at_scene += 1
        if not math.isnan(said.seconds):  # else it ran elsewhere
            self._seconds.append(said.seconds)
        self._refused.update(said.refused)
        self._refused.update(lifted.refused)
        self._report = replace(
            self._report,
            looked_at=self._report.looked_at + 1,
            found=self._report.found + len(lifted.candidates),
            refused=dict(self._refused),
            seconds=median(self._seconds) if self._seconds else NAN,
            failed_in_a_row=0,
        )

    def _list(self, scene: SceneSnapshot) -> None:
        """The map's things as the list's objects. What was listed and is none of them any more, one
        with another thing perhaps, goes.
        """
        found = self._map.found()
        self.memory.update(found, scene)
        self.memory.retain(found)

    def _count_fault(self, text: str, lifting: Exception | None = None) -> None:
        """lifting: what was raised while the boxes were lifted, whose trace is logged."""
        in_a_row = self._report.failed_in_a_row + 1
        self._report = replace(
            self._report,
            failed=self._report.failed + 1,
            failed_in_a_row=in_a_row,
            last_error=text,
            lifting_failed=lifting is not None,
        )
        if in_a_row == 1:
            who = "the detector failed at a frame" if lifting is None else "a frame is lost"
            logger.warning("%s: %s", who, text, exc_info=lifting)

    # -- state

    def _begin(self, scene: SceneSnapshot, config: AgentConfig) -> bool:
        """Take the settings and the scene of now; whether objects are kept at all."""
        self._configure(config)
        if not config.objects.enabled or not scene.keyframes:
            return False
        self._follow(scene)
        if self._judged_anew:
            self._judged_anew = False
            self._list(scene)
            self._publish(scene)
        return True

    def _configure(self, config: AgentConfig) -> None:
        if config is self._config:
            return
        old, self._config = self._config, config
        self.memory.max_count = config.objects.max_count
        if (old.detector, old.objects) != (config.detector, config.objects):
            # What was found is judged anew; a lower score counts from the next keyframe on.
            self._detector.set_min_score(config.detector.min_score)
            self._map.min_views, self._map.min_score = config.detector.min_views, self._min_score
            self._judged_anew = True
            self._report = replace(self._report, info=self._detector.info)
        if not config.objects.enabled and self.snapshot.why_not != NOT_ENABLED:
            with self._lock:
                epoch = self.snapshot.scene_epoch
                self.snapshot = ObjectsSnapshot(scene_epoch=epoch, why_not=NOT_ENABLED)
            self._queue.clear()
            self._epoch = -1

    def _follow(self, scene: SceneSnapshot) -> None:
        """Forget what was of another scene; keyframes of before the first frame come first."""
        epoch = scene.state.epoch
        if epoch == self._epoch:
            return
        if self._epoch < 0:
            self._queue.add_earlier(scene.frames, epoch)
        self._epoch = epoch
        self._map.reset()
        first = self.memory.next_number if epoch == self._numbered else 1
        self.memory = ObjectMemory(self._config.objects.max_count, first)
        self._numbered = epoch
        self._last_looked, self._looked_at_scene = -math.inf, 0

    @property
    def _min_score(self) -> float:
        """Of an object at least."""
        return max(self._config.objects.min_score, self._detector.info.min_score)

    def _why_not(self) -> str:
        return "" if self._config.objects.enabled else NOT_ENABLED

    def _publish(self, scene: SceneSnapshot) -> ObjectsSnapshot:
        """The objects as they are known now; the snapshot, unless the scene was reset meanwhile."""
        # Whether all that was taken is in it; what the detector was asked for in vain is not waited
        # for once it told of a later one.
        pending = [
            each
            for each in self._queue.waiting
            if each.epoch == self._epoch and (not each.asked or each.number > self._last_looked)
        ]
        failed = self._report.failed_in_a_row
        is_fault = failed >= FAULTS_IN_A_ROW or (failed > 0 and not self._looked_at_scene)
        why = "" if self._looked_at_scene else NOT_YET  # nothing seen so far denies nothing
        if is_fault:
            why = f"no objects are found: {self._report.last_error}"
        state = scene.state
        snapshot = ObjectsSnapshot(
            objects=self.memory.objects,
            scene_epoch=state.epoch,
            scene_version=state.version,
            complete=not pending and not is_fault,
            stamp_ns=state.newest_ns,
            frame_id=scene.frames[-1].frame_id,
            why_not=why,
            is_fault=is_fault,
        )
        with self._lock:
            if state.epoch >= self.snapshot.scene_epoch:
                self.snapshot = snapshot
        return snapshot
