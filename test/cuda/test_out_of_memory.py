"""Device memory that ends at any allocation: an answer or a code, and all of it comes back."""

from __future__ import annotations

import dataclasses
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import ErrorCode, ModelError
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Question
from test.cuda.emulator import EmulatedCuda
from test.support.pipelines import MANY, configured

ASK = Question("What is there?")
PRUNED = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.6}
SETTINGS: dict[str, dict[str, Any]] = {
    "pruned build": PRUNED,
    "per question": {**PRUNED, "cache.prune": "question"},
    "int8": {"cache.kv": "int8"},
    "paper": {**PRUNED, "cache.mode": "paper"},
}
PLACES = 4  # where memory ends, per stage


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers each."""
    decoder = dataclasses.replace(TINY_CONFIG.decoder, num_layers=2)
    vision = dataclasses.replace(TINY_CONFIG.vision, num_hidden_layers=2)
    config = dataclasses.replace(TINY_CONFIG, decoder=decoder, vision=vision)
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "smallest", config=config)


class Watched:
    """A pipeline on cuda:0, and what it takes of the device's memory."""

    def __init__(self, cuda: EmulatedCuda, model: Path, **settings: Any) -> None:
        small = {"generation.max_new_tokens": 3, "cache.settle_sec": 0.0, "cache.chunk_tokens": 64}
        chosen = {"model.device": "cuda", **small, **settings}
        self.pipeline = Ada3DPipeline(configured(model, **chosen), background=True)
        self.pipeline.check()
        self.pipeline.load()
        self.memory, self._frames = cuda.memories[0], 0

    def build(self) -> None:
        """A keyframe comes; the scene is built in the background, or appended to."""
        assert self.pipeline.observe(MANY[self._frames]) is not None
        self._frames += 1
        while self.pipeline.run_background_step():
            pass

    def ask(self, max_new_tokens: int = 0) -> Answer | ErrorCode:
        try:
            return self.pipeline.ask(dataclasses.replace(ASK, max_new_tokens=max_new_tokens))
        except ModelError as error:
            return error.code

    def forget(self) -> None:
        self.pipeline.reset_scene()
        self.pipeline.free_memory()
        self._frames = 0


@pytest.fixture
def watched(request: pytest.FixtureRequest, smallest: Path) -> Iterator[Watched]:
    with EmulatedCuda() as cuda:
        yield Watched(cuda, smallest, **SETTINGS[request.param])


def places(total: int) -> list[int]:
    """Some of 1 .. total, the first and the last among them."""
    return sorted({1 + i * (total - 1) // (PLACES - 1) for i in range(PLACES)})


@pytest.mark.parametrize("watched", SETTINGS, indirect=True)
def test_build_append_capture_and_decode(watched: Watched) -> None:
    """Build, append, and an answer that captures; memory ends in one of them."""
    answers: list[Answer | ErrorCode] = []
    acts: list[Callable[[], object]] = [
        watched.build,
        watched.build,
        lambda: answers.append(watched.ask()),
    ]

    def run(stage: int, nth: int) -> Answer | ErrorCode:
        """The nth allocation of a stage fails; the answer."""
        for number, act in enumerate(acts):
            watched.memory.refuse(nth if number == stage else 0)
            act()
            assert not (number == stage and watched.memory.refusal_waits), "was not reached"
        watched.memory.refuse(0)
        return answers[-1]

    # How many each stage makes, and what is said where none fails.
    totals, before = [], watched.memory.allocations
    for act in acts:
        act()
        totals.append(watched.memory.allocations - before)
        before += totals[-1]
    expected = answers[-1]
    assert isinstance(expected, Answer)
    watched.forget()
    gc.collect()
    idle = watched.memory.allocated_bytes

    codes: Counter[str] = Counter()
    for stage, total in enumerate(totals):
        for nth in places(total):
            answer = run(stage, nth)
            if isinstance(answer, Answer):
                assert answer.text
            else:
                assert answer is ErrorCode.OUT_OF_MEMORY
            codes[type(answer).__name__] += 1
            del answer
            assert isinstance(watched.ask(), Answer), "memory is there again"
            answers.clear()
            watched.forget()
        gc.collect()
        assert watched.memory.allocated_bytes <= idle
    assert codes["Answer"] > codes["ErrorCode"]
    again = run(-1, 0)
    assert isinstance(again, Answer)
    assert (again.text, again.tokens.per_layer) == (expected.text, expected.tokens.per_layer)


@pytest.mark.parametrize("watched", ["pruned build"], indirect=True)
def test_memory_is_back_after_two_hundred_failures(watched: Watched) -> None:
    """Of a question, or of the build before it; one in four captures a graph."""
    watched.build()
    expected = watched.ask()
    assert isinstance(expected, Answer)
    before = watched.memory.allocations
    watched.ask(1)
    asked, answered, failed = watched.memory.allocations - before, 0, 0

    def held() -> int:
        watched.pipeline.free_memory()
        gc.collect()
        return watched.memory.allocated_bytes

    at_first = held()
    for number in range(200):
        watched.memory.refuse(1 + 7 * number % asked)
        answered += isinstance(watched.ask(3 if number % 4 == 0 else 1), Answer)
        failed += not watched.memory.refusal_waits
        watched.memory.refuse(0)
    assert answered >= 150
    assert failed == 200
    assert held() <= at_first
    again = watched.ask()
    assert isinstance(again, Answer)
    assert again.text == expected.text


@pytest.mark.parametrize("watched", SETTINGS, indirect=True)
def test_a_device_that_is_full_is_said_by_name(watched: Watched) -> None:
    free = watched.memory.free_bytes
    watched.build()
    watched.pipeline.free_memory()
    watched.memory.leave(0)
    for _ in range(2):
        assert watched.ask() is ErrorCode.OUT_OF_MEMORY
    watched.memory.leave(free)
    assert isinstance(watched.ask(), Answer)
