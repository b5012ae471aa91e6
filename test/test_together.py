"""Several questions in one batch: each answered as if asked alone, each with its own trouble."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine import batch as batch_module
from ada3d_ros.engine import together as together_module
from ada3d_ros.errors import (
    CanceledError,
    DeviceLostError,
    InvalidRequestError,
    LoadingError,
    ModelError,
    NoFramesError,
)
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.vision import VisionTower
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question, Scope, StopReason
from test.support.pipelines import ROOM, configured, start, timed_answer

QUESTIONS = [
    Question("What is in the room?"),
    Question("How many chairs?"),
    Question("Is it at [0.1, 0.2, 0.3]?"),
]


@pytest.fixture
def pipeline(model: Path) -> Ada3DPipeline:
    made = start(model)
    made.set_config(
        configured(model, **{"pruning.strategy": "none", "generation.max_new_tokens": 8})
    )
    return made


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each batch answered."""
    sizes: list[int] = []
    real = together_module.answer_batch
    monkeypatch.setattr(
        together_module, "answer_batch", lambda *a: (sizes.append(len(a[3])), real(*a))[1]
    )
    return sizes


def asked(*questions: Question) -> list[tuple[Question, AskHooks]]:
    return [(question, AskHooks()) for question in questions]


def test_together_is_as_alone(pipeline: Ada3DPipeline) -> None:
    alone = [pipeline.ask(question) for question in QUESTIONS]
    together = pipeline.ask_together(asked(*QUESTIONS))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, Answer)
        assert other.text == one.text
        assert other.confidence == pytest.approx(one.confidence, rel=1e-5)
        assert other.tokens == one.tokens
        assert (other.stop_reason, other.scene_cached) == (one.stop_reason, True)
        assert other.timings.total_s >= other.timings.decode_s > 0
        assert other.timings.prefill_s > 0
    again = pipeline.ask(QUESTIONS[0])
    # Nothing stayed in the cache.
    assert (again.text, again.confidence) == (alone[0].text, alone[0].confidence)


def test_it_is_one_batch(pipeline: Ada3DPipeline, batch_sizes: list[int]) -> None:
    pipeline.ask_together(asked(*QUESTIONS))
    assert batch_sizes == [3]


def test_a_bad_first_question_does_not_break_up_the_batch(
    pipeline: Ada3DPipeline, batch_sizes: list[int]
) -> None:
    blank, *others = pipeline.ask_together(asked(Question("   "), *QUESTIONS[:2]))
    assert batch_sizes == [2]
    assert isinstance(blank, InvalidRequestError)
    assert all(isinstance(other, Answer) for other in others)


@pytest.mark.parametrize(
    "settings", [{"cache.mode": "paper"}, {"pruning.strategy": "cond_dpp"}], ids=["paper", "dpp"]
)
def test_where_no_cache_serves_stopped_questions_cost_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Both were canceled before they began, and eight views went through the vision tower."""

    def stopped() -> None:
        raise CanceledError("stop")

    passes: list[int] = []
    real = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda *a: (passes.append(1), real(*a))[1])
    pipeline = start(model, **settings)
    results = pipeline.ask_together([(q, AskHooks(check=stopped)) for q in QUESTIONS[:2]])
    assert [type(result) for result in results] == [CanceledError, CanceledError]
    assert passes == []
    assert isinstance(pipeline.ask(QUESTIONS[0]), Answer)
    assert passes


def test_errors_are_each_ones_own(pipeline: Ada3DPipeline) -> None:
    def stopped() -> None:
        raise CanceledError("stop")

    bad, fine = Question("[1, 2]"), QUESTIONS[1]
    results = pipeline.ask_together([*asked(bad, fine), (QUESTIONS[0], AskHooks(check=stopped))])
    assert isinstance(results[0], InvalidRequestError)
    assert isinstance(results[1], Answer)
    assert isinstance(results[2], CanceledError)
    assert results[1].text == pipeline.ask(fine).text


def test_one_stops_in_the_middle_and_the_others_go_on(pipeline: Ada3DPipeline) -> None:
    sent: list[str] = []

    def check() -> None:
        if len(sent) >= 3:
            raise CanceledError("enough")

    hooks = AskHooks(check=check, on_text=lambda delta, count: sent.append(delta))
    results = pipeline.ask_together([(QUESTIONS[0], hooks), *asked(QUESTIONS[1])])
    assert all(isinstance(result, Answer) for result in results)
    stopped, other = (result for result in results if isinstance(result, Answer))
    assert stopped.stop_reason is StopReason.CANCELED
    assert stopped.tokens.generated < other.tokens.generated == 8
    assert stopped.text == "".join(sent).strip()


@pytest.mark.parametrize(
    "change",
    [
        {"scope": Scope.LATEST_IMAGE},
        {"phrase": "a chair"},
        {"keep_ratio": 0.5},
        {"deadline_s": 1.0},
    ],
)
def test_what_cannot_share_is_asked_alone(change: dict[str, Any]) -> None:
    assert QUESTIONS[0].shareable
    assert not dataclasses.replace(QUESTIONS[0], **change).shareable


def test_without_a_scene_or_weights_each_is_told(model: Path) -> None:
    empty = start(model, 0)
    assert [type(result) for result in empty.ask_together(asked(*QUESTIONS[:2]))] == [
        NoFramesError
    ] * 2
    unloaded = Ada3DPipeline(configured(model))
    unloaded.observe(ROOM.frames[0])
    assert [type(result) for result in unloaded.ask_together(asked(*QUESTIONS[:2]))] == [
        LoadingError
    ] * 2


def test_out_of_memory_in_the_batch_answers_one_by_one(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("2 GiB")

    alone = [pipeline.ask(question).text for question in QUESTIONS]
    monkeypatch.setattr(together_module, "answer_batch", full)
    results = pipeline.ask_together(asked(*QUESTIONS))
    assert [result.text for result in results if isinstance(result, Answer)] == alone


@pytest.mark.parametrize("when", ["at once", "after text"])
def test_a_lost_gpu_is_told_to_each_question_of_a_batch(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also where text is out already, and though freeing its memory fails as well."""
    is_lost, embed = when == "at once", LlamaDecoder.embed

    def lost(*_: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure\nkernel errors might be ...")

    def hear(piece: str, _: int) -> None:
        nonlocal is_lost
        is_lost = is_lost or bool(piece)

    monkeypatch.setattr(LlamaDecoder, "embed", lambda *a: lost() if is_lost else embed(*a))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    results = pipeline.ask_together([(question, AskHooks(on_text=hear)) for question in QUESTIONS])
    assert is_lost
    assert [type(result) for result in results] == [DeviceLostError] * len(QUESTIONS)
    # The node reports what has a cause.
    assert all(isinstance(r, Exception) and r.__cause__ is not None for r in results)


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "voxel_dpp"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_text_is_streamed_once_where_a_batch_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, at: int
) -> None:
    """It began anew with each question asked alone; and selected, which gives another text."""
    pipeline, steps = start(model, **{"pruning.strategy": strategy}), 0
    expected = pipeline.ask_together(asked(*QUESTIONS))
    real = batch_module._Batch.step

    def step(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == at:
            raise torch.cuda.OutOfMemoryError("2 GiB")
        return real(*args)

    monkeypatch.setattr(batch_module._Batch, "step", step)
    pieces: list[list[tuple[str, int]]] = [[] for _ in QUESTIONS]
    hooks = [AskHooks(on_text=lambda *piece, to=to: to.append(piece)) for to in pieces]  # type: ignore[misc]
    answers = pipeline.ask_together(list(zip(QUESTIONS, hooks, strict=True)))
    assert steps > at
    for answer, other, sent in zip(answers, expected, pieces, strict=True):
        assert isinstance(answer, Answer)
        assert isinstance(other, Answer)
        assert answer.text == other.text == "".join(piece for piece, _ in sent).strip()
        counts = [count for _, count in sent]
        assert counts == sorted(counts)
        assert counts[-1] == answer.tokens.generated


def test_a_stream_that_cannot_go_on_as_it_began_is_an_error() -> None:
    """Asked again the text was another one, or it ended earlier."""
    for again, given in ((["l", "?", " those"], 2), (["l"], 2), (["l", "?"], 3)):
        sent: list[str] = []
        stream = together_module.StreamedOnce(AskHooks(on_text=lambda *p, to=sent: to.append(p[0])))  # type: ignore[misc]
        for number, piece in enumerate(["l", "?", " these"][:given]):
            stream.hooks.on_text(piece, number + 1)

        def answer(questions: Any, pieces: list[str] = again) -> Any:
            for number, piece in enumerate(pieces):
                questions[0][1].on_text(piece, number + 1)
            return [timed_answer(1, 1.0, 1.0, 1.0, 3, "none")]

        result = together_module.resume(answer, QUESTIONS[0], stream)
        if again[:2] == ["l", "?"] and given == 2:
            assert isinstance(result, Answer)
            assert sent == ["l", "?", " those"]
        else:
            assert isinstance(result, ModelError)
            assert "ask once more" in str(result)
            assert sent == ["l", "?", " these"][:given]
