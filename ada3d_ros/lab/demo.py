"""`ada3d demo`: the whole path on a generated room, in two minutes and without any download.

A room becomes a bag, our player plays it into the real node over DDS, questions are asked by
service; answers, boxes and times go to the terminal and into an HTML report.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.config import as_options, from_flat
from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.command_line import add_model_folders, model_folders
from ada3d_ros.lab.report import AnsweredQuestion, ComparedBox, RunReport, write_report
from ada3d_ros.lab.results import provenance
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.lab.world.questions import RoomQuestion, make_questions
from ada3d_ros.msg import AgentStatus
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.client import describe_answer, describe_tokens
from ada3d_ros.ros.conversions import LATENCY_STAGES
from ada3d_ros.ros.peer import AgentPeer, PeerError, start_verb
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from ada3d_ros.types import Box3D, Question

SIDE_PX = 384
TEXT_KINDS = ("existence", "color", "count", "category", "superlative", "caption")
QUESTION_KINDS = (*TEXT_KINDS, "grounding", "grounding", "absent")
# Each question twice. Keep ratio of the request: 0 = as the node is configured.
RUNS = (("pruned", 0.0), ("unpruned", 1.0))
# Every view is kept.
KEYFRAMES = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0.0}
GENERATION = {"generation.max_new_tokens": 24}
RIGHT_IOU = 0.25  # a box counts as right from here on, as in ScanRefer's lenient measure
REMAPS = {
    "rgb/image/compressed": "/camera/color/image_raw/compressed",
    "rgb/camera_info": "/camera/color/camera_info",
    "depth/image": "/camera/aligned_depth_to_color/image_raw",
    "pose": "/camera/pose",
}
NEVER_TRAINED = (
    "The model has random weights, it was never trained: its answers are meaningless. What is real:"
    " the bag, the node, the messages, the geometry and the times."
)


def _print_step(text: str) -> None:
    print(f"\n== {text}", flush=True)


@dataclass(frozen=True, eq=False, slots=True)
class _Result:
    """What the report shows of all questions."""

    asked: list[AnsweredQuestion]
    compared: list[ComparedBox]

    def score(self) -> str:
        """How many were answered right, pruned and unpruned."""
        total = len(self.asked) // len(RUNS)
        right = [sum(bool(a.right) for a in self.asked[i :: len(RUNS)]) for i in range(len(RUNS))]
        return ", ".join(f"{how} {n} of {total}" for (how, _), n in zip(RUNS, right, strict=True))


def _box_of(message: Any) -> Box3D:
    """An axis-aligned GroundedBox as our type."""
    at, size = message.center.position, message.size
    return Box3D(
        np.array([at.x, at.y, at.z]),
        np.array([size.x, size.y, size.z]),
        label=message.label,
        score=message.score,
    )


def true_box(room: GeneratedRoom, target: int | None) -> Box3D | None:
    """The box of the object with this number in the graph.

    The graph's numbers have gaps where a room left places empty.
    """
    boxes = {thing.number: box for thing, box in zip(room.graph.things, room.boxes, strict=True)}
    return None if target is None else boxes[target]


def is_right(question: RoomQuestion, text: str, compared: ComparedBox | None) -> bool:
    """Whether the text is the true answer.

    Where a box was asked for: whether it is on the object, or missing where there is no object.
    """
    if compared is None:
        return text.strip().rstrip(".").lower() == question.answer
    return compared.found is None if compared.true is None else compared.iou >= RIGHT_IOU


def _truth(question: RoomQuestion, compared: ComparedBox | None) -> str:
    """The true answer in words."""
    if compared is None:
        return question.answer
    return f"the {compared.true.label}'s box" if compared.true is not None else "no such object"


def _report_row(
    answer: Any, question: RoomQuestion, how: str, compared: ComparedBox | None
) -> AnsweredQuestion:
    """One Answer message as the report shows it."""
    # No box for an object that is not there is no error; any other failure is a wrong answer.
    is_absent = compared is not None and compared.true is None
    error = ""
    if not answer.success and not (is_absent and answer.error_code == ErrorCode.NOT_GROUNDED):
        error = f"{ErrorCode(answer.error_code).name}: {answer.error_msg}"

    times = {stage: getattr(answer.latency, f"{stage}_ms") for stage in LATENCY_STAGES}
    return AnsweredQuestion(
        question=f"{answer.question} ({how})",
        text=answer.text,
        error=error,
        latency_ms={stage: ms for stage, ms in times.items() if not math.isnan(ms)},
        tokens=describe_tokens(answer.tokens),
        truth=_truth(question, compared),
        right=not error and is_right(question, answer.text, compared),
    )


def _compare(room: GeneratedRoom, question: RoomQuestion, answer: Any, how: str) -> ComparedBox:
    """The best box of the answer beside the true one."""
    true = true_box(room, question.target)
    found = _box_of(answer.boxes[0]) if answer.boxes else None
    iou = iou_axis_aligned(true, found) if true is not None and found is not None else 0.0
    return ComparedBox(f"{question.phrase} ({how})", true, found, iou)


def _collect(peer: AgentPeer, bag: Path, rate: float) -> int:
    """Play the bag into the node; returns the keyframes it kept."""
    peer.wait_for_state({AgentStatus.WAITING_FOR_DATA}, 120.0)
    with start_verb("replay", str(bag), "--rate", str(rate)) as player:
        if not peer.spin_until(lambda: player.poll() is not None, 300.0) or player.returncode:
            raise PeerError("the player did not finish.")
    peer.wait_for_state({AgentStatus.READY}, 10.0)
    return int(peer.statuses[-1].keyframes)


def _ask(peer: AgentPeer, question: RoomQuestion, keep_ratio: float) -> Any:
    """The Answer message, of ~/ground where there is a phrase to ground, else of ~/query."""
    if question.phrase:
        phrase = GroundObject.Request(phrase=question.phrase, keep_ratio=keep_ratio)
        return peer.call(GroundObject, "ground", phrase).answer
    query = QueryScene.Request(question=question.text, keep_ratio=keep_ratio)
    return peer.call(QueryScene, "query", query).answer


def _ask_all(peer: AgentPeer, room: GeneratedRoom, questions: Sequence[RoomQuestion]) -> _Result:
    """Every question pruned as configured and again with all tokens."""
    result = _Result([], [])
    for question, (how, keep_ratio) in itertools.product(questions, RUNS):
        # Ask, and compare with the truth.
        answer = _ask(peer, question, keep_ratio)
        compared = _compare(room, question, answer, how) if question.phrase else None
        row = _report_row(answer, question, how, compared)

        # Show it here.
        verdict = "right" if row.right else "wrong"
        if compared is not None and compared.found is not None:
            verdict += f", IoU {compared.iou:.2f}"
        print(f"\n> {row.question}\n{describe_answer(answer)}")
        print(f"true answer: {row.truth} ({verdict})")

        # Keep it for the report.
        result.asked.append(row)
        if compared is not None:
            result.compared.append(compared)
    return result


def _kept_tokens(
    model: Mapping[str, str], bag: Path, questions: Sequence[RoomQuestion]
) -> tuple[str, npt.NDArray[np.float64]]:
    """A phrase, and where the tokens lie that the last layer kept for it: (N, 3), metres, world.

    Messages do not carry that, so the library asks on the same bag.
    """
    # As the node was configured.
    pipeline = Ada3DPipeline(from_flat({**model, **KEYFRAMES, **GENERATION}))
    pipeline.check()
    pipeline.load()
    for frame in BagSource(bag):
        pipeline.observe(frame)

    phrase = next((q.phrase for q in questions if q.target is not None), "the table")
    answer = pipeline.ground(Question(phrase))
    assert answer.kept_xyz_m is not None  # a question about the scene
    return phrase, answer.kept_xyz_m.astype(np.float64)


def _facts(info: Any, seed: int) -> dict[str, str]:
    """What a reader of the report needs to trust it: commit, versions, machine, model."""
    facts = provenance(info.device, seed)
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    facts["model"] = f"{info.name}, {info.parameters / 1e6:.1f} M parameters, {info.precision}"
    return {name: str(value) for name, value in facts.items() if value != ""}


def run(out: Path, seed: int, rate: float, model: Mapping[str, str]) -> Path:
    """The demo; returns the report's path. Raises Ada3DError.

    model: the settings that name it, as `model_folders` gives them.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)

    # 1. A room of the test split, which no training saw, and questions about it.
    _print_step(f"a generated room (seed {seed}) becomes a bag")
    room = generate_room(seed, level=1, side_px=SIDE_PX)
    questions = make_questions(room.graph, seed, QUESTION_KINDS, len(QUESTION_KINDS))
    bag = out / "room_bag"
    print(f"{write_bag(room.frames, bag, BagOptions(overwrite=True))} frames in {bag}")

    # 2. The node sees it, and is asked.
    _print_step("the node starts, the player plays the bag into it")
    inputs = {"use_sim_time": "true", "rgb_transport": "compressed"}
    with AgentPeer({**model, **inputs, **GENERATION, **KEYFRAMES}, REMAPS) as peer:
        print(f"{_collect(peer, bag, rate)} keyframes kept")
        info = peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())
        note = " (RANDOM WEIGHTS: the answers are meaningless)" if info.random_weights else ""
        _print_step(f"questions{note}")
        result = _ask_all(peer, room, questions)

    # 3. The report.
    score = result.score()
    facts = _facts(info, seed) | {
        "answered right": score,
        "a box is right": f"from IoU {RIGHT_IOU} on; an absent object: if there is no box",
        "bag": str(bag),
    }
    kept_for, kept_xyz_m = _kept_tokens(model, bag, questions)
    content = RunReport(
        title="ada3d_ros demo",
        warning=NEVER_TRAINED if info.random_weights else "",
        frames=room.frames,
        true_boxes=room.boxes,
        compared=result.compared,
        questions=result.asked,
        facts=facts,
        kept_for=kept_for,
        kept_xyz_m=kept_xyz_m,
    )
    report = write_report(out / "report.html", content)
    _print_step(f"right answers: {score}")
    _print_step(f"done in {time.monotonic() - started:.0f} s; open {report} in a browser")
    return report


def main(args: Sequence[str]) -> int:
    """Returns 0; 1 with a sentence on stderr if a step failed."""
    parser = argparse.ArgumentParser(
        prog="ada3d demo",
        description="The whole path on a generated room: bag, node, questions, report. Needs no"
        " download.",
    )
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("demo_out"),
        help="folder for the bag and report.html (default demo_out)",
    )
    add_model_folders(add, "the embedded model")
    add("--seed", type=int, default=0, help="of the room (default 0)")
    add("--rate", type=float, default=2.0, help="speed of the replay (default 2)")
    options = parser.parse_args(list(args))

    try:
        model = {"model.path": "embedded", **model_folders(options)}
        run(options.out, options.seed, options.rate, model)
    except Ada3DError as error:
        print(f"ada3d demo: {as_options(str(error))}", file=sys.stderr)
        return 1
    return 0
