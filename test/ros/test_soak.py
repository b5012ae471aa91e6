"""Two minutes of a looping bag with a question a second; docs/reliability.md has thirty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.lab.benchmarks.soak import GROWTH_MIB, QUESTIONS, Soak, inputs_of, judge
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.sources.topics import BagTopics

BAG = "tum_fr3_cabinet_ros2bag"


@pytest.fixture
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The recorded cabinet sequence; where it is absent, a generated room."""
    try:
        recorded = request.getfixturevalue("shared_dir") / "data" / BAG
    except pytest.skip.Exception:
        write_bag(generate_room(3, side_px=192, split="val").frames, tmp_path / "bag", BagOptions())
        return tmp_path / "bag"
    return recorded


def test_two_minutes(bag: Path, tmp_path: Path, domain_id: int) -> None:
    file = tmp_path / "soak.json"
    program = "import sys; from ada3d_ros.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "soak", str(bag), "--minutes", "2", "--json", str(file)],
        env=os.environ | {"ROS_DOMAIN_ID": str(domain_id)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text())

    # Every question ended: those that can be answered were, the others have their code.
    rounds = results["n"] // len(QUESTIONS)
    assert rounds >= 9
    assert results["lost"] == 0
    assert 4 * rounds <= results["refused"]["INVALID_REQUEST"] <= 4 * (rounds + 1)
    assert set(results["refused"]) <= {"INVALID_REQUEST", "NOT_GROUNDED"}, results["refused"]
    # on a busy machine the first round's place is asked about before a frame has shown it
    assert results["answered"] >= 5 * rounds - 1, results["refused"]

    # And the node is as it was.
    assert results["growth_mib"] < GROWTH_MIB
    assert len(results["threads"]) == 1
    assert results["callback_errors"] == 0
    assert int(results["scene"]["keyframes"]) > 0


def steady(**changes: object) -> Soak:
    soak = Soak(
        seconds=[float(s) for s in range(100)],
        resident_mib=[500.0] * 100,
        threads=[12] * 100,
        answered=90,
        refused=Counter(BUSY=10),
    )
    for name, value in changes.items():
        setattr(soak, name, value)
    return soak


def test_a_steady_node_passes() -> None:
    assert judge(steady(), 20.0, 0) == []
    # what is needed once, before the warm-up is over, does not count
    warming = [300.0] * 20 + [500.0] * 80
    assert judge(steady(resident_mib=warming, threads=[3] * 20 + [12] * 80), 20.0, 0) == []


@pytest.mark.parametrize(
    ("changes", "errors", "sentence"),
    [
        ({"resident_mib": [500.0 + 0.5 * s for s in range(100)]}, 0, "memory grew by 36.0 MiB"),
        ({"lost": 1}, 0, "1 questions were neither answered nor refused"),
        ({"answered": 0}, 0, "no question was answered"),
        ({"threads": [12] * 99 + [13]}, 0, "the number of threads changed: [12, 13]"),
        ({}, 2, "2 callbacks raised"),
    ],
)
def test_what_does_not_pass_is_said(changes: dict[str, object], errors: int, sentence: str) -> None:
    (problem,) = judge(steady(**changes), 20.0, errors)
    assert sentence in problem


def test_the_inputs_of_a_bag() -> None:
    remaps, parameters = inputs_of(BagTopics("/c/rgb/compressed", "/c/depth", "/c/info", "/p"))
    assert remaps == {
        "rgb/image/compressed": "/c/rgb/compressed",
        "depth/image": "/c/depth",
        "rgb/camera_info": "/c/info",
        "pose": "/p",
    }
    assert parameters == {"use_sim_time": "true", "rgb_transport": "compressed"}


@pytest.mark.parametrize("transport", ["compressed", "compressedDepth"])
def test_compressed_depth_of_a_bag(transport: str) -> None:
    remaps, parameters = inputs_of(BagTopics("/rgb", f"/depth/{transport}", "/info", "/p"))
    assert remaps[f"depth/image/{transport}"] == f"/depth/{transport}"
    assert remaps["rgb/image"] == "/rgb"
    assert parameters == {"use_sim_time": "true", "depth_transport": transport}
