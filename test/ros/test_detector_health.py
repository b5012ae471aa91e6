"""The judgement of a detector: each kind of fault gives exactly its sentence, cure and severity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ada3d_ros.errors import FrameReason
from ada3d_ros.perception.detector import DetectorInfo, DetectorReport
from ada3d_ros.ros.detector_health import (
    IN_A_ROW,
    MIN_UNSEEN,
    MIN_UNUSABLE,
    NO_SUCH_NUMBER,
    SILENT_AFTER_S,
)
from ada3d_ros.ros.health import judge
from ada3d_ros.ros.health_state import (
    DetectorState,
    HealthState,
    InputState,
    MatchReport,
    Offer,
    Severity,
)

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
NOTE, WARN, _ = Severity
GOOD = DetectorReport(DetectorInfo("pico.onnx", "picodet"), looked_at=90, found=200, seconds=0.25)
TOPIC = InputState(
    name="detections",
    topic="/yolo/detections",
    interface="~/detections_2d",
    type_name="Detection2DArray",
    received=30,
    silent_s=0.1,
    offers=(Offer("Detection2DArray", "reliable"),),
)
IMAGES = InputState("rgb", "/rgb/image", "rgb/image", "Image", received=30, last_stamp_ns=NOW)
MISSED = MatchReport(received=30, missed=4, missed_ns=12 * SECOND, nearest_ns=12_400_000_000)
FEWER = (
    "or let fewer frames in (input.max_rate_hz, keyframe.min_translation_m,"
    " keyframe.min_rotation_deg)."
)
COPY = "let its node copy the header of the image that it looked at."
SILENT = {"received": 0, "silent_s": 60.0, "offers": ()}


def own(**report: Any) -> HealthState:
    """Images that come, and a detector of one's own."""
    return HealthState((IMAGES,), keyframes=3, detector=DetectorState(replace(GOOD, **report)))


MATCHING = MatchReport(received=90, matched=90)


def topic(matches: MatchReport = MATCHING, **changes: Any) -> HealthState:
    """The same with a topic."""
    detector = DetectorState(GOOD, replace(TOPIC, **changes), matches)
    return HealthState((IMAGES,), keyframes=3, detector=detector)


ONE_FAULT: dict[str, tuple[HealthState, Severity, str]] = {
    "it raises again and again": (
        own(failed=4, failed_in_a_row=IN_A_ROW, last_error="pico.onnx: out of memory"),
        WARN,
        "the detector failed at the last 3 frames, no object is found meanwhile: pico.onnx: out"
        " of memory: check it with `ada3d doctor --detector PATH`.",
    ),
    "slower than the camera": (
        own(recent=120, recent_unseen=30),
        WARN,
        "30 of the last minute's 120 frames went by before the detector had seen them, it takes"
        f" 0.25 s for one: take a smaller detector or more detector.threads, {FEWER}",
    ),
    "boxes of which nothing can be made": (
        own(failed=3, failed_in_a_row=3, last_error="the boxes of pico.onnx", lifting_failed=True),
        WARN,
        "objects cannot be made of the last 3 frames, no object is found meanwhile: the boxes of"
        " pico.onnx: the log has the trace: report it with that.",
    ),
    "boxes that cannot be used": (
        own(found=20, refused={"a score that is NaN": 9, "a box outside the picture": 31}),
        WARN,
        "the detector gives what cannot be used, 31 x a box outside the picture, 9 x a score that"
        " is NaN: export its file again, or check it with `ada3d doctor --detector PATH`.",
    ),
    "nobody publishes": (
        topic(**SILENT),
        WARN,
        "nothing received on /yolo/detections (Detection2DArray), no object is found, 0 publishers:"
        " start the node that detects, or remap: -r ~/detections_2d:=TOPIC.",
    ),
    "nobody publishes yet": (
        topic(**SILENT | {"silent_s": SILENT_AFTER_S}),
        NOTE,
        "nothing received on /yolo/detections (Detection2DArray), no object is found, 0 publishers"
        " so far: start the node that detects, or remap: -r ~/detections_2d:=TOPIC.",
    ),
    "another topic of the type": (
        topic(**SILENT | {"elsewhere": ("/isaac/boxes",)}),
        WARN,
        "nothing received on /yolo/detections (Detection2DArray), no object is found, 0 publishers;"
        " of this type there is /isaac/boxes: start the node that detects, or remap: -r"
        " ~/detections_2d:=/isaac/boxes.",
    ),
    "published, and does not come": (
        topic(received=0, silent_s=60.0),
        WARN,
        "nothing received on /yolo/detections (Detection2DArray), no object is found, 1 publisher:"
        " check that it sends (ros2 topic hz /yolo/detections).",
    ),
    "it stopped": (
        topic(silent_s=60.0),
        WARN,
        "nothing received any more on /yolo/detections (Detection2DArray), no object is found, 1"
        " publisher: check that it sends (ros2 topic hz /yolo/detections).",
    ),
    "another type": (
        topic(**SILENT | {"offers": (Offer("Detection3DArray", "reliable"),)}),
        WARN,
        "/yolo/detections is published as Detection3DArray, subscribed as Detection2DArray: remap,"
        " as in -r ~/detections_2d:=TOPIC.",
    ),
    "stamps that never match": (
        topic(MISSED),
        WARN,
        "4 frames without detections: stamps of /yolo/detections never match those of the colour"
        " image within sync.slop_sec 0.02 s, the nearest (12.400) is 0.4 s ahead of the image"
        f" (12.000): {COPY}",
    ),
    "stamps that match no more": (
        topic(replace(MISSED, matched=7, nearest_ns=11_950_000_000)),
        WARN,
        "4 frames without detections: stamps of /yolo/detections match no more those of the"
        " colour image within sync.slop_sec 0.02 s, the nearest (11.950) is 0.05 s behind the image"
        f" (12.000): {COPY}",
    ),
    "stamps that are not set": (
        topic(replace(MISSED, unset_stamps=40), unset_stamps=40),
        WARN,
        f"/yolo/detections: header.stamp is not set (zero) in 40 arrays: {COPY}",
    ),
    "another camera": (
        topic(replace(MISSED, other_frame="left")),
        WARN,
        "4 frames without detections: those on /yolo/detections are of camera frame 'left',"
        f" the images of another: remap ~/detections_2d to the detector of this camera, or {COPY}",
    ),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_each_fault_has_its_sentence(name: str) -> None:
    health, severity, text = ONE_FAULT[name]
    found = [(fault.severity, str(fault), fault.task) for fault in judge(health)]
    assert found == [(severity, text, "Detector")]


NO_FAULT: dict[str, HealthState] = {
    "all is well": own(),
    "a topic that is well": topic(),
    "no detector": HealthState((IMAGES,), keyframes=3),
    "two failures in a row": own(failed=8, failed_in_a_row=IN_A_ROW - 1, last_error="no"),
    "a few unseen": own(recent=MIN_UNSEEN, recent_unseen=MIN_UNSEEN - 1),
    "a small share unseen": own(recent=110, recent_unseen=20),
    "many unseen, long ago": own(dropped=5000, unmatched=5000, recent=90),
    "boxes that depth does not bear out": own(found=20, refused={"no depth in the box": 400}),
    "a few boxes that cannot be used": own(refused={"a score that is NaN": MIN_UNUSABLE - 1}),
    "two keyframes without": topic(replace(MISSED, missed=IN_A_ROW - 1)),
    "silence with the camera's": replace(topic(silent_s=60.0), inputs=(), keyframes=3),
    "silence before the first keyframe": replace(topic(**SILENT), keyframes=0),
}


@pytest.mark.parametrize("name", NO_FAULT)
def test_what_is_no_fault(name: str) -> None:
    health = NO_FAULT[name]
    if name == "silence with the camera's":
        health = replace(health, inputs=(replace(IMAGES, silent_s=60.0, offers=()),))
    assert [str(fault) for fault in judge(health) if fault.task == "Detector"] == []


def test_keyframes_of_a_topic_that_go_by_unmatched_are_told_once() -> None:
    """As stamps where those never match; as a rate where some do."""
    never = topic(MISSED)
    assert never.detector is not None
    report = replace(GOOD, recent=65, recent_unseen=60)
    keys = [f.key for f in judge(replace(never, detector=replace(never.detector, report=report)))]
    assert keys == ["detector stamps"]
    some = topic(MatchReport(received=90, matched=5, missed=1))
    assert some.detector is not None
    (fault,) = judge(replace(some, detector=replace(some.detector, report=report)))
    assert str(fault) == (
        "60 of the last minute's 65 frames went by before the detector had seen them: let its node"
        f" look at more images (ros2 topic hz /yolo/detections), {FEWER}"
    )


def test_a_class_number_without_a_name_has_its_cure() -> None:
    health = topic()
    assert health.detector is not None
    report = replace(GOOD, found=0, refused={NO_SUCH_NUMBER: 12})
    (fault,) = judge(replace(health, detector=replace(health.detector, report=report)))
    assert fault.cure.endswith("or name its classes in detector.names")


def test_a_failing_detector_is_told_once() -> None:
    """Its list says the same, without the cure."""
    health = own(failed=3, failed_in_a_row=3, last_error="pico.onnx: no")
    health = replace(health, objects_warning="no objects are found: pico.onnx: no")
    assert [fault.key for fault in judge(health)] == ["detector fails"]


def test_what_keeps_frames_out_comes_first() -> None:
    health = own(recent=120, recent_unseen=30)
    refusals = {FrameReason.BAD_SIZE: (40, "depth is 32x24.")}
    health = replace(health, refusals=refusals)
    assert [fault.key for fault in judge(health)] == ["refusals", "detector slow"]
