"""`ada3d doctor`, `demo` and `bench-node` as a person types them: exit code and what is printed."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from ada3d_ros.lab.demo_questions import choose_questions
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.ros.doctor import main as doctor

PROGRAM = "import sys; from ada3d_ros.cli import main; sys.exit(main())"
Run = Callable[..., subprocess.CompletedProcess[str]]
CURE = "          -> "
RIGHT_AT_LEAST = 11  # of the twelve of seed 0
# Question, round, what it took, true answer and verdict of one question of the demo.
ANSWER = r"^> (.+) \((pruned|unpruned)\)\n((?:.+\n)*?)true answer: (.+) \((right|wrong)[^)]*\)$"
KEPT = r"(\d+) of (\d+) spatial kept"


@pytest.fixture
def ada3d(domain_id: int, tmp_path: Path) -> Run:
    """ada3d(*args): the command to its end, in the domain of this test."""
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *map(str, args)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def camera(domain_id: int) -> Iterator[Node]:
    """A node of another process, as far as DDS can tell: its topics may be of other types."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("camera", context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def doctor_here(
    domain_id: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """doctor_here(*args) -> exit code and lines: the same in this process, which is quicker."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))

    def run(*args: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = doctor(args)
        return code, capsys.readouterr().out.splitlines()

    return run


# -- ada3d doctor


def test_doctor_without_a_node(ada3d: Run, domain_id: int) -> None:
    """What is installed, and that the node is missing, with the command that starts it."""
    done = ada3d("doctor")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    version = ".".join(map(str, sys.version_info[:3]))
    assert lines[0] == f"ok        python: {version} at {sys.executable}"
    for name in ("numpy", "torch", "transformers", "cv2", "rosbags", "rclpy"):
        assert any(re.match(rf"ok        {name}: \d+\.\d+", line) for line in lines), name
    assert "ok        ada3d_ros.msg: importable" in lines
    absent = (
        f"MISSING   /ada3d_agent: no such node on ROS_DOMAIN_ID {domain_id}: not seen within 10 s;"
        " on a busy machine discovery takes longer (--wait-sec)"
    )
    start = "ada3d agent --ros-args -p model.path:=FOLDER -p autostart:=true"
    assert lines[lines.index(absent) + 1] == CURE + start
    assert lines[-1] == "1 missing."


def test_doctor_and_a_node_that_is_ready(ada3d: Run, domain_id: int, start_agent: Any) -> None:
    agent = start_agent()
    agent.publish_scene(1)
    done = ada3d("doctor")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "MISSING" not in done.stdout
    start = lines.index(f"ok        /ada3d_agent: alive on ROS_DOMAIN_ID {domain_id}")
    ready = "READY, 1 keyframes: ask on ~/query, ~/ground, ~/ask_scene or ~/question."
    assert lines[start + 1] == f"ok        state: {ready}"
    assert lines[start + 2].startswith("note      objects: ")  # this model has no vocabulary
    assert sorted(lines[start + 3 : -2]) == [
        f"ok        {topic}: {kind}: 1 publisher(s) reliable, subscribed reliable"
        for topic, kind in [
            ("/depth/image", "sensor_msgs/msg/Image"),
            ("/pose", "geometry_msgs/msg/PoseStamped"),
            ("/rgb/camera_info", "sensor_msgs/msg/CameraInfo"),
            ("/rgb/image", "sensor_msgs/msg/Image"),
        ]
    ]
    assert lines[-2:] == ["", "nothing is missing."]


def test_doctor_record_prints_the_line_for_the_topics_in_use(ada3d: Run, start_agent: Any) -> None:
    agent = start_agent()
    agent.publish_scene(1)
    done = ada3d("doctor", "--record")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "ros2 bag record -s mcap /depth/image /pose /rgb/camera_info /rgb/image\n"
    )
    assert done.stderr == ""


def test_doctor_record_says_what_nobody_sends(ada3d: Run, start_agent: Any) -> None:
    agent = start_agent(namespace="robot7")
    assert agent.ready()
    agent.publish_frame(1_000_000_000, depth=None, pose=None)
    done = ada3d("doctor", "--record", "--wait-sec", 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("ros2 bag record -s mcap /robot7/rgb/camera_info /robot7/rgb/image\n")
    assert "nobody sends, so left out: /robot7/depth/image, /robot7/pose" in done.stderr


def test_doctor_record_without_a_node(ada3d: Run) -> None:
    done = ada3d("doctor", "--record", "--wait-sec", 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such node" in done.stderr
    assert "ros2 bag record -s mcap /camera/camera/color/image_raw/compressed" in done.stderr


def test_doctor_and_a_model_folder(doctor_here: Any, tiny_model: Path) -> None:
    """One that would load, and one that is not there."""
    code, lines = doctor_here("--no-graph", "--model", str(tiny_model))
    model = (
        r"ok        model: tiny: backbone llava3d, 2\.5 M parameters, \d+ MiB in float32 on cpu,"
        r" RANDOM WEIGHTS: .*"
    )
    assert (code, lines[-1]) == (0, "nothing is missing.")
    assert re.fullmatch(model, lines[-3])
    assert not any("ROS_DOMAIN_ID" in line for line in lines)  # no node was looked for
    code, lines = doctor_here("--no-graph", "--model", f"{tiny_model}/none")
    assert (code, lines[-1]) == (1, "1 missing.")
    assert lines[-3].startswith(
        f"MISSING   model: {tiny_model}/none is not a folder: give the path"
    )


def test_doctor_notes_what_is_not_used(doctor_here: Any, tiny_model: Path, tmp_path: Path) -> None:
    """A key that it does not know, and a second set of weights."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | {"frobnicate": 3}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "model.safetensors", folder / "pytorch_model.bin")
    code, lines = doctor_here("--no-graph", "--model", str(folder))
    assert (code, lines[-1]) == (0, "nothing is missing.")
    notes = [line for line in lines if line.startswith("note      model: ")]
    assert len(notes) == 2
    assert "model.safetensors is used, as by transformers, and pytorch_model.bin" in notes[0]
    assert "config.json: frobnicate = 3 is not known: it is not used." in notes[1]


def test_doctor_and_inputs_that_do_not_fit(
    doctor_here: Any, start_agent: Any, camera: Node
) -> None:
    """One that nobody sends, one of another type, one of another QoS: each with its cure."""
    assert start_agent(**{"qos.rgb": "reliable"}).ready()
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    camera.create_publisher(Image, "/rgb/image", best_effort)
    camera.create_publisher(CompressedImage, "/depth/image", 10)
    camera.create_publisher(CameraInfo, "/rgb/camera_info", 10)
    code, lines = doctor_here()
    assert (code, lines[-1]) == (1, "4 wrong."), "\n".join(lines)
    state = r"note      state: WAITING_FOR_DATA, 0 keyframes: see below\."
    assert any(re.fullmatch(state, line) for line in lines)

    # the node's own sentences, worst first
    wrong = [line.removeprefix("WRONG     health: ") for line in lines if "WRONG" in line]
    assert sorted(wrong) == [
        "/depth/image is published as CompressedImage, subscribed as Image: remap to the right"
        " topic, or set rgb_transport, depth_transport or pose_source.",
        "/rgb/image is published best-effort, subscribed reliable: nothing arrives: set qos.rgb to"
        " auto or best_effort.",
        "nothing received on /pose (PoseStamped), 0 publishers: start the camera or the bag, or"
        " remap: -r pose:=TOPIC.",
        "nothing received on /rgb/camera_info (CameraInfo), 1 publisher: check that they send"
        " (ros2 topic hz /rgb/camera_info); a camera_info that is sent once must be latched"
        " (durability transient_local).",
    ]
    image, info = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
    assert (
        f"ok        /rgb/camera_info: {info}: 1 publisher(s) reliable, subscribed reliable" in lines
    )
    assert (
        f"ok        /rgb/image: {image}: 1 publisher(s) best_effort, subscribed reliable" in lines
    )
    pose = "geometry_msgs/msg/PoseStamped"
    assert f"note      /pose: {pose}: no publisher, subscribed reliable" in lines


def test_doctor_lists_what_could_be_an_input(
    doctor_here: Any, domain_id: int, camera: Node
) -> None:
    """Without a node: topics of a type that the node takes, and nothing else."""
    camera.create_publisher(Image, "/camera/color", 10)
    camera.create_publisher(String, "/chatter", 10)
    code, lines = doctor_here("--node", "/robot/ada3d_agent", "--wait-sec", "2")
    absent = (
        f"MISSING   /robot/ada3d_agent: no such node on ROS_DOMAIN_ID {domain_id}: not seen within"
    )
    start = lines.index(f"{absent} 2 s; on a busy machine discovery takes longer (--wait-sec)")
    assert lines[start + 2 :] == [
        "note      /camera/color: sensor_msgs/msg/Image (reliable): could be an input",
        "",
        "1 missing.",
    ]
    assert code == 1


# -- ada3d demo


def test_demo(ada3d: Run, tmp_path: Path) -> None:
    """A room, a bag, the node, twelve questions in two rounds, and a report that says the same as
    the terminal.

    Slowly, so that a busy machine loses no frame.
    """
    done = ada3d("demo", "--out", tmp_path / "demo", "--rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"8 frames in {tmp_path}/demo/room_bag\n" in done.stdout
    assert "\n8 keyframes kept\n" in done.stdout

    # Every question in both rounds, with the truth.
    questions = choose_questions(generate_room(0), 0)
    asked = re.findall(ANSWER, done.stdout, re.MULTILINE)
    expected = [(q.asked, how, q.truth) for how in ("pruned", "unpruned") for q in questions]
    assert [(question, how, truth) for question, how, _, truth, _ in asked] == expected

    # Both read the cached scene: one pruned, the other whole.
    pruned, unpruned = asked[:12], asked[12:]
    kept = {how: re.findall(KEPT, "".join(text for _, h, text, *_ in asked if h == how))
            for how in ("pruned", "unpruned")}  # fmt: skip
    assert all(int(some) < int(total) for some, total in kept["pruned"])
    assert all(some == total for some, total in kept["unpruned"])
    assert min(map(len, kept.values())) >= 4  # of the answers that the model gave
    assert "scene not cached" not in done.stdout

    # The score is that of the answers; the embedded model and the measures know most of them.
    right = [[verdict for *_, verdict in rows].count("right") for rows in (pruned, unpruned)]
    score = f"pruned {right[0]} of 12, unpruned {right[1]} of 12"
    assert f"== right answers: {score}\n" in done.stdout
    assert min(right) >= RIGHT_AT_LEAST

    # The report: the same score and questions, offline.
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "|", page))
    assert [text.count(f"|{q.asked}|") for q in questions] == [1] * 12
    assert f"|{right[0]} of 12||right, pruned|" in text
    assert f"|{right[1]} of 12||right, unpruned|" in text
    assert page.count("data:image/jpeg;base64,") >= 9
    assert "http" not in page


def test_bench_node(ada3d: Run, tiny_model: Path, tmp_path: Path) -> None:
    """A second of frames and a few service calls: what was counted fits together."""
    file = tmp_path / "node.json"
    few = {"--seconds": 1, "--repetitions": 1, "--calls": 16, "--max-new-tokens": 64}
    options = [str(word) for option in few.items() for word in option]
    done = ada3d("bench-node", "--model", tiny_model, *options, "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    named = ["suite", "n", "max_rate_hz", "frames", "services"]
    assert list(results) == ["provenance", "complete", *named]
    assert results["complete"]
    assert (results["suite"], results["n"], results["max_rate_hz"]) == ("node", 1, 60.0)

    # Frames: 30 a second, after two seconds of warm-up. None was lost on the way: each became a set
    # that was decoded, or one that the node leaves out where frames come faster than it takes them.
    frames = results["frames"]
    assert 0 < frames["published"] <= 31
    assert frames["published"] <= frames["sets"] <= frames["published"] + 61
    assert set(frames["drops"]) <= {"rate_limit", "superseded"}
    open_sets = frames["sets"] - frames["frames_decoded"] - sum(frames["drops"].values())
    assert 0 <= open_sets <= 2  # one waits, one is being decoded
    assert 0 < frames["decode_check_admit_cpu_ms_p50"] <= frames["decode_check_admit_cpu_ms_p95"]
    assert len(frames["cpu_ms_per_set"]) == len(frames["cpu_share"]) == 1
    assert 0 < frames["idle_cpu_share"] < frames["cpu_share"][0] < 2

    # Services: all calls to the idle node, as many as fit into the answers to the busy one.
    services = results["services"]
    assert services["idle"]["n"] == 16
    assert 2 <= services["while_answering"]["n"] <= 16
    assert 4 <= services["tokens_generated_meanwhile"] <= 4 * 64
    for name in ("idle", "while_answering"):
        times = services[name]
        assert 0 < times["p50_ms"] <= times["p95_ms"]
        assert times["p50_ms"] <= times["max_ms"] < 60_000

    # What is printed is what was written.
    lines = done.stdout.splitlines()
    counts = f"{frames['published']} published at 30 Hz, {frames['sets']} synchronised"
    assert lines[0].startswith(f"frames: {counts}, {frames['frames_decoded']} decoded ")
    assert lines[0].endswith(f"; drops {frames['drops']}")
    per_set, share = frames["cpu_ms_per_set"][0], frames["cpu_share"][0]
    assert f"median {per_set:.2f} ms ({per_set:.2f} to {per_set:.2f}, n=1)" in lines[1]
    assert lines[1].endswith(f"share of one core {share:.3f}")
    for line, name in zip(lines[3:5], ("idle", "while_answering"), strict=True):
        n, p50, p95, worst = (services[name][key] for key in ("n", "p50_ms", "p95_ms", "max_ms"))
        times = f"p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {worst:.2f} ms (n={n})"
        assert line == f"get_model_info, {name}: {times}"
    assert lines[5:] == [f"wrote {file}"]
