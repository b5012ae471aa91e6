"""Several questions about one cached scene at once; alone where they cannot share it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ada3d_ros.asking.model_task import ModelTask
from ada3d_ros.asking.route import RoutingPipeline, measured_answer
from ada3d_ros.engine.answer import build_answer
from ada3d_ros.engine.memory_fallback import Ask
from ada3d_ros.engine.query_context import encode_scene, select_context
from ada3d_ros.engine.together import Generated, StreamedOnce, generate_together, resume
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import Ada3DError
from ada3d_ros.grounding import ground_answer
from ada3d_ros.types import Answer, AskHooks, Question

logger = logging.getLogger(__name__)

Batch = Sequence[tuple[Question, AskHooks]]


class AskingPipeline(RoutingPipeline, Protocol):
    """What answers one question, and opens the scene for several."""

    @property
    def ask(self) -> Ask: ...

    def free_memory(self) -> None: ...


def ask_together(pipeline: AskingPipeline, asked: Batch) -> list[Answer | Exception]:
    """As `Ada3DPipeline.ask_together`. What is measured, or refused, has no part in the batch."""
    routed = [_routed(pipeline, question, hooks) for question, hooks in asked]
    left = [
        (replace(task.handed, routed=False), task.hooks(hooks))
        for task, (_, hooks) in zip(routed, asked, strict=True)
        if isinstance(task, ModelTask)
    ]
    by_model = iter(_ask_model(pipeline, left))
    return [
        _answered(task, next(by_model), hooks) if isinstance(task, ModelTask) else task
        for task, (_, hooks) in zip(routed, asked, strict=True)
    ]


def _answered(task: ModelTask, said: Answer | Exception, hooks: AskHooks) -> Answer | Exception:
    """A model's answer, or why it is none."""
    if isinstance(said, Exception):
        return said
    try:
        return task.answer(said, hooks)
    except Ada3DError as error:
        return error


def _routed(
    pipeline: AskingPipeline, question: Question, hooks: AskHooks
) -> Answer | ModelTask | Exception:
    """As `measured_answer`, or what it raised."""
    try:
        return measured_answer(pipeline, question, hooks)
    except Exception as error:  # told to this caller; the others go on
        return error


def _ask_model(pipeline: AskingPipeline, asked: Batch) -> list[Answer | Exception]:
    """The model's answers, together where they can be."""
    if len(asked) < 2 or not all(question.shareable for question, _ in asked):
        return [_outcome(pipeline.ask, question, hooks) for question, hooks in asked]

    streams = [(question, StreamedOnce(hooks)) for question, hooks in asked]
    try:
        answers = _ask_batch(pipeline, [(question, stream.hooks) for question, stream in streams])
    except RuntimeError as error:
        # Memory, or torch's own: alone each gets its answer, or says what is wrong.
        logger.warning("questions are answered one after the other: %s", str(error))
        pipeline.free_memory()
        answers = None
    return answers or [
        resume(lambda again: _ask_batch(pipeline, again), question, stream)
        if stream.sent
        else _outcome(pipeline.ask, question, stream.hooks)
        for question, stream in streams
    ]


def _ask_batch(pipeline: AskingPipeline, asked: Batch) -> list[Answer | Exception] | None:
    """Of questions that can share the cached scene; None where there is none to share."""
    try:  # what they share; each one's own text is checked with its prompt
        shared, cache = pipeline.open_query(Question("shared"), AskHooks())
        if not cache.serves_under(shared.config):
            return None
        tokens = encode_scene(shared, cache.encoder)
        context = select_context(shared, tokens, cache, together=True)
    except Ada3DError:  # asked alone, each says so
        return None
    if context.prefix is None:
        return None

    queries = [replace(shared, question=question, hooks=hooks) for question, hooks in asked]
    generated = generate_together(queries, context, shared.clock)
    return [_finish(one, context) for one in generated]


def _finish(one: Generated | Ada3DError, context: SceneContext) -> Answer | Exception:
    """Steps 6 and 7 of `Ada3DPipeline.ask` for one question of a batch."""
    if isinstance(one, Ada3DError):
        return one
    try:
        parts = one.query, context, one.prompt, one.prefilled
        return build_answer(*parts, ground_answer(*parts, one.output))
    except Ada3DError as error:
        return error


def _outcome(ask: Ask, question: Question, hooks: AskHooks) -> Answer | Exception:
    """The answer, or what was raised instead."""
    try:
        return ask(question, hooks)
    except Exception as error:  # told to this caller; the others go on
        return error
