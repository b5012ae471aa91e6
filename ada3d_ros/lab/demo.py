"""`ada3d demo`: the whole path on a generated room, in two minutes and without any download.

A room becomes a bag, our player plays it into the real node over DDS, twelve questions are asked by
service, pruned and unpruned; answers, boxes and times go to the terminal and into an HTML report.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import as_options, from_flat
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.command_line import add_model_folders, model_folders
from ada3d_ros.lab.demo_answers import boxes_of, distinct, given_answer, match_objects
from ada3d_ros.lab.demo_node import DemoNode, collect, web_page
from ada3d_ros.lab.demo_questions import RIGHT_IOU, RIGHT_SHARE, DemoQuestion, choose_questions
from ada3d_ros.lab.report import (
    AskedQuestion,
    FoundObject,
    GivenAnswer,
    KeptTokens,
    Round,
    RunReport,
    write_report,
)
from ada3d_ros.lab.results import provenance
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.client import describe_answer, describe_tokens
from ada3d_ros.ros.peer import AgentPeer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import BagOptions, write_bag
from ada3d_ros.sources.make_bag import add_folder_options
from ada3d_ros.srv import GetModelInfo
from ada3d_ros.types import Box3D, Question

SIDE_PX = 384  # of the bag's views
PICTURE_PX = 560  # of the report's
ROOM_RATE, RECORDING_RATE = 2.0, 1.0  # of the replay
# Each question in both: as the node is configured, and with every spatial token. Both on a scene
# that was cached before.
ROUNDS: dict[str, dict[str, str]] = {"pruned": {}, "unpruned": {"pruning.strategy": "none"}}
# Every view is kept.
KEYFRAMES = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0.0}
GENERATION = {"generation.max_new_tokens": 24}
WARM_UP = "the floor"  # grounded before a round, so that no question pays for building the scene
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
class _Asked:
    """One round: what was answered to each question, and what of the setting the report shows."""

    round: Round
    answers: list[GivenAnswer]
    objects: list[Box3D] | None  # that the node kept then; None: it keeps none

    @property
    def right(self) -> int:
        return sum(bool(answer.right) for answer in self.answers)


def _ask_all(
    node: DemoNode, room: GeneratedRoom, questions: Sequence[DemoQuestion], name: str
) -> _Asked:
    """Every question of one round; prints answers and verdicts."""
    # The settings, a question that pays for the scene, then the objects.
    node.apply(ROUNDS[name])
    node.ask(DemoQuestion("", "", "", phrase=WARM_UP))
    objects = boxes_of(node.objects())

    # The questions.
    answers, usages = [], []
    for question in questions:
        answer = node.ask_often(question)
        given = given_answer(answer, question, room, describe_tokens(answer.tokens))
        answers.append(given)
        usages.append(answer.tokens)

        # Show it here.
        verdict = ("right" if given.right else "wrong") + (f", {given.note}" if given.note else "")
        print(f"\n> {question.asked} ({name})\n{describe_answer(answer)}")
        print(f"true answer: {question.truth} ({verdict})")
    return _Asked(round_of(name, usages), answers, objects)


def round_of(name: str, usages: Sequence[Any]) -> Round:
    """A round as the TokenUsage message of the last answer describes it for which a model held keys
    and values: what is measured holds none.
    """
    tokens = next((each for each in reversed(usages) if each.held_kv_bytes), None)
    if tokens is None:
        return Round(name)
    return Round(
        name,
        tokens.spatial_kept,
        tokens.spatial_total,
        tokens.held_kv_bytes / 2**20,
        tokens.build_flops / 1e9,
    )


def _kept_tokens(model: Mapping[str, str], bag: Path, phrase: str) -> KeptTokens:
    """Where the tokens lie that each layer of the cached scene holds.

    Messages do not carry that, so the library builds the scene of the same bag anew.
    """
    # As the node was configured.
    pipeline = Ada3DPipeline(from_flat({**model, **KEYFRAMES, **GENERATION}))
    pipeline.check()
    pipeline.load()
    for frame in BagSource(bag):
        pipeline.observe(frame)
    answer = pipeline.ground(Question(phrase))
    prefix = pipeline.prefix_cache.active if pipeline.prefix_cache is not None else None
    if prefix is None or answer.kept_xyz_m is None:
        return KeptTokens()

    # Every layer's tokens; all of them where it holds the whole scene.
    xy_m, with_place = prefix.xyz_m[:, :2].double().cpu().numpy(), prefix.chosen.rows.with_place
    held = [with_place(prefix.kept(layer)).cpu().numpy() for layer in range(len(prefix.lengths))]
    every = with_place(torch.arange(len(xy_m), device=prefix.embeds.device)).cpu().numpy()
    layers = tuple(xy_m[kept] for kept in held)
    return KeptTokens(xy_m[every], layers, answer.kept_xyz_m.astype(np.float64))


def _facts(info: Any, seed: int, bag: Path) -> dict[str, dict[str, str]]:
    """What a reader of the report needs to trust it: what ran, on what, with which packages."""
    known = provenance(info.device, seed)
    run = {
        "model": f"{info.name}, {info.parameters / 1e6:.1f} M parameters, {info.precision}",
        "pruning": info.pruning,
        "commit": known["commit"],
        "date": known["date"],
        "seed": seed,
        "bag": bag,
        "a box is right": f"from IoU {RIGHT_IOU} on",
        "a length is right": "where its stated uncertainty holds the true one, or within"
        f" {RIGHT_SHARE:.0%}",
    }
    machine = {
        "processor": known["processor"],
        "cores": known["cores"],
        "load average": f"{known['load_average']:.1f}",
        "device": known["device"],
    }
    versions = {"python": known["python"], **known["versions"], "ROS": known["ros_distro"]}
    groups = {"What ran": run, "Machine": machine, "Versions": versions}
    return {
        heading: {name: str(value) for name, value in values.items() if str(value)}
        for heading, values in groups.items()
    }


def _busy() -> str:
    """A sentence where other work ran beside the demo; "" where not."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= 1.5 * cores:
        return ""
    return f"Other work ran on this machine (load {load:.1f} on {cores} cores): times are longer."


def _report(
    room: GeneratedRoom,
    seed: int,
    questions: Sequence[DemoQuestion],
    rounds: Sequence[_Asked],
    rest: Mapping[str, Any],
) -> RunReport:
    """Everything as the page shows it. rest: of RunReport, what was found out elsewhere."""
    asked = [
        AskedQuestion(q.kind, q.asked, q.truth, tuple(each.answers[i] for each in rounds))
        for i, q in enumerate(questions)
    ]
    # What was found: the objects, else what the first round's answers rest on.
    objects = rounds[0].objects
    matched: list[FoundObject] | None = None
    if objects is None:
        found = [box for answer in rounds[0].answers for box in answer.evidence.shown]
    else:
        found, matched = objects, match_objects(objects, room.boxes)
    return RunReport(
        title=f"ada3d demo: {len(questions)} questions about a room",
        lead=f"A generated room (seed {seed}), played from a bag into the real node; every question"
        " asked with pruned tokens and with all of them, and judged by the room's true geometry.",
        frames=generate_room(seed, level=1, side_px=PICTURE_PX).frames,
        walls_m=room.walls_m,
        true_boxes=room.boxes,
        found=distinct(found),
        rounds=[each.round for each in rounds],
        questions=asked,
        objects=matched,
        busy=_busy(),
        **rest,
    )


def run(out: Path, seed: int, rate: float, model: Mapping[str, str], web: bool = False) -> Path:
    """The demo; returns the report's path. Raises Ada3DError.

    model: the settings that name it, as `model_folders` gives them; web: with the page, until
    Ctrl-C.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)

    # 1. A room of the test split, which no training saw, and questions about it.
    _print_step(f"a generated room (seed {seed}) becomes a bag")
    room = generate_room(seed, level=1, side_px=SIDE_PX)
    questions = choose_questions(room, seed)
    bag = out / "room_bag"
    print(f"{write_bag(room.frames, bag, BagOptions(overwrite=True))} frames in {bag}")

    # 2. The node sees it, and is asked.
    _print_step("the node starts, the player plays the bag into it")
    inputs = {"use_sim_time": "true", "rgb_transport": "compressed"}
    with AgentPeer({**model, **inputs, **GENERATION, **KEYFRAMES}, REMAPS) as peer, web_page(web):
        print(f"{collect(peer, bag, rate, len(room.frames))} keyframes kept")
        info = peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())
        node, rounds = DemoNode(peer), []
        for name in ROUNDS:
            note = " (RANDOM WEIGHTS: the answers are meaningless)" if info.random_weights else ""
            _print_step(f"questions, {name}{note}")
            rounds.append(_ask_all(node, room, questions, name))

        # 3. The report.
        phrase = next((q.phrase for q in questions if q.phrase), WARM_UP)
        rest = {
            "warning": NEVER_TRAINED if info.random_weights else "",
            "facts": _facts(info, seed, bag),
            "tokens": _kept_tokens(model, bag, phrase),
        }
        content = _report(room, seed, questions, rounds, rest)
        report = write_report(out / "report.html", content)
        score = ", ".join(f"{each.round.name} {each.right} of {len(questions)}" for each in rounds)
        _print_step(f"right answers: {score}")
        _print_step(f"done in {time.monotonic() - started:.0f} s; open {report} in a browser")
    return report


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `ada3d demo`."""
    parser = argparse.ArgumentParser(
        prog="ada3d demo",
        description="The whole path on a generated room, or on a recording that a detector looks"
        " at: bag, node, questions, report. Needs no download for a room.",
    )
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("demo_out"),
        help="folder for the bag and report.html (default demo_out)",
    )
    add_model_folders(add, "the embedded model; of a recording none")
    add("--seed", type=int, default=0, help="of the room (default 0)")
    add("--rate", type=float, help="speed of the replay (default 2; of a recording 1)")

    # A recording, and how a folder is read.
    add("--bag", type=Path, help="a rosbag2 or a posed RGB-D folder; needs --detector")
    add("--detector", type=Path, metavar="FILE", help="what finds objects in it, as detector.path")
    add(
        "--web",
        action="store_true",
        help="show the node in a browser meanwhile, and keep both until Ctrl-C",
    )
    add("--note", default="", help="of whose pictures they are, shown below them")
    add_folder_options(parser)
    return parser


def main(args: Sequence[str]) -> int:
    """Returns 0; 1 with a sentence on stderr if a step failed; 2 for usage."""
    parser = build_parser()
    options = parser.parse_args(list(args))
    if (options.bag is None) != (options.detector is None):
        parser.error("--bag and --detector go together.")

    try:
        if options.bag is not None:
            from ada3d_ros.lab.recording_demo import run as run_recording  # where there is one

            options.rate = options.rate or RECORDING_RATE
            run_recording(options, {"model.path": "none", **model_folders(options)})
        else:
            model = {"model.path": "embedded", **model_folders(options)}
            run(options.out, options.seed, options.rate or ROOM_RATE, model, options.web)
    except Ada3DError as error:
        print(f"ada3d demo: {as_options(str(error))}", file=sys.stderr)
        return 1
    return 0
