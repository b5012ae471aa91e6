"""Pointing on an emulated GPU: the chains of a CPU, in the graph of any answer, without a wait."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question
from test.cuda.emulator import EmulatedCuda
from test.support.pipelines import ASK, start
from test.support.pointing import write_pointing_checkpoint

LIMIT = 20
THIRD = Question("Describe the room.")
SETTINGS: dict[str, dict[str, Any]] = {
    "cached": {"cache.prune": "none"},
    "pruned while built": {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.5},
    "cold": {"cache.mode": "paper"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pointing_checkpoint(tmp_path_factory.mktemp("pointing") / "model")


def begin(model: Path, device: str, **settings: Any) -> Ada3DPipeline:
    placed = {"model.device": device, "model.precision": "fp32", "question.measure": False}
    return start(model, **{**placed, "generation.max_new_tokens": LIMIT, **settings})


def same(answer: Answer | Exception, expected: Answer | Exception) -> None:
    assert isinstance(answer, Answer)
    assert isinstance(expected, Answer)
    assert answer.text == expected.text
    assert answer.tokens.generated == expected.tokens.generated
    assert len(answer.places) == len(expected.places) > 3
    for box, other in zip(answer.places, expected.places, strict=True):
        assert box.center_m == pytest.approx(other.center_m, abs=1e-3)
        assert box.size_m == pytest.approx(other.size_m, abs=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_chains_are_those_of_a_cpu_in_one_graph(model: Path, name: str) -> None:
    expected = begin(model, "cpu", **SETTINGS[name]).ask(ASK)
    with EmulatedCuda() as cuda:
        pipeline = begin(model, "cuda:0", **SETTINGS[name])
        for phase, captures in (("first", 1), ("again", 0)):
            with cuda.phase(phase):
                same(pipeline.ask(ASK), expected)
            assert cuda.counters.captures[phase] == captures
            assert cuda.counters.replays[phase] == LIMIT - 1


def test_a_place_waits_for_nothing(model: Path) -> None:
    """An answer with one place and one with eight wait alike, and once a token."""
    with EmulatedCuda() as cuda:
        pipeline = begin(model, "cuda:0", **SETTINGS["cached"])
        pipeline.ask(ASK)
        waits = []
        for tokens in (2, LIMIT):  # a place and a word; eight places and more words
            with cuda.phase(f"{tokens}"):
                answer = pipeline.ask(Question(ASK.text, max_new_tokens=tokens, want_boxes=False))
            kinds = Counter(sync.kind for sync in cuda.counters.syncs_in(f"{tokens}"))
            assert kinds.pop("event") == answer.tokens.generated == tokens
            waits.append((len(answer.places), kinds))
    (few, one), (many, all_of_them) = waits
    assert few == 1
    assert many > 3
    assert one == all_of_them


def test_a_batch_points_as_on_a_cpu(model: Path) -> None:
    asked = [(ASK, AskHooks()), (THIRD, AskHooks())]
    expected = begin(model, "cpu", **SETTINGS["cached"]).ask_together(asked)
    with EmulatedCuda() as cuda:
        pipeline = begin(model, "cuda:0", **SETTINGS["cached"])
        for phase, captures in (
            ("first", 2),
            ("again", 0),
        ):  # scene, batch
            with cuda.phase(phase):
                answers = pipeline.ask_together(asked)
            for answer, other in zip(answers, expected, strict=True):
                same(answer, other)
            assert cuda.counters.captures[phase] == captures
