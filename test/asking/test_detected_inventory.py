"""The list of objects that a detector makes: order of frames, counts, faults, resets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import CanceledError, DetectorError, NotGroundedError, NotMeasurableError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.object_pipeline import ObjectPipeline
from ada3d_ros.perception.detector import Detection2D, DetectorReport, FrameDetections
from ada3d_ros.types import AskHooks, GroundingMethod, Question, RgbdFrame
from test.support.scripted_detector import ScriptedDetector, kind_of, knows_nothing, raising

SEED = 5
EVERY_FRAME = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0.0}
IS_THERE = Question("Is there a sofa?")


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(SEED, side_px=96, split="val")


def configured(**settings: Any) -> AgentConfig:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return from_flat({"model.path": "none", "detector.min_views": 2} | EVERY_FRAME | named)


def opened(detector: ScriptedDetector, background: bool = True, **settings: Any) -> ObjectPipeline:
    pipeline = ObjectPipeline(configured(**settings), background, detector=detector)
    pipeline.check()
    pipeline.load()
    return pipeline


def laps(room: GeneratedRoom, count: int) -> tuple[RgbdFrame, ...]:
    """Its frames again and again, at later times."""
    return tuple(
        replace(frame, stamp_ns=frame.stamp_ns + lap * 10**10)
        for lap in range(count)
        for frame in room.frames
    )


def observe(pipeline: ObjectPipeline, frames: tuple[RgbdFrame, ...]) -> None:
    for frame in frames:
        assert pipeline.observe(frame) is not None


def settle(pipeline: ObjectPipeline) -> int:
    """The steps until nothing is left."""
    for number in range(100):
        if not pipeline.run_background_step():
            return number
    raise AssertionError("it never ends")


def report_of(pipeline: ObjectPipeline) -> DetectorReport:
    report = pipeline.detector_report()
    assert report is not None
    return report


def told(snapshot: ObjectsSnapshot) -> list[tuple[str, str, list[float]]]:
    return [(o.id, o.label, o.box.center_m.round(6).tolist()) for o in snapshot.objects]


# -- what is found


def test_each_thing_is_one_object_where_it_stands(room: GeneratedRoom) -> None:
    pipeline = opened(ScriptedDetector(room.boxes))
    observe(pipeline, room.frames)
    settle(pipeline)
    snapshot = pipeline.objects()
    assert snapshot.complete
    assert snapshot.why_not == ""
    assert (snapshot.scene_epoch, snapshot.scene_version) == (0, len(room.frames))
    assert snapshot.stamp_ns == room.frames[-1].stamp_ns
    assert len(snapshot.objects) == len(room.boxes) == 6
    for true in room.boxes:
        thing = max(snapshot.objects, key=lambda found: iou_axis_aligned(true, found.box))
        assert kind_of(true) == thing.label.split()[-1]
        assert thing.box.method is GroundingMethod.DETECTOR
        assert np.abs(true.center_m - thing.center_m).max() < 0.3  # the far side is not seen


def test_frames_one_by_one_make_the_list_of_all_at_once(room: GeneratedRoom) -> None:
    little_by_little = opened(ScriptedDetector(room.boxes))
    for frame in room.frames:
        observe(little_by_little, (frame,))
        settle(little_by_little)
    at_the_end = opened(ScriptedDetector(room.boxes))
    observe(at_the_end, room.frames)
    settle(at_the_end)
    library = opened(ScriptedDetector(room.boxes), background=False)
    observe(library, room.frames)
    assert told(library.inventory_now()) == told(at_the_end.objects())

    # Numbers are given as things come; what and where they are is the same.
    def places(pipeline: ObjectPipeline) -> list[tuple[str, list[float]]]:
        return sorted(line[1:] for line in told(pipeline.objects()))

    assert places(little_by_little) == places(at_the_end)
    assert report_of(little_by_little) == report_of(at_the_end) == report_of(library)


# -- one keyframe a step


def test_a_step_looks_at_the_oldest_keyframe_that_waits(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector)
    assert not pipeline.run_background_step()
    observe(pipeline, room.frames[:3])
    for number in range(3):
        assert detector.calls == [frame.stamp_ns for frame in room.frames[:number]]
        assert not pipeline.objects().complete
        assert pipeline.run_background_step()
    assert pipeline.objects().complete
    assert not pipeline.run_background_step()
    assert detector.calls == [frame.stamp_ns for frame in room.frames[:3]]
    assert report_of(pipeline).looked_at == 3
    assert report_of(pipeline).waiting == 0
    assert report_of(pipeline).seconds == 0.05


def test_a_question_waits_for_no_keyframe(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector)
    observe(pipeline, room.frames)
    with pytest.raises(NotGroundedError, match="has not looked at this scene yet"):
        pipeline.ask(IS_THERE)
    assert detector.calls == []
    for _ in range(4):
        pipeline.run_background_step()
    answer = pipeline.ask(IS_THERE)
    assert answer.text.startswith("Yes")
    assert len(detector.calls) == 4  # the four that wait are for later
    assert answer.measurement is not None
    assert any("still being made" in line for line in answer.measurement.assumptions)


def test_without_a_background_a_question_is_about_all_keyframes(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector, background=False)
    observe(pipeline, room.frames)
    checks: list[int] = []
    hooks = AskHooks(check=lambda: checks.append(len(detector.calls)))
    assert pipeline.ask(IS_THERE, hooks).text.startswith("Yes")
    assert detector.calls == [frame.stamp_ns for frame in room.frames]
    assert set(range(len(room.frames))) <= set(checks)  # asked before each of them
    assert pipeline.objects().complete

    # The next one finds all of it done.
    pipeline.ask(IS_THERE)
    assert len(detector.calls) == len(room.frames)


def test_a_caller_stops_between_two_keyframes(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector, background=False)
    observe(pipeline, room.frames)

    def check() -> None:
        if len(detector.calls) == 2:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        pipeline.ask(IS_THERE, AskHooks(check=check))
    assert len(detector.calls) == 2
    assert len(pipeline.inventory_now().objects) == 6
    assert detector.calls == [frame.stamp_ns for frame in room.frames]  # none of them twice


def test_a_deadline_ends_the_look_at_keyframes(room: GeneratedRoom) -> None:
    clock = [0.0]

    class Slow(ScriptedDetector):
        def see(self, frame: RgbdFrame) -> FrameDetections:
            clock[0] += 1.0
            return super().see(frame)

    detector = Slow(room.boxes)
    pipeline = ObjectPipeline(configured(), False, lambda: clock[0], detector)
    pipeline.load()
    observe(pipeline, room.frames)
    answer = pipeline.ask(Question(IS_THERE.text, deadline_s=3.5))
    assert len(detector.calls) == 4
    assert not pipeline.objects().complete
    assert not answer.deadline_kept
    assert answer.timings.scene_s == answer.timings.total_s == 4.0


# -- keyframes that come too fast, and those that nothing is known of


def test_frames_that_came_too_fast_are_counted(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector, keyframe__max_views=3)
    frames = laps(room, 2)
    observe(pipeline, frames[:11])  # eight wait
    report = report_of(pipeline)
    assert (report.dropped, report.waiting, report.looked_at) == (3, 8, 0)
    assert pipeline.run_background_step()
    assert detector.calls == [frames[3].stamp_ns]
    observe(pipeline, frames[11:13])
    report = report_of(pipeline)
    assert (report.dropped, report.waiting, report.looked_at) == (4, 8, 1)
    assert settle(pipeline) == 8
    report = report_of(pipeline)
    assert (report.dropped, report.waiting, report.looked_at) == (4, 0, 9)
    assert report.unmatched == 0
    assert detector.calls == [frame.stamp_ns for frame in (frames[3], *frames[5:13])]
    assert len(pipeline.scene.keyframes) == 3  # those that left them are looked at all the same


def test_without_a_background_no_frame_is_missed(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector, background=False, keyframe__max_views=3)
    frames = laps(room, 2)
    observe(pipeline, frames[:8])
    assert detector.calls == []
    observe(pipeline, frames[8:])
    assert detector.calls == [frame.stamp_ns for frame in frames[:8]]
    pipeline.inventory_now()
    assert detector.calls == [frame.stamp_ns for frame in frames]
    assert report_of(pipeline).dropped == 0


def test_keyframes_of_before_it_was_loaded_are_looked_at(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = ObjectPipeline(configured(), True, detector=detector)
    frames = laps(room, 2)
    observe(pipeline, frames[:10])
    pipeline.load()
    observe(pipeline, frames[10:12])
    assert settle(pipeline) == 12
    assert detector.calls == [frame.stamp_ns for frame in frames[:12]]


def test_frames_between_keyframes_are_looked_at(room: GeneratedRoom) -> None:
    """Those that moved by a quarter of what a keyframe must have moved."""
    detector = ScriptedDetector(room.boxes)
    settings = {"keyframe__min_translation_m": 0.4, "keyframe__min_rotation_deg": 180.0}
    pipeline = opened(detector, keyframe__max_interval_sec=0.0, **settings)
    first = room.frames[0]
    moved_m = (0.0, 0.09, 0.11, 0.19, 0.22, 0.33, 0.41)
    frames = []
    for number, x_m in enumerate(moved_m):
        pose = first.T_world_cam.copy()
        pose[0, 3] += x_m
        stamp_ns = first.stamp_ns + number
        frames.append(replace(first, stamp_ns=stamp_ns, T_world_cam=pose))
    admitted = [pipeline.observe(frame) is not None for frame in frames]
    assert admitted == [True, False, False, False, False, False, True]
    settle(pipeline)
    assert [ns - first.stamp_ns for ns in detector.calls] == [0, 2, 4, 5, 6]


def test_those_nothing_is_known_of_are_asked_for_again(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes, {0: knows_nothing, 1: knows_nothing})
    pipeline = opened(detector)
    first, second = (frame.stamp_ns for frame in room.frames[:2])
    observe(pipeline, room.frames[:2])
    assert settle(pipeline) == 2  # each once, then it rests
    assert detector.calls == [first, second]
    assert not pipeline.objects().complete
    assert (report_of(pipeline).waiting, report_of(pipeline).looked_at) == (2, 0)
    with pytest.raises(NotMeasurableError, match="has not looked at this scene yet"):
        pipeline.ask(IS_THERE)  # nothing was seen: that is no "no"
    detector.script[2] = knows_nothing
    assert settle(pipeline) == 2
    assert detector.calls == [first, second, first, second]

    # The second was told of: nobody waits for the first any more, though it may still come.
    assert pipeline.objects().complete
    assert (report_of(pipeline).waiting, report_of(pipeline).looked_at) == (1, 1)
    assert settle(pipeline) == 1
    assert (report_of(pipeline).waiting, report_of(pipeline).looked_at) == (0, 2)


def test_those_nothing_was_ever_known_of_have_their_own_count(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes, dict.fromkeys(range(3), knows_nothing))
    pipeline = opened(detector)
    frames = laps(room, 2)
    observe(pipeline, frames[:3])
    settle(pipeline)
    observe(pipeline, frames[3:10])  # ten: the first two go
    report = report_of(pipeline)
    assert (report.unmatched, report.dropped, report.waiting) == (2, 0, 8)
    observe(pipeline, frames[10:12])  # the third, and one that nobody asked for
    report = report_of(pipeline)
    assert (report.unmatched, report.dropped, report.waiting) == (3, 1, 8)
    settle(pipeline)
    report = report_of(pipeline)
    assert (report.looked_at, report.waiting) == (8, 0)


def test_a_clock_that_fell_back_completes_no_list(room: GeneratedRoom) -> None:
    """Frames of an earlier stamp that nothing is known of are waited for as any others."""
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector)
    observe(pipeline, laps(room, 2)[8:12])
    settle(pipeline)
    assert pipeline.objects().complete
    pipeline.allow_earlier_stamps()
    detector.script |= {4: knows_nothing, 5: knows_nothing}
    observe(pipeline, room.frames[:2])
    assert settle(pipeline) == 2
    assert not pipeline.objects().complete
    detector.script[6] = knows_nothing
    assert settle(pipeline) == 2  # the second of them is told of
    assert pipeline.objects().complete


def test_slowness_of_long_ago_is_not_told(room: GeneratedRoom) -> None:
    clock = [0.0]
    detector = ScriptedDetector(room.boxes)
    pipeline = ObjectPipeline(configured(), True, lambda: clock[0], detector)
    pipeline.load()
    observe(pipeline, laps(room, 2)[:12])
    settle(pipeline)
    report = report_of(pipeline)
    assert (report.recent, report.recent_unseen) == (12, 4)
    clock[0] = 59.0
    observe(pipeline, laps(room, 2)[12:14])
    settle(pipeline)
    clock[0] = 61.0
    report = report_of(pipeline)
    assert (report.recent, report.recent_unseen) == (2, 0)
    assert (report.dropped, report.looked_at) == (4, 10)  # of all time


# -- what a detector does wrong


@pytest.mark.parametrize("error", [DetectorError("no session"), RuntimeError(""), MemoryError()])
def test_a_fault_is_told_and_the_next_keyframe_tried(room: GeneratedRoom, error: Exception) -> None:
    pipeline = opened(ScriptedDetector(room.boxes, {0: raising(error)}))
    observe(pipeline, room.frames)
    assert pipeline.run_background_step()
    snapshot, report = pipeline.objects(), report_of(pipeline)
    assert snapshot.is_fault
    assert snapshot.why_not == f"no objects are found: {report.last_error}"
    assert (str(error) or repr(error)) in report.last_error
    assert (report.failed, report.failed_in_a_row, report.looked_at) == (1, 1, 0)
    with pytest.raises(NotGroundedError, match="what is there cannot be told"):
        pipeline.ask(IS_THERE)

    settle(pipeline)
    snapshot, report = pipeline.objects(), report_of(pipeline)
    assert (report.failed, report.failed_in_a_row) == (1, 0)
    assert report.looked_at == len(room.frames) - 1
    assert (snapshot.why_not, snapshot.is_fault, snapshot.complete) == ("", False, True)
    assert len(snapshot.objects) == 6


def test_a_list_survives_a_fault_but_not_three_in_a_row(room: GeneratedRoom) -> None:
    broken = raising(DetectorError("gone"))
    detector = ScriptedDetector(room.boxes, {4: broken, 6: broken, 7: broken, 8: broken})
    pipeline = opened(detector)
    observe(pipeline, room.frames[:5])
    settle(pipeline)
    assert (pipeline.objects().why_not, pipeline.objects().is_fault) == ("", False)
    observe(pipeline, room.frames[5:])
    for _ in range(3):  # one is looked at, two fail
        assert pipeline.run_background_step()
    assert pipeline.objects().why_not == ""
    pipeline.reset_scene()
    observe(pipeline, room.frames[:1])
    pipeline.run_background_step()
    assert pipeline.objects().is_fault
    assert report_of(pipeline).failed == 4


def test_what_is_no_detection_is_a_fault_too(room: GeneratedRoom) -> None:
    nonsense = FrameDetections((None,))  # type: ignore[arg-type]
    pipeline = opened(ScriptedDetector(room.boxes, {0: lambda frame: nonsense}))
    observe(pipeline, room.frames)
    settle(pipeline)
    assert report_of(pipeline).failed == 1
    assert len(pipeline.objects().objects) == 6


def test_what_fails_behind_the_detector_is_not_told_of_it(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lift(*parts: Any) -> None:
        raise ZeroDivisionError("no depth")

    monkeypatch.setattr("ada3d_ros.asking.detected_inventory.lift_all", lift)
    pipeline = opened(ScriptedDetector(room.boxes))
    observe(pipeline, room.frames[:2])
    settle(pipeline)
    report = report_of(pipeline)
    assert report.lifting_failed
    assert (report.failed, report.failed_in_a_row, report.looked_at) == (2, 2, 0)
    assert report.last_error == (
        "the boxes of scripted cannot be lifted: ZeroDivisionError('no depth')"
    )
    (record,) = caplog.records
    assert record.getMessage() == f"a frame is lost: {report.last_error}"
    assert record.exc_info is not None  # with its trace

    # A fault of the detector is told as one again.
    monkeypatch.undo()
    pipeline = opened(ScriptedDetector(room.boxes, {0: raising(DetectorError("no session"))}))
    observe(pipeline, room.frames[:1])
    settle(pipeline)
    assert not report_of(pipeline).lifting_failed
    assert report_of(pipeline).last_error == "scripted: no session"


def test_a_detector_that_runs_elsewhere_has_no_time(room: GeneratedRoom) -> None:
    def act(frame: RgbdFrame) -> FrameDetections:
        return FrameDetections()

    pipeline = opened(ScriptedDetector(room.boxes, {0: act, 1: act}))
    observe(pipeline, room.frames[:2])
    settle(pipeline)
    assert report_of(pipeline).looked_at == 2
    assert np.isnan(report_of(pipeline).seconds)


def test_boxes_that_are_refused_are_counted_by_reason(room: GeneratedRoom) -> None:
    def act(frame: RgbdFrame) -> FrameDetections:
        wrong = Detection2D((10.0, 10.0, 11.0, 11.0), "sofa", 0.9)
        return FrameDetections((wrong,), {"a score that is NaN": 2}, 0.25)

    pipeline = opened(ScriptedDetector(room.boxes, {0: act, 1: act}))
    observe(pipeline, room.frames[:2])
    settle(pipeline)
    report = report_of(pipeline)
    assert report.refused["a score that is NaN"] == 4
    assert report.refused["a box under 4 px, or outside the picture"] == 2
    assert sum(report.refused.values()) == 6
    assert (report.found, report.seconds) == (0, 0.25)


# -- other scenes, other settings


def test_a_reset_while_a_keyframe_is_looked_at(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector)

    def reset(frame: RgbdFrame) -> FrameDetections:
        pipeline.reset_scene()
        return detector.see(frame)

    observe(pipeline, room.frames[:4])
    detector.script[3] = reset
    for _ in range(4):
        pipeline.run_background_step()
    assert pipeline.objects().objects == ()
    assert pipeline.objects().scene_epoch == 1
    observe(pipeline, room.frames[4:])
    with pytest.raises(NotGroundedError, match="has not looked at this scene yet"):
        pipeline.ask(IS_THERE)
    settle(pipeline)
    snapshot = pipeline.objects()
    assert snapshot.scene_epoch == 1
    assert snapshot.objects
    assert snapshot.objects[0].id == "1"
    assert report_of(pipeline).dropped == 0
    assert report_of(pipeline).looked_at == 8


def test_settings_judge_what_was_found_anew(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector)
    observe(pipeline, room.frames)
    settle(pipeline)
    assert len(pipeline.objects().objects) == 6
    for changed, left in (
        ({"detector__min_views": 30}, 0),
        ({}, 6),
        ({"detector__min_score": 0.95}, 0),
        ({"detector__min_score": 0.5}, 6),
        ({"objects__min_score": 0.95}, 0),
        ({}, 6),
    ):
        pipeline.set_config(configured(**changed))
        assert not pipeline.run_background_step()
        assert len(pipeline.objects().objects) == left
    assert detector.scores == [0.0, 0.0, 0.95, 0.5, 0.0, 0.0]
    assert len(detector.calls) == len(room.frames)


def test_no_objects_are_kept_where_nobody_wants_them(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    pipeline = opened(detector, objects__enabled=False)
    observe(pipeline, room.frames[:4])
    assert not pipeline.run_background_step()
    assert pipeline.objects().why_not == "no objects are kept: objects.enabled is false."
    assert not pipeline.objects().is_fault
    with pytest.raises(NotGroundedError, match=r"objects\.enabled is false"):
        pipeline.ask(IS_THERE)
    pipeline.set_config(configured())
    observe(pipeline, room.frames[4:])
    assert settle(pipeline) == 8
    assert pipeline.objects().objects
    pipeline.set_config(configured(objects__enabled=False))
    assert not pipeline.run_background_step()
    assert pipeline.objects().objects == ()
