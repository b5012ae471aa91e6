"""How many of the demo's questions are answered right, room by room, without the node.

    python tools/check_demo_questions.py [--seeds 0,1,2] [--model FOLDER] [--set NAME=VALUE]

The same questions and the same judging as `ada3d demo`, asked of the library on the room's frames.
"""

from __future__ import annotations

import argparse

from ada3d_ros.config import from_flat
from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.lab.demo_questions import DemoQuestion, Reply, choose_questions, judge
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Question

KEYFRAMES = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0.0}


def ask(pipeline: Ada3DPipeline, question: DemoQuestion) -> Reply:
    """The library's answer, or its refusal."""
    try:
        if question.phrase:
            answer = pipeline.ground(Question(question.phrase))
        else:
            answer = pipeline.ask(Question(question.text))
    except Ada3DError as error:
        return Reply(str(error), ErrorCode(error.code))
    measured = answer.measurement
    if measured is None:
        return Reply(answer.text, boxes=answer.boxes)
    return Reply(
        answer.text,
        boxes=answer.boxes,
        word=measured.word,
        values=measured.values,
        uncertainty=measured.uncertainty,
        unit=measured.unit,
    )


def check(pipeline: Ada3DPipeline, room: GeneratedRoom, seed: int) -> int:
    """Ask about one room; prints what was wrong, returns how many were right."""
    pipeline.reset_scene()
    for frame in room.frames:
        pipeline.observe(frame)
    right = 0
    for question in choose_questions(room, seed):
        reply = ask(pipeline, question)
        is_right, note = judge(question, reply, room)
        right += is_right
        if not is_right:
            print(f"  {question.asked}\n    {reply.text!r}, true: {question.truth} {note}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description="check the demo's questions with the library")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()

    settings = dict(each.split("=", 1) for each in options.set)
    pipeline = Ada3DPipeline(from_flat({"model.path": options.model, **KEYFRAMES, **settings}))
    pipeline.check()
    pipeline.load()
    for seed in map(int, options.seeds.split(",")):
        right = check(pipeline, generate_room(seed), seed)
        print(f"seed {seed}: {right} right", flush=True)


if __name__ == "__main__":
    main()
