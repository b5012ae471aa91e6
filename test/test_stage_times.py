"""Each second of a question counts in exactly one stage: by equality, on a moved clock."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros import grounding as ground
from ada3d_ros.engine import answer as answer_module
from ada3d_ros.engine import batch, decode, query_context, streaming, together
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import CanceledError
from ada3d_ros.grounding import from_attention
from ada3d_ros.model import llava3d
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question
from ada3d_ros.usage import StageTimings
from test.support.pipelines import ROOM, configured

VIEWS = 2
# Powers of two: every sum is exact.
PREPROCESS, VISION, SUM, POOL, PROJECT, PROMPT = 2.0**-6, 1.0, 2.0**-7, 2.0**-8, 2.0**-9, 2.0**-10
CHUNK, PREFILL, SAMPLE, STEP, BOXES, COVERAGE = 2.0, 4.0, 0.25, 8.0, 16.0, 32.0
STAGES = (
    "preprocess_s",
    "vision_s",
    "spatial_s",
    "scene_s",
    "prefill_s",
    "decode_s",
    "postprocess_s",
)


class MovedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    """A clock that moves by a known amount in each part of a question, and nowhere else."""
    clock = MovedClock()

    def slow(where: Any, name: str, seconds: float) -> None:
        real: Callable[..., Any] = getattr(where, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return real(*args, **kwargs)

        monkeypatch.setattr(where, name, called)

    slow(llava3d, "build_multiview", PREPROCESS)
    slow(Llava3D, "encode_views", VISION)
    slow(Llava3D, "view_parts", SUM)
    slow(Llava3D, "spatial_tokens", POOL)
    slow(Llava3D, "project", PROJECT)
    slow(query_context, "build_prompt", PROMPT)
    slow(ScenePrefix, "step", CHUNK)
    slow(query_context, "prefill_question", PREFILL)
    slow(decode, "decode_step", STEP)
    slow(ground, "find_query_boxes", BOXES)
    slow(answer_module, "cell_coverage", COVERAGE)
    greedy = streaming.make_sampler

    def slow_sampler(*args: Any) -> Any:
        sampler = greedy(*args)

        def sample(logits: Any) -> Any:
            clock.now += SAMPLE
            return sampler(logits)

        return sample

    monkeypatch.setattr(streaming, "make_sampler", slow_sampler)
    return clock


def made(model: Path, clock: MovedClock, **settings: Any) -> Ada3DPipeline:
    config = {
        "pruning.strategy": "none",
        "generation.max_new_tokens": 3,
        "cache.chunk_tokens": 4096,
        **settings,
    }
    pipeline = Ada3DPipeline(configured(model, **config), now=clock)
    pipeline.load()
    for frame in ROOM.frames[:VIEWS]:
        assert pipeline.observe(frame) is not None
    return pipeline


def stages(timings: StageTimings) -> dict[str, float]:
    return {name: getattr(timings, name) for name in STAGES}


def counted(timings: StageTimings) -> float:
    """Seconds in all stages, and in the choice of the first token, which is in none."""
    return SAMPLE + sum(s for s in stages(timings).values() if not math.isnan(s))


def test_a_cold_question(model: Path, clock: MovedClock) -> None:
    timings = made(model, clock).ask(Question("What is in the room?")).timings
    assert stages(timings) == {
        "preprocess_s": VIEWS * PREPROCESS,
        "vision_s": VIEWS * VISION,
        "spatial_s": VIEWS * SUM + POOL + PROJECT + PROMPT,
        "scene_s": CHUNK,
        "prefill_s": PREFILL,
        "decode_s": 2 * (STEP + SAMPLE),
        "postprocess_s": BOXES + COVERAGE,
    }
    assert timings.total_s == counted(timings)
    assert timings.first_token_s == timings.total_s - timings.decode_s - timings.postprocess_s


def test_a_warm_question(model: Path, clock: MovedClock) -> None:
    pipeline = made(model, clock)
    pipeline.ask(Question("What is in the room?"))
    timings = pipeline.ask(Question("How many chairs?")).timings
    for name in ("preprocess_s", "vision_s", "scene_s"):
        assert math.isnan(getattr(timings, name)), name
    assert timings.spatial_s == PROMPT
    assert timings.first_token_s == PROMPT + PREFILL + SAMPLE
    assert timings.total_s == counted(timings)


def test_a_search_by_attention_is_post_processing_alone(
    model: Path, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompts, passes and words are a second inference: none of it is a stage of the first."""
    inside = 64.0
    for name in ("build_prompt", "prefill_prompt", "generate_text"):
        real = getattr(from_attention, name)

        def slow(*args: Any, real: Any = real) -> Any:
            clock.now += inside
            return real(*args)

        monkeypatch.setattr(from_attention, name, slow)
    pipeline = made(model, clock)
    plain = pipeline.ask(Question("What is in the room?")).timings
    timings = pipeline.ground(Question("a red box", min_score=1e-6)).timings
    assert timings.spatial_s == PROMPT
    assert timings.prefill_s == plain.prefill_s == PREFILL
    assert timings.decode_s == plain.decode_s == 2 * (STEP + SAMPLE)
    # Two prompts, one prefill and one text of three tokens, and the boxes that it names.
    second = 4 * inside + PREFILL + 2 * STEP + 3 * SAMPLE
    assert timings.postprocess_s == BOXES + COVERAGE + second
    assert timings.total_s == counted(timings)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_batch_shares_its_stages_and_nothing_else(
    model: Path, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Each answer has its own post-processing; one stopped before its first token harms none."""
    monkeypatch.setattr(together, "build_prompt", query_context.build_prompt)
    pipeline = made(model, clock)
    pipeline.ask(Question("What is in the room?"))
    after = batch.after

    def slow(*args: Any) -> Any:
        clock.now += STEP
        return after(*args)

    monkeypatch.setattr(batch, "after", slow)
    asks = 0

    def check() -> None:  # the prompt passes, the first token does not
        nonlocal asks
        asks += 1
        if stopped and asks > 1:
            raise CanceledError("enough")

    questions = [Question("How many chairs?"), Question("A door?"), Question("Is it red?")]
    hooks = [AskHooks(), AskHooks(check=check), AskHooks()]
    answers = pipeline.ask_together(list(zip(questions, hooks, strict=True)))
    assert all(isinstance(answer, Answer) for answer in answers)
    times = [answer.timings for answer in answers if isinstance(answer, Answer)]
    assert [t.postprocess_s for t in times] == [BOXES + COVERAGE] * 3
    assert [t.prefill_s for t in times] == [STEP] * 3
    assert [t.spatial_s for t in times] == [3 * PROMPT] * 3
    live = [t for t in times if not math.isnan(t.decode_s)]
    assert len(live) == (2 if stopped else 3)
    per_step = STEP + len(live) * SAMPLE
    assert {t.decode_s for t in live} == {2 * per_step}
    assert {t.first_token_s for t in live} == {3 * PROMPT + STEP + len(live) * SAMPLE}
    for number, t in enumerate(times):  # the last one waited for the others' post-processing
        if t in live:
            before = 3 * PROMPT + STEP + len(live) * SAMPLE + 2 * per_step
            assert t.total_s == before + (number + 1) * (BOXES + COVERAGE)


def test_an_answer_keeps_its_deadline_by_the_same_clock(model: Path, clock: MovedClock) -> None:
    pipeline = made(model, clock)
    question = Question("What is in the room?")
    total = pipeline.ask(question).timings.total_s
    warm = pipeline.ask(question).timings.total_s
    assert warm < total
    for deadline_s, kept in ((warm, True), (warm - 2.0**-12, False), (math.nan, False)):
        timed = dataclasses.replace(question, deadline_s=deadline_s)
        assert pipeline.ask(timed).deadline_kept is kept
