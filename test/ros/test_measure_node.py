"""Measured in a generated room over DDS: every kind against the room's true boxes, and errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from ada3d_ros.errors import ErrorCode
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.measures import MeasureKind
from ada3d_ros.msg import Answer, SceneObjectArray
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.client import ask_main
from ada3d_ros.ros.object_client import HEAD, measure_main, objects_main
from ada3d_ros.srv import GetObjects, Measure, QueryScene
from ada3d_ros.types import Box3D
from test.support.ros_harness import Harness, agent_of_its_own, wait_until

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LIMIT_S = 120.0  # for an event that comes within seconds on a machine that is not busy
ROOM = generate_room(12, side_px=256)  # a barrel stands on a table; another is like it
SETTINGS = {"cache.settle_sec": 0.0, "pruning.strategy": "none"}
SOFA, CHAIR, TABLE = "blue sofa", "purple chair", "yellow table"
NEAR_CHAIR, BED = "yellow chair", "yellow bed"
BARREL = "red barrel"  # two: the small one on the table
FAR_OFF_M = 0.15  # that a value may be from the true one
DISTANCE = "How far is the blue sofa from the purple chair?"


class Scene:
    """The agent, and a list of what it published of the room."""

    def __init__(self, agent: Harness) -> None:
        self.agent = agent
        self.answers = agent.collect(Answer, "/ada3d_agent/answer")
        self.lists = agent.collect(SceneObjectArray, "/ada3d_agent/objects", LATCHED)

    def show(self) -> None:
        """Let the node see the room, until it knows all of its objects."""
        for frame in ROOM.frames:
            self.agent.node.pipeline.observe(frame)
        self.agent.node.worker.notify()
        version = self.agent.node.pipeline.scene_state().version
        assert wait_until(
            lambda: self.newest.complete and self.newest.scene_version == version, LIMIT_S
        ), self.newest

    @property
    def newest(self) -> SceneObjectArray:
        return self.lists[-1] if self.lists else SceneObjectArray()

    def measure(self, kind: MeasureKind, **fields: Any) -> Any:
        request = Measure.Request(kind=kind, **fields)
        return self.agent.call(Measure, "measure", request, LIMIT_S)

    def measured(self, kind: MeasureKind, **fields: Any) -> Any:
        response = self.measure(kind, **fields)
        assert (response.success, response.error_msg) == (True, ""), response.error_msg
        assert response.measurement.kind == kind
        assert response.header.frame_id == "map"
        return response.measurement


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with agent_of_its_own("embedded", Ada3DPipeline, **SETTINGS) as agent:
        scene = Scene(agent)
        scene.show()
        yield scene


def true(label: str) -> Box3D:
    return next(box for box in ROOM.boxes if box.label == label)


def gap_m(a: Box3D, b: Box3D) -> float:
    """Between the surfaces of two axis-aligned boxes."""
    apart = np.abs(a.center_m - b.center_m) - (a.size_m + b.size_m) / 2
    return float(np.linalg.norm(np.maximum(apart, 0.0)))


def on_plan_m(a: Box3D, b: Box3D) -> float:
    return float(np.linalg.norm((a.center_m - b.center_m)[:2]))


def labels(measurement: Any) -> list[str]:
    return [box.label.removeprefix("the ") for box in measurement.boxes]


# -- objects


def test_the_latched_objects_are_the_pipelines_and_the_rooms(scene: Scene) -> None:
    kept = scene.agent.node.pipeline.objects().objects
    assert [item.id for item in scene.newest.objects] == [item.id for item in kept]
    for sent, known in zip(scene.newest.objects, kept, strict=True):
        at = sent.box.center.position
        assert [at.x, at.y, at.z] == known.center_m.tolist()
    near = [
        box.label
        for box in ROOM.boxes
        for item in kept
        if item.label == box.label and np.linalg.norm(item.center_m - box.center_m) < 0.3
    ]
    assert len(near) >= len(ROOM.boxes) - 1

    # The same by place, from the service.
    at = true(SOFA).center_m
    request = GetObjects.Request(near=True, radius_m=0.5, label="sofa")
    request.place.x, request.place.y, request.place.z = map(float, at)
    found = scene.agent.call(GetObjects, "get_objects", request).result.objects
    assert [item.label for item in found] == [SOFA]


# -- kinds


def test_distances_sizes_heights_and_places(scene: Scene) -> None:
    far = scene.measured(MeasureKind.DISTANCE, a=f"the {SOFA}", b=f"the {CHAIR}")
    assert far.values[0] == pytest.approx(gap_m(true(SOFA), true(CHAIR)), abs=FAR_OFF_M)
    assert (far.unit, len(far.uncertainty), labels(far)) == ("m", 1, [SOFA, CHAIR])
    assert f"{far.values[0]:.2f} m" in far.sentence
    apart = scene.measured(MeasureKind.DISTANCE, a=SOFA, b=CHAIR, centers=True).values[0]
    true_m = np.linalg.norm(true(SOFA).center_m - true(CHAIR).center_m)
    assert apart == pytest.approx(true_m, abs=FAR_OFF_M)

    # From a place, and from the robot: its camera at the newest keyframe.
    zero = scene.measured(MeasureKind.DISTANCE, a="[0, 0, 0]", b=SOFA)
    origin = Box3D(np.zeros(3), np.zeros(3))
    assert zero.values[0] == pytest.approx(gap_m(origin, true(SOFA)), abs=FAR_OFF_M)
    camera = Box3D(ROOM.frames[-1].T_world_cam[:3, 3].copy(), np.zeros(3))
    robot = scene.measured(MeasureKind.DISTANCE, a="robot", b=CHAIR)
    assert robot.values[0] == pytest.approx(gap_m(camera, true(CHAIR)), abs=FAR_OFF_M)

    # One thing alone.
    size = scene.measured(MeasureKind.SIZE, a=SOFA)
    length, width, height = true(SOFA).size_m
    expected = [max(length, width), min(length, width), height]
    assert size.values.tolist() == pytest.approx(expected, abs=FAR_OFF_M)
    top = scene.measured(MeasureKind.HEIGHT, a=CHAIR).values[0]
    assert top == pytest.approx(true(CHAIR).size_m[2], abs=FAR_OFF_M)
    where = scene.measured(MeasureKind.WHERE, a=CHAIR).values
    assert where.tolist() == pytest.approx(true(CHAIR).center_m.tolist(), abs=FAR_OFF_M)


def test_the_nearest_within_a_radius_and_how_many(scene: Scene) -> None:
    others = sorted(
        (on_plan_m(true(TABLE), box), box.label) for box in ROOM.boxes if box.label != TABLE
    )
    nearest = scene.measured(MeasureKind.NEAREST, b=TABLE, name="chairs")
    chair_m, chair = next(other for other in others if other[1].endswith("chair"))
    assert labels(nearest) == [TABLE, chair]
    assert nearest.values[0] == pytest.approx(chair_m, abs=FAR_OFF_M)
    two = scene.measured(MeasureKind.NEAREST, b=SOFA, name="chairs", k=2)
    assert sorted(labels(two)[1:]) == [CHAIR, NEAR_CHAIR]
    assert two.values[0] <= two.values[1]

    # A radius in the middle between two of them.
    radius_m = (others[2][0] + others[3][0]) / 2
    within = scene.measured(MeasureKind.WITHIN, b=TABLE, radius_m=radius_m)
    assert within.values.tolist() == [3.0]
    assert sorted(labels(within)[1:]) == sorted(label for _, label in others[:3])
    for name, count in (("red barrels", 2.0), ("chairs", 2.0), ("white lamp", 0.0)):
        counted = scene.measured(MeasureKind.COUNT, name=name)
        assert (counted.values.tolist(), counted.unit) == ([count], "")


def test_sides_supports_and_what_is_between(scene: Scene) -> None:
    """Seen from the near chair, facing the sofa, the table lies to the right."""
    eye, faced, thing = (true(name).center_m[:2] for name in (NEAR_CHAIR, SOFA, TABLE))
    ahead, towards = faced - eye, thing - eye
    cross = ahead[0] * towards[1] - ahead[1] * towards[0]
    angle_deg = math.degrees(math.atan2(cross, ahead @ towards))
    side = scene.measured(MeasureKind.DIRECTION, a=TABLE, b=NEAR_CHAIR, c=SOFA)
    assert side.values[0] == pytest.approx(angle_deg, abs=6.0)
    assert (side.unit, side.word) == ("deg", "right")

    # One of the barrels stands on the table; the near chair between bed and sofa.
    on, between = MeasureKind.ON, MeasureKind.BETWEEN
    assert labels(scene.measured(on, b=TABLE)) == [TABLE, BARREL]
    assert scene.measured(on, a=CHAIR, b=TABLE).word == "no"
    assert scene.measured(MeasureKind.UNDER, a=CHAIR, b=TABLE).word == "no"
    assert scene.measured(between, a=NEAR_CHAIR, b=BED, c=SOFA).word == "yes"
    assert scene.measured(between, a=CHAIR, b=BED, c=SOFA).word == "no"


def test_what_exists_and_which_is_largest(scene: Scene) -> None:
    for name, word in ((SOFA, "yes"), ("white lamp", "no")):
        assert scene.measured(MeasureKind.EXISTS, name=name).word == word
    barrels = [box for box in ROOM.boxes if box.label == BARREL]
    for kind, key in (
        (MeasureKind.LARGEST, lambda box: box.size_m.prod()),
        (MeasureKind.TALLEST, lambda box: box.center_m[2] + box.size_m[2] / 2),
    ):
        (found,) = scene.measured(kind, name="barrels").boxes
        at = found.center.position
        expected = max(barrels, key=key).center_m.tolist()
        assert [at.x, at.y, at.z] == pytest.approx(expected, abs=FAR_OFF_M)


def test_free_floor_is_free(scene: Scene) -> None:
    floor = scene.measured(MeasureKind.FREE_FLOOR, b=CHAIR)
    length, width = floor.values
    assert 0.3 < width <= length < 6.0
    _, free = floor.boxes
    assert labels(floor)[0] == CHAIR
    assert sorted((free.size.x, free.size.y)) == [width, length]

    # Its corners, and a grid between them, lie outside every true box.
    yaw = 2 * math.atan2(free.center.orientation.z, free.center.orientation.w)
    ahead, left = (
        np.array([math.cos(yaw), math.sin(yaw)]),
        np.array([-math.sin(yaw), math.cos(yaw)]),
    )
    at = np.array([free.center.position.x, free.center.position.y])
    steps = np.linspace(-0.48, 0.48, 25)
    grid = [at + i * free.size.x * ahead + j * free.size.y * left for i in steps for j in steps]
    for box in ROOM.boxes:
        inside = np.abs(np.array(grid) - box.center_m[:2]) < box.size_m[:2] / 2 - 0.05
        assert not inside.all(axis=1).any(), box.label


# -- how it comes out


def test_a_measurement_is_an_answer_to_everybody_who_listens(scene: Scene) -> None:
    """On ~/answer with its request in words, in the counts, and as a line in RViz."""
    markers = scene.agent.collect(MarkerArray, "/ada3d_agent/markers", LATCHED)
    succeeded, count = scene.agent.node.inference.succeeded, len(scene.answers)
    measured = scene.measured(MeasureKind.DISTANCE, a=SOFA, b=CHAIR)
    assert wait_until(lambda: len(scene.answers) == count + 1)
    answer = scene.answers[-1]
    assert answer.question == f"DISTANCE a: {SOFA}, b: {CHAIR}"
    assert (answer.method, answer.text) == (Answer.METHOD_MEASURED, measured.sentence)
    assert answer.measurement == measured
    assert [box.label for box in answer.boxes] == [box.label for box in measured.boxes]
    assert scene.agent.node.inference.succeeded == succeeded + 1

    def line_m() -> float:
        lines = [m for m in markers[-1].markers if m.ns == "measured"] if markers else []
        return math.dist(*([p.x, p.y, p.z] for p in lines[0].points)) if lines else math.nan

    assert wait_until(lambda: not math.isnan(line_m()))
    assert line_m() == pytest.approx(measured.values[0], abs=FAR_OFF_M)


@pytest.mark.parametrize(
    ("kind", "fields", "code", "said"),
    [
        (MeasureKind.WHERE, {"a": "the red barrel"}, ErrorCode.AMBIGUOUS, "fits 2 objects"),
        (
            MeasureKind.DISTANCE,
            {"a": SOFA, "b": "[900, 0, 0]"},
            ErrorCode.INVALID_REQUEST,
            "lies outside",
        ),
        (
            MeasureKind.WITHIN,
            {"b": SOFA, "radius_m": 1000.0},
            ErrorCode.INVALID_REQUEST,
            "radius_m = 1000 is out of range; allowed: 0.05 to 100 metres.",
        ),
        (MeasureKind.DISTANCE, {"a": SOFA}, ErrorCode.INVALID_REQUEST, "b is missing"),
        (MeasureKind.WHERE, {"a": "x" * 3000}, ErrorCode.QUESTION_TOO_LONG, "2000"),
        (MeasureKind.WHERE, {"a": "</s> hi"}, ErrorCode.INVALID_REQUEST, "</s>"),
        (MeasureKind.ON, {"b": SOFA, "timeout_sec": 1e9}, ErrorCode.INVALID_REQUEST, "timeout_sec"),
    ],
)
def test_an_error_has_a_code_and_a_sentence_everywhere(
    scene: Scene,
    capfd: pytest.CaptureFixture[str],
    kind: MeasureKind,
    fields: dict[str, Any],
    code: ErrorCode,
    said: str,
) -> None:
    """In the response, on ~/answer, in the diagnostics and in the log: the same."""
    monitor, count = scene.agent.node.inference, len(scene.answers)
    failed = monitor.failed[code.name.lower()]
    response = scene.measure(kind, **fields)
    assert (response.success, response.error_code) == (False, code)
    assert said in response.error_msg
    assert (response.measurement.kind, len(response.measurement.boxes)) == (0, 0)
    assert wait_until(lambda: len(scene.answers) == count + 1)
    assert (scene.answers[-1].error_code, scene.answers[-1].error_msg) == (code, response.error_msg)
    assert monitor.failed[code.name.lower()] == failed + 1
    assert monitor.last_error == response.error_msg
    assert response.error_msg in capfd.readouterr().err


def test_a_question_in_words_is_measured_and_older_clients_read_it(scene: Scene) -> None:
    """As an answer with a text; with measuring off the model says something."""
    answer = scene.agent.call(QueryScene, "query", QueryScene.Request(question=DISTANCE), LIMIT_S)
    assert (answer.answer.success, answer.answer.method) == (True, Answer.METHOD_MEASURED)
    assert answer.answer.text == answer.answer.measurement.sentence
    assert answer.answer.question == DISTANCE
    true_m = gap_m(true(SOFA), true(CHAIR))
    assert answer.answer.measurement.values[0] == pytest.approx(true_m, abs=FAR_OFF_M)


# -- commands


def test_the_commands_print_what_the_services_say(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(scene.agent.node.context.get_domain_id()))

    def run(command: Any, *args: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = command(args)
        return code, capsys.readouterr().out.splitlines()

    # The objects as a table, and as JSON.
    code, lines = run(objects_main, "--label", "chairs")
    assert (code, lines[0]) == (0, "2 objects in 'map'")
    assert lines[1].split() == " ".join(HEAD).split()
    assert sorted(line.split("  ")[1].strip() for line in lines[2:]) == [CHAIR, NEAR_CHAIR]
    x, y, z = (f"{value:.3f}" for value in true(SOFA).center_m)
    code, lines = run(objects_main, "--near", x, y, z, "--radius", "0.4", "--json")
    (only,) = json.loads("\n".join(lines))["result"]["objects"]
    assert (code, only["label"], only["gone"]) == (0, SOFA, False)
    assert run(objects_main, "--near", x, y, z, "--radius", "0")[0] == 1

    # A measurement, and one that is refused.
    code, lines = run(measure_main, "distance", SOFA, CHAIR)
    expected = scene.measured(MeasureKind.DISTANCE, a=SOFA, b=CHAIR)
    assert (code, lines[0]) == (0, expected.sentence)
    assert lines[1].startswith(f"measured: {expected.values[0]:.3f} m +- ")
    assert [line for line in lines if line.startswith("assumed: ")]
    code, lines = run(measure_main, "where", "the red barrel")
    assert (code, lines[0][:19]) == (1, "AMBIGUOUS (21017): ")
    with pytest.raises(SystemExit):
        measure_main(("distance", SOFA))
    assert "distance takes 2 things, not 1" in capsys.readouterr().err

    # A question in words: the sentence, the numbers, the boxes.
    code, lines = run(ask_main, DISTANCE)
    assert (code, lines[:2]) == (0, [expected.sentence, lines[1]])
    assert lines[1].startswith("measured: ")
    assert len([line for line in lines if line.startswith("box ")]) == 2


def test_a_reset_empties_the_list_and_the_room_is_found_again(scene: Scene) -> None:
    """Last: it makes the scene anew."""
    epoch = scene.newest.scene_epoch
    assert scene.agent.call(Trigger, "reset_scene").success
    assert wait_until(lambda: scene.newest.scene_epoch == epoch + 1)
    assert (len(scene.newest.objects), scene.newest.complete) == (0, False)
    response = scene.measure(MeasureKind.WHERE, a=SOFA)
    assert response.error_code == ErrorCode.NO_FRAMES
    assert len(scene.agent.call(GetObjects, "get_objects").result.objects) == 0
