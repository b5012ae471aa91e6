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

import numpy as np

from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.msg import AgentStatus
from ada3d_ros.report import AskedQuestion, ComparedBox, write_report
from ada3d_ros.results import provenance
from ada3d_ros.ros.client import describe_answer, describe_tokens
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.ros.peer import AgentPeer, PeerError, start_verb
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from ada3d_ros.types import Box3D
from ada3d_ros.world.generated import GeneratedRoom, generate_room
from ada3d_ros.world.questions import RoomQuestion, make_questions

SIDE_PX = 384
ASKED = ("existence", "color", "category", "count", "superlative", "caption", "grounding", "grounding", "absent")
REMAPS = {
    "rgb/image/compressed": "/camera/color/image_raw/compressed",
    "rgb/camera_info": "/camera/color/camera_info",
    "depth/image": "/camera/aligned_depth_to_color/image_raw",
    "pose": "/camera/pose",
}
NEVER_TRAINED = "The model has random weights, it was never trained: its answers are meaningless. What is real: the bag, the node, the messages, the geometry and the times."


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _asked(answer: Any, how: str, truth: str) -> AskedQuestion:
    times = {stage: getattr(answer.latency, f"{stage}_ms") for stage in LATENCY_STAGES}
    return AskedQuestion(
        question=f"{answer.question} ({how})",
        text=answer.text,
        error="" if answer.success else f"{ErrorCode(answer.error_code).name}: {answer.error_msg}",
        latency_ms={stage: ms for stage, ms in times.items() if not math.isnan(ms)},
        tokens=describe_tokens(answer.tokens),
        truth=truth,
    )


def _box_of(message: Any) -> Box3D:
    """An axis-aligned GroundedBox as our type."""
    at, size = message.center.position, message.size
    return Box3D(
        np.array([at.x, at.y, at.z]), np.array([size.x, size.y, size.z]), label=message.label, score=message.score
    )


def _compare(room: GeneratedRoom, grounded: dict[int, Any]) -> list[ComparedBox]:
    """Every true box with the best box of the question that asked for it (grounded: by the object's place in the list)."""
    compared = []
    for number, true in enumerate(room.boxes):
        answer = grounded.get(number)
        found = _box_of(answer.boxes[0]) if answer is not None and answer.boxes else None
        compared.append(ComparedBox(true, found, iou_axis_aligned(true, found) if found is not None else 0.0))
    return compared


def _collect(peer: AgentPeer, bag: Path, rate: float) -> int:
    """Play the bag into the node; returns the keyframes it kept."""
    peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 120.0)
    player = start_verb("replay", str(bag), "--rate", str(rate))
    if not peer.spin_until(lambda: player.poll() is not None, 300.0) or player.returncode:
        player.kill()
        raise PeerError("the player did not finish.")
    peer.wait_for_state({AgentStatus.READY}, 10.0)
    return int(peer.statuses[-1].keyframes)


def _ask_all(peer: AgentPeer, questions: Sequence[RoomQuestion]) -> tuple[list[AskedQuestion], dict[int, Any]]:
    """Every question pruned as configured and again with all tokens; the answers, and those that ground an object by its number."""
    asked, grounded = [], {}
    for question in questions:
        for keep_ratio in (0.0, 1.0):
            if question.phrase:
                answer = peer.call(
                    GroundObject, "ground", GroundObject.Request(phrase=question.phrase, keep_ratio=keep_ratio)
                ).answer
            else:
                answer = peer.call(
                    QueryScene, "query", QueryScene.Request(question=question.text, keep_ratio=keep_ratio)
                ).answer
            print(f"\n> {answer.question}\n{describe_answer(answer)}\ntrue answer: {question.answer}")
            asked.append(_asked(answer, "all tokens" if keep_ratio else "pruned", question.answer))
            if question.target is not None and not keep_ratio:
                grounded[question.target] = answer
    return asked, grounded


def run(out: Path, seed: int, rate: float, model: Path | None) -> Path:
    """The demo; returns the report's path. Raises Ada3DError."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    _say(f"a generated room (seed {seed}) becomes a bag")
    room = generate_room(seed, level=1, side_px=SIDE_PX)  # of the test split, which no training saw
    bag = out / "room_bag"
    print(f"{write_bag(room.frames, bag, BagOptions(overwrite=True))} frames in {bag}")
    _say("the node starts, the player plays the bag into it")
    parameters = {
        "model.path": model or "embedded",
        "use_sim_time": "true",
        "rgb_transport": "compressed",
        "generation.max_new_tokens": 24,
    }
    with AgentPeer(parameters, REMAPS) as peer:
        print(f"{_collect(peer, bag, rate)} keyframes kept")
        info = peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())
        _say("questions" + (" (RANDOM WEIGHTS: the answers are meaningless)" if info.random_weights else ""))
        asked, grounded = _ask_all(peer, make_questions(room.graph, seed, ASKED, len(ASKED)))
    _say("the model's boxes beside the true ones")
    boxes = _compare(room, grounded)
    for number, compared in enumerate(boxes):
        if number in grounded:
            print(
                f"{compared.true.label}: " + (f"IoU {compared.iou:.2f}" if compared.found is not None else "not found")
            )
    facts = {k: str(v) for k, v in provenance(info.device, seed).items()} | {
        "model": f"{info.name}, {info.parameters / 1e6:.1f} M parameters, {info.precision}",
        "bag": str(bag),
    }
    warning = NEVER_TRAINED if info.random_weights else ""
    report = write_report(out / "report.html", "ada3d_ros demo", warning, room.frames, boxes, asked, facts)
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
        help="folder for the bag and report.html (default demo_out)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="checkpoint folder (default: the embedded model)",
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
