"""`ada3d demo`: the whole path on a generated room, in two minutes and without any download.

A room becomes a bag, our player plays it into the real node over DDS, questions are asked by service; answers, boxes
and times go to the terminal and into an HTML report.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.geometry.boxes import iou_oriented
from ada3d_ros.geometry.fusion import measure_box
from ada3d_ros.msg import AgentStatus
from ada3d_ros.report import AskedQuestion, MeasuredBox, write_report
from ada3d_ros.results import provenance
from ada3d_ros.ros.client import describe_answer, describe_tokens
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.ros.peer import AgentPeer, PeerError, make_random_model, start_verb
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.sources.synthetic import BoxRoom, build_box_room
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene

REMAPS = {
    "rgb/image/compressed": "/camera/color/image_raw/compressed",
    "rgb/camera_info": "/camera/color/camera_info",
    "depth/image": "/camera/aligned_depth_to_color/image_raw",
    "pose": "/camera/pose",
}
NEVER_TRAINED = "The model has random weights, it was never trained: its answers are meaningless. What is real: the bag, the node, the messages, the geometry and the times."


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _questions(room: BoxRoom) -> list[QueryScene.Request]:
    x, y, z = room.boxes[0].center_m
    return [
        QueryScene.Request(question="What is in the room?"),
        QueryScene.Request(question=f"What is at [{x:.2f}, {y:.2f}, {z:.2f}]?"),
        QueryScene.Request(question="What does the newest image show?", scope=QueryScene.Request.SCOPE_LATEST_IMAGE),
    ]


def _asked(answer: Any) -> AskedQuestion:
    times = {stage: getattr(answer.latency, f"{stage}_ms") for stage in LATENCY_STAGES}
    return AskedQuestion(
        question=answer.question,
        text=answer.text,
        error="" if answer.success else f"{ErrorCode(answer.error_code).name}: {answer.error_msg}",
        latency_ms={stage: ms for stage, ms in times.items() if not math.isnan(ms)},
        tokens=describe_tokens(answer.tokens),
    )


def _measure(room: BoxRoom) -> list[MeasuredBox]:
    measured = []
    for true in room.boxes:
        box = measure_box(room.frames, true)
        measured.append(MeasuredBox(true, box, iou_oriented(true, box) if box is not None else 0.0))
    return measured


def _collect(peer: AgentPeer, bag: Path, rate: float) -> int:
    """Play the bag into the node; returns the keyframes it kept."""
    peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 120.0)
    player = start_verb("replay", str(bag), "--rate", str(rate))
    if not peer.spin_until(lambda: player.poll() is not None, 300.0) or player.returncode:
        player.kill()
        raise PeerError("the player did not finish.")
    peer.wait_for_state({AgentStatus.READY}, 10.0)
    return int(peer.statuses[-1].keyframes)


def _ask_all(peer: AgentPeer, room: BoxRoom) -> list[Any]:
    answers = [peer.call(QueryScene, "query", request).answer for request in _questions(room)]
    answers.append(
        peer.call(GroundObject, "ground", GroundObject.Request(phrase=f"the {room.boxes[0].label or 'box'}")).answer
    )
    for answer in answers:
        print(f"\n> {answer.question}\n{describe_answer(answer)}")
    return answers


def run(out: Path, seed: int, rate: float, model: Path | None) -> Path:
    """The demo; returns the report's path. Raises Ada3DError."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    _say(f"a generated room (seed {seed}) becomes a bag")
    room = build_box_room(seed=seed, num_views=40)
    bag = out / "room_bag"
    print(f"{write_bag(room.frames, bag, BagOptions(overwrite=True))} frames in {bag}")
    model = model or make_random_model(out / "random_model")
    _say("the node starts, the player plays the bag into it")
    parameters = {
        "model.path": model,
        "use_sim_time": "true",
        "rgb_transport": "compressed",
        "generation.max_new_tokens": 24,
    }
    with AgentPeer(parameters, REMAPS) as peer:
        print(f"{_collect(peer, bag, rate)} keyframes kept")
        info = peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())
        _say("questions" + (" (RANDOM WEIGHTS: the answers are meaningless)" if info.random_weights else ""))
        answers = _ask_all(peer, room)
    _say("boxes measured from depth, without a model, beside the true ones")
    boxes = _measure(room)
    for number, m in enumerate(boxes):
        print(f"box {number} {m.true.label}: " + (f"IoU {m.iou:.2f}" if m.measured is not None else "not measured"))
    facts = {k: str(v) for k, v in provenance(info.device, seed).items()} | {
        "model": f"{info.name}, {info.parameters / 1e6:.1f} M parameters, {info.precision}",
        "bag": str(bag),
    }
    report = write_report(
        out / "report.html",
        "ada3d_ros demo",
        NEVER_TRAINED if info.random_weights else "",
        room.frames,
        boxes,
        [_asked(a) for a in answers],
        facts,
    )
    _say(f"done in {time.monotonic() - started:.0f} s; open {report} in a browser")
    return report


def main(args: Sequence[str]) -> int:
    """Returns 0; 1 with a sentence on stderr if a step failed."""
    parser = argparse.ArgumentParser(
        prog="ada3d demo",
        description="The whole path on a generated room: bag, node, questions, report. Needs no download.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo_out"),
        help="folder for the bag, the model and report.html (default demo_out)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="checkpoint folder (default: a small model with random weights, whose answers mean nothing)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the room (default 0)")
    parser.add_argument("--rate", type=float, default=2.0, help="speed of the replay (default 2)")
    options = parser.parse_args(list(args))
    try:
        run(options.out, options.seed, options.rate, options.model)
    except Ada3DError as error:
        print(f"ada3d demo: {error}", file=sys.stderr)
        return 1
    return 0
