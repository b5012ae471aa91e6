"""Accuracy on generated rooms that nobody trained on, through the real pipeline.

Every room's views go through `Ada3DPipeline.observe`, every question through `ask` or `ground`,
with measuring or without (--measure), the model pointing before it speaks or not (--chains). Chance
and the share of the most frequent answer stand beside each accuracy; two rows show what is known
blindly: with --shuffle-scenes the questions of one room are asked about another, with --blind the
model is asked without any scene. docs/evaluation.md defines the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.build_plan import prunes_at_build, serves_questions
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.evaluation.answers import (
    evidence_of,
    is_grounded,
    said,
)
from ada3d_ros.lab.evaluation.measured import count_distances, count_objects
from ada3d_ros.lab.evaluation.metrics import IOU_PERCENT, exact_match, is_found
from ada3d_ros.lab.evaluation.pipelines import load_room
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, num_possible, rooms_of
from ada3d_ros.lab.evaluation.tally import COHERENCE, WORDS_ALONE, Outcome, Tally, summary
from ada3d_ros.lab.evaluation.words_alone import WordsAlone
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import Answer, AnswerMethod, AskHooks, Box3D, Question

NOT_SCANQA = ("caption", "relation")  # Scan2Cap's and SQA3D's, as world/export sorts them
MAX_NEW_TOKENS = 12


# -- one room


def ask_room(
    pipeline: Ada3DPipeline, asked: Sequence[RoomQuestion], boxes: dict[int, Box3D], tally: Tally
) -> None:
    """Every question about the loaded room, into the tally as its next room; boxes: the true ones
    by object.
    """
    tally.next_room()
    texts = [question for question in asked if not question.phrase]
    for question, answer in zip(texts, _answers(pipeline, texts), strict=True):
        _count_answer(question, tally.reply(answer), boxes, tally)
    for question in asked:
        if question.phrase:
            phrase = Question(question.phrase, max_new_tokens=MAX_NEW_TOKENS)
            _count_phrase(question, tally.reply(_outcome(pipeline, phrase)), boxes, tally)


def _answers(pipeline: Ada3DPipeline, asked: Sequence[RoomQuestion]) -> list[Answer | Exception]:
    """The answers, or what was raised instead: in one batch where that gives the same."""
    questions = [
        Question(question.text, want_boxes=False, max_new_tokens=MAX_NEW_TOKENS)
        for question in asked
    ]
    if questions and _may_share(pipeline.config):
        return pipeline.ask_together([(question, AskHooks()) for question in questions])
    return [_outcome(pipeline, question, grounds=False) for question in questions]


def _may_share(config: AgentConfig) -> bool:
    """Whether a question in a batch attends to what it would attend to alone: not where tokens are
    chosen for each.
    """
    policy = Policy.from_config(config.pruning)
    selects = bool(policy.in_llm) and policy.prunes and not prunes_at_build(config, policy)
    return serves_questions(config, policy) and not selects


def _outcome(
    pipeline: Ada3DPipeline, question: Question, grounds: bool = True
) -> Answer | Exception:
    try:
        return pipeline.ground(question) if grounds else pipeline.ask(question)
    except Exception as error:  # the tally tells what is a wrong answer and what is no answer
        return error


def _count_answer(
    question: RoomQuestion, answer: Answer | None, boxes: Mapping[int, Box3D], tally: Tally
) -> None:
    """One answer into the tally: whether it is right and, if so, grounded right."""
    right, grounded = count_text(question, said(answer, question.answer), tally), None
    if answer is not None:
        tally.measured[question.kind] += answer.method is AnswerMethod.MEASURED
        if right and question.places:
            grounded = is_grounded(evidence_of(answer), question, boxes)
            tally.add("coherence", float(grounded))
            tally.add(f"{COHERENCE}{question.kind}", float(grounded))
    tally.outcomes.append(Outcome(question, right, coherent=grounded))


def count_text(question: RoomQuestion, text: str, tally: Tally) -> bool:
    """One text into the tally: right is what equals the true one once both are cleaned."""
    right = exact_match(text, [question.answer])[0]
    tally.add(question.kind, float(right), 1.0 / num_possible(question))
    tally.answers[question.kind][question.answer] += 1
    if question.kind not in NOT_SCANQA:
        tally.texts.append((text, question.answer))
    return right


def _count_phrase(
    question: RoomQuestion, answer: Answer | None, boxes: dict[int, Box3D], tally: Tally
) -> None:
    """One phrase into the tally: IoU of the best-scored box, or whether an absent thing got one."""
    found = () if answer is None else answer.boxes
    if question.target is None:
        tally.add("absent_false_box_rate", float(bool(found)), 1.0)
        tally.outcomes.append(Outcome(question, not found))
        return

    # The box of the highest score counts; one without a score comes last.
    target = boxes[question.target]
    best = max(found, key=lambda b: -1.0 if np.isnan(b.score) else b.score, default=None)
    iou = iou_axis_aligned(best, target) if best is not None else 0.0
    tally.methods[best.method.name.lower() if best is not None else "none"] += 1
    tally.ious.append(iou)
    tally.unique.append(question.unique)
    tally.outcomes.append(Outcome(question, is_found(iou, IOU_PERCENT[0]), iou))

    # Chance: the true box of any object of the room, drawn at random.
    name = "unique" if question.unique else "distractor"
    overlaps = [iou_axis_aligned(box, target) for box in boxes.values()]
    for percent in IOU_PERCENT:
        chance = float(np.mean([is_found(overlap, percent) for overlap in overlaps]))
        tally.add(f"grounding_{name}_acc{percent}", float(is_found(iou, percent)), chance)


# -- all rooms


def evaluate(
    pipeline: Ada3DPipeline, *selections: RoomSelection, blind: WordsAlone | None = None
) -> dict[str, Any]:
    """Results over fresh rooms as `summary` has them, pooled over selections that differ in their
    seed, with the selection and the time taken. blind: the model is asked without a scene, beside a
    learner that knows questions alone.

    Raises ConfigError, ModelError.
    """
    tally, started, (first, *_) = Tally(), time.perf_counter(), selections
    for selection in selections:
        tally.next_seed(selection.seed)
        if blind is not None:
            _ask_blindly(pipeline, selection, blind, tally)
        else:
            _ask_about(pipeline, selection, tally)
    seconds = time.perf_counter() - started
    return summary(tally) | {
        "seeds": [selection.seed for selection in selections],
        "scenes": first.scenes,
        "level": first.level,
        "split": first.split,
        "shuffled": first.shuffle,
        "blind": blind is not None,
        "floor_z_m": first.floor_z_m,
        "seconds": seconds,
        "seconds_per_question": seconds / max(tally.asked, 1),
    }


def _ask_about(pipeline: Ada3DPipeline, selection: RoomSelection, tally: Tally) -> None:
    previous: Room | None = None
    for room in _shown(rooms_of(selection, pipeline.view_side), selection):
        # Shuffled, the first room's views answer nothing.
        about, previous = (previous if selection.shuffle else room), room
        if about is not None:
            load_room(pipeline, room.frames)
            ask_room(pipeline, about.questions, about.boxes, tally)
            if pipeline.config.question.measure:
                count_distances(pipeline, about, tally)
                count_objects(pipeline.inventory_now().present, about.boxes, tally)


def _ask_blindly(
    pipeline: Ada3DPipeline, selection: RoomSelection, learner: WordsAlone, tally: Tally
) -> None:
    from ada3d_ros.lab.evaluation.blind import answer_blindly

    for room in _shown(rooms_of(selection, None), selection):
        tally.next_room()
        for question in room.questions:
            if not question.phrase:
                tally.asked += 1
                text = answer_blindly(pipeline.model, question.text, MAX_NEW_TOKENS)
                count_text(question, text, tally)
                learned = learner.answer(question) == question.answer
                tally.add(f"{WORDS_ALONE}{question.kind}", float(learned))


def _shown(rooms: Iterator[Room], selection: RoomSelection) -> Iterator[Room]:
    """The rooms, with progress."""
    description = f"rooms of seed {selection.seed}"
    return iter(tqdm(rooms, total=selection.scenes, desc=description, mininterval=2))
