"""The whole pipeline on an emulated GPU: answers of a CPU, a graph per budget, no second copy."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest

from ada3d_ros.engine.static_decode import static_steps
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, GroundingMethod, Question, StopReason
from test.cuda.emulator import EmulatedCuda
from test.support.pipelines import cache_of, start

QUESTIONS = (
    "Is there a lamp?",
    "How many chairs are there?",
    "Is there a table?",
    "What colour is the chair?",
    "What is at (1.0, 2.0, 0.5)?",
)
PHRASES = ("chair", "table")
SETTINGS: dict[str, dict[str, Any]] = {
    "pruned build": {"pruning.strategy": "adatoken3d"},
    "per question": {"pruning.strategy": "adatoken3d", "cache.prune": "question"},
    "unpruned, int8": {"cache.prune": "none", "cache.kv": "int8"},
    "paper": {"pruning.strategy": "adatoken3d", "cache.mode": "paper"},
}


def embedded(device: str, **settings: Any) -> Ada3DPipeline:
    placed = {"model.device": device, "model.precision": "fp32", "question.measure": False}
    return start("embedded", 3, **placed, **settings)  # type: ignore[arg-type]


def ask_all(pipeline: Ada3DPipeline) -> list[Answer]:
    asked = [Question(text, routed=False) for text in QUESTIONS]
    answers = [pipeline.ask(question) for question in asked]
    return answers + [pipeline.ground(Question(phrase)) for phrase in PHRASES]


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_those_of_a_cpu(name: str) -> None:
    expected = ask_all(embedded("cpu", **SETTINGS[name]))
    device = "cuda:1" if name == "pruned build" else "cuda:0"
    with EmulatedCuda() as cuda:
        pipeline = embedded(device, **SETTINGS[name])
        answers = ask_all(pipeline)
        other = cuda.memories[device == "cuda:0"]
        assert other.max_allocated_bytes == 0
        assert cuda.counters.replays[""] >= sum(answer.tokens.generated - 1 for answer in answers)
    assert pipeline.info is not None
    assert pipeline.info.device == device
    for answer, same in zip(answers, expected, strict=True):
        assert answer.text == same.text
        assert answer.stop_reason == same.stop_reason
        assert answer.confidence == pytest.approx(same.confidence, abs=1e-4)
        assert answer.tokens.per_layer == same.tokens.per_layer
        assert answer.cache_mode == same.cache_mode
        boxes, expected_boxes = (a.boxes + a.places for a in (answer, same))
        for box, other_box in zip(boxes, expected_boxes, strict=True):
            assert box.method is other_box.method
            assert box.center_m == pytest.approx(other_box.center_m, abs=1e-3)
            assert box.size_m == pytest.approx(other_box.size_m, abs=1e-3)
    assert any(b.method is GroundingMethod.HEAD for answer in answers for b in answer.places)


def test_a_budget_is_captured_once() -> None:
    """Whatever order budgets and questions come in."""
    with EmulatedCuda() as cuda:
        settings = {"pruning.strategy": "adatoken3d", "cache.prune": "question"}
        pipeline = embedded("cuda", **settings)
        for round_ in range(3):
            for ratio in (0.9, 0.6, 0.41):
                for text in QUESTIONS[:2]:
                    with cuda.phase(f"{round_}"):
                        pipeline.ask(Question(text, keep_ratio=ratio))
        assert 1 <= cuda.counters.captures["0"] <= 3
        assert cuda.counters.captures["1"] == cuda.counters.captures["2"] == 0


def test_what_a_warm_question_waits_for() -> None:
    """A token at a time, and a number of times that depends on no layer."""
    with EmulatedCuda() as cuda:
        pipeline = embedded("cuda", **SETTINGS["pruned build"])
        pipeline.ask(Question(QUESTIONS[0]))
        waits, pointed = [], set()
        for text in QUESTIONS[1:4]:
            with cuda.phase(text):
                answer = pipeline.ask(Question(text))
            assert answer.scene_cached
            assert cuda.counters.captures[text] == 0
            ends = answer.stop_reason is StopReason.EOS
            assert cuda.counters.replays[text] == answer.tokens.generated - (not ends)
            kinds = Counter(sync.kind for sync in cuda.counters.syncs_in(text))
            assert kinds.pop("event") == answer.tokens.generated + ends
            if answer.places:  # of all of them once, at the end
                kinds -= Counter({"tolist": 1})
            pointed.add(bool(answer.places))
            waits.append(kinds)
        assert pointed == {False, True}
        assert waits[0] == waits[1] == waits[2]
        assert sum(waits[0].values()) <= 25


@pytest.mark.parametrize("settings", [{}, SETTINGS["pruned build"]], ids=["whole", "pruned"])
def test_a_question_on_the_cached_scene_copies_no_keys(settings: dict[str, Any]) -> None:
    with EmulatedCuda() as cuda:
        pipeline = embedded("cuda", **settings)
        for text in QUESTIONS[:2]:
            pipeline.ask(Question(text))
        memory, steps = cuda.memories[0], static_steps(pipeline.model.model.decoder)
        assert [step.own_bytes for step in steps.held] == [0]
        before, held = memory.allocated_bytes, cache_of(pipeline).report.kv_bytes
        memory.reset_peak()
        pipeline.ask(Question(QUESTIONS[2]))
        assert memory.max_allocated_bytes - before < held
        gc.collect()
        assert memory.allocated_bytes <= before + 4096
