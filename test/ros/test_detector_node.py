"""A node that runs on a detector alone: its objects, and what it says of a detector at fault.

Which sentence for which state is tested in test_detector_health.py; here that the node gathers it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

import ada3d_ros.ros.detection_input
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import DetectorError, ErrorCode
from ada3d_ros.msg import AgentStatus, SceneObjectArray
from ada3d_ros.perception.detector import Detection2D, DetectorInfo, FrameDetections
from ada3d_ros.ros.detector_health import IN_A_ROW, MIN_UNSEEN
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from ada3d_ros.types import RgbdFrame
from test.support.ros_harness import (
    FOCAL_PX,
    HEIGHT,
    WIDTH,
    Harness,
    agent_of_its_own,
    free_domain,
    wait_until,
)
from test.support.vision_messages import detection, detection_array

SECOND = 1_000_000_000
NO_MODEL = {"model.path": "none", "detector.path": "handed in"}
CUP_M = (0.5, 2.0, 1.0)  # a place on the wall that the harness' camera looks at


def cup_box(x_m: float) -> tuple[float, float, float, float]:
    """Where a camera at (x, 0, 1) sees it, px."""
    u = WIDTH / 2 + FOCAL_PX * (CUP_M[0] - x_m) / CUP_M[1]
    return u - 10.0, HEIGHT / 2 - 10.0, u + 10.0, HEIGHT / 2 + 10.0


class Scripted:
    """A detector that sees one cup, and does what a test wants of it."""

    info = DetectorInfo("scripted.onnx", "picodet", ("cup", "tv"), 0.5)

    def __init__(self) -> None:
        self.fails = ""
        self.gate = threading.Event()
        self.gate.set()
        self.frames = 0

    def detect(self, frame: RgbdFrame) -> FrameDetections | None:
        assert self.gate.wait(30.0)
        self.frames += 1
        if self.fails:
            raise DetectorError(self.fails)
        box = cup_box(frame.T_world_cam[0, 3])
        found = (Detection2D(box, "cup", 0.9),) if box[0] >= 0 and box[2] <= WIDTH else ()
        return FrameDetections(found, {"a score that is NaN": 2}, 0.125)

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        raise DetectorError("takes no phrases")


def next_keyframe(agent: Harness, stamp_s: int, x_m: float) -> None:
    """Publish a frame and wait until it is one."""
    pipeline = agent.node.pipeline
    assert pipeline is not None
    version = pipeline.scene_state().version
    agent.publish_frame(stamp_s * SECOND, x_m)
    assert wait_until(lambda: pipeline.scene_state().version > version), agent.why_no_keyframe()


class Seen:
    """What an agent says, as it comes."""

    def __init__(self, agent: Harness) -> None:
        self.statuses = agent.collect(AgentStatus, "/ada3d_agent/status", LATCHED)
        self._diagnostics = agent.collect(DiagnosticArray, "/diagnostics")
        self.lists = agent.collect(SceneObjectArray, "/ada3d_agent/objects", LATCHED)

    def faults(self) -> list[str]:
        return list(self.statuses[-1].faults) if self.statuses else []

    def task(self) -> tuple[bytes, str, dict[str, str]]:
        """The Detector task of /diagnostics of after this call."""
        count = len(self._diagnostics)
        assert wait_until(lambda: len(self._diagnostics) > count + 1)
        found = next(s for s in self._diagnostics[-1].status if s.name.endswith(": Detector"))
        return found.level, found.message, {kv.key: kv.value for kv in found.values}


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Harness, Scripted, Seen]]:
    detector = Scripted()
    factory = functools.partial(create_pipeline, detector=detector)
    settings = {**NO_MODEL, "keyframe.max_views": 3, "detector.min_views": 2}
    with agent_of_its_own(Path(), factory, **settings) as harness:
        seen = Seen(harness)
        harness.publish_scene(3)
        yield harness, detector, seen


def test_what_it_runs_on_is_told(parts: tuple[Harness, Scripted, Seen]) -> None:
    """The detector stands in the place of a model."""
    agent, detector, seen = parts
    info = agent.call(GetModelInfo, "get_model_info")
    assert (info.name, info.parameters, info.has_grounding_head) == ("scripted.onnx", 0, False)
    assert wait_until(lambda: detector.frames == 3)
    level, message, values = seen.task()
    assert level == DiagnosticStatus.OK, message
    assert message == "scripted.onnx: 3 frames looked at"
    shown = {key: values[key] for key in ("format", "kinds", "frames.looked_at", "boxes")}
    assert shown == {
        "format": "picodet",
        "kinds": "2: cup, tv",
        "frames.looked_at": "3",
        "boxes": "3",
    }
    assert values["ms_per_frame"] == "125.000"
    assert "6 x a score that is NaN" in values["boxes.refused_by_reason"]


def test_its_objects_are_listed_and_questions_measured(
    parts: tuple[Harness, Scripted, Seen],
) -> None:
    """Where three cameras saw it on the wall."""
    agent, _, seen = parts
    assert wait_until(lambda: bool(seen.lists) and len(seen.lists[-1].objects) > 0)
    item = seen.lists[-1].objects[0]
    assert item.label.endswith("cup")
    assert item.box.method == item.box.METHOD_DETECTOR
    at = item.box.center.position
    assert (at.x, at.y, at.z) == pytest.approx(CUP_M, abs=0.05)
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="Is there a cup?")).answer
    assert (answer.success, answer.method) == (True, answer.METHOD_MEASURED)
    assert answer.text.startswith("Yes")
    request = GroundObject.Request(phrase="the cup")
    found = agent.call(GroundObject, "ground", request).answer
    assert [box.method for box in found.boxes] == [item.box.METHOD_DETECTOR] * len(found.boxes)
    assert found.success
    assert found.boxes
    other = QueryScene.Request(question="Write a poem about the sea.")
    refused = agent.call(QueryScene, "query", other).answer
    assert refused.error_code == ErrorCode.UNKNOWN_KIND
    assert "no language model is loaded" in refused.error_msg


def test_a_detector_that_raises_is_told_and_the_node_serves(
    parts: tuple[Harness, Scripted, Seen],
) -> None:
    """In status and diagnostics; the next good keyframe ends it."""
    agent, detector, seen = parts
    detector.fails = "the file went away."
    for index in range(IN_A_ROW + 1):
        before = detector.frames
        agent.publish_frame((20 + index) * SECOND, x_m=5.0 + index)
        assert wait_until(lambda n=before: detector.frames > n)
    sentence = "no object is found meanwhile: scripted.onnx: the file went away"
    assert wait_until(lambda: any(sentence in fault for fault in seen.faults())), seen.faults()
    level, message, values = seen.task()
    assert (level, sentence in message) == (DiagnosticStatus.WARN, True)
    assert int(values["frames.failed"]) > IN_A_ROW
    assert seen.statuses[-1].state == AgentStatus.READY
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="Is there a cup?")).answer
    assert answer.header.frame_id == "map"  # it answers, whatever is known

    detector.fails = ""
    agent.publish_frame(30 * SECOND, x_m=20.0)
    assert wait_until(lambda: not any(sentence in fault for fault in seen.faults()))


def test_a_detector_slower_than_the_camera_is_told(parts: tuple[Harness, Scripted, Seen]) -> None:
    """Keyframes leave a scene of three while it looks at one."""
    agent, detector, seen = parts
    detector.gate.clear()
    for index in range(3 * MIN_UNSEEN):
        next_keyframe(agent, 40 + index, x_m=30.0 + index)
    detector.gate.set()
    words = "frames went by before the detector had seen them, it takes 0.12 s for one"
    assert wait_until(lambda: any(words in fault for fault in seen.faults())), seen.faults()
    _, _, values = seen.task()
    assert int(values["frames.dropped"]) >= MIN_UNSEEN
    assert seen.statuses[-1].state == AgentStatus.READY


# -- a file or a package that is not there


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("text", "is no ONNX file, or a truncated one"),
        ("topic", "vision_msgs is not installed"),
        ("", "detector.path is empty"),
    ],
)
def test_a_detector_that_is_none_fails_at_configure(
    path: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State ERROR with the sentence; the node stands and answers with it."""
    absent = (None, "vision_msgs is not installed")
    monkeypatch.setattr(ada3d_ros.ros.detection_input, "vision_type", lambda name: absent)
    if path == "text":
        path = str(tmp_path / "words.onnx")
        Path(path).write_text("no detector")
    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        settings = {**NO_MODEL, "detector.path": path}
        agent = Harness(context, Path(), create_pipeline, **settings)
        state, detail = agent.node.state_and_detail()
        assert (state, sentence in detail) == (AgentStatus.ERROR, True), detail
        answer = agent.call(QueryScene, "query", QueryScene.Request(question="Where?")).answer
        assert (answer.error_code, sentence in answer.error_msg) == (ErrorCode.MODEL_ERROR, True)
        agent.close()
        rclpy.try_shutdown(context=context)


# -- detections of a topic; the subscription itself is tested in test_detections.py


def test_a_topic_whose_stamps_never_match_and_one_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both stamps in the sentence; once they match, the objects are there."""
    module = ada3d_ros.ros.detection_input
    monkeypatch.setattr(module, "vision_type", lambda name: (object, "present"))
    monkeypatch.setattr(module.DetectionInput, "open", lambda self: None)
    settings = {**NO_MODEL, "detector.path": "topic", "detector.min_views": 2}
    with agent_of_its_own(Path(), create_pipeline, **settings) as agent:
        seen = Seen(agent)
        detections = agent.node.detections
        assert detections is not None

        def told(stamp_ns: int, x_m: float = 0.0) -> None:
            detections.monitor.note(stamp_ns)
            one = detection("41", 0.9, cup_box(x_m))
            detections.detector.add(detection_array(stamp_ns, one))

        for index in range(1, 5):
            told(index * SECOND + 400_000_000)
        agent.publish_scene(3)
        sentence = (
            "stamps of /ada3d_agent/detections_2d never match those of the colour image within"
            " sync.slop_sec 0.02 s, the nearest ("
        )
        assert wait_until(lambda: any(sentence in fault for fault in seen.faults())), seen.faults()
        (fault,) = [fault for fault in seen.faults() if sentence in fault]
        assert "is 0.4 s ahead of the image (" in fault
        level, message, _ = seen.task()
        assert (level, message) == (DiagnosticStatus.WARN, fault)

        for index in range(3):  # before the images, as it may be
            told((11 + index) * SECOND, x_m=0.25 + 0.5 * index)
            next_keyframe(agent, 11 + index, x_m=0.25 + 0.5 * index)
        assert wait_until(lambda: bool(seen.lists) and len(seen.lists[-1].objects) > 0)
        assert seen.lists[-1].objects[0].label.endswith("cup")  # number 41 of COCO
        _, _, values = seen.task()
        assert values["topic.matched"] == "3"
        assert values["format"] == "topic"
        assert "ms_per_frame" not in values  # it runs elsewhere
