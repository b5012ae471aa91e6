"""The main path without ROS, on the generated room: frames and questions in, answers out."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.errors import (
    CanceledError,
    FrameError,
    FrameReason,
    NoFramesError,
    RequestTimeoutError,
)
from ada3d_ros.lab.parity.reference_engine import reference_generate
from ada3d_ros.model.prompt import NO_CONTROLS
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Question, Scope, Stage, StopReason
from ada3d_ros.usage import StageTimings
from test.support.pipelines import ASK, ROOM, configured, start


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Ada3DPipeline:
    """Shared by tests that change nothing."""
    return start(model)


# -- the path


def test_ask(pipeline: Ada3DPipeline) -> None:
    answer = pipeline.ask(ASK)
    assert answer.question == ASK.text
    assert answer.frame_id == "map"
    assert answer.stamp_ns == ROOM.frames[-1].stamp_ns
    assert answer.keyframe_stamps_ns == tuple(frame.stamp_ns for frame in ROOM.frames)
    assert answer.stop_reason is StopReason.MAX_TOKENS
    assert answer.tokens.generated == 8
    assert answer.tokens.spatial_total == answer.tokens.spatial_kept > 20
    assert answer.tokens.prompt > answer.tokens.spatial_total
    assert answer.tokens.keep_ratio_achieved == 1.0
    assert 0 < answer.confidence <= 1
    assert answer.boxes == ()  # random weights write none
    assert (answer.scene_epoch, answer.scene_version) == (0, len(ROOM.frames))


def test_the_whole_path_equals_the_reference_engine(pipeline: Ada3DPipeline) -> None:
    """Prompt and scene as the pipeline makes them, decoded by the slow reference engine."""
    loaded = pipeline.model
    prompts = []
    real = loaded.model.build_prompt

    def spy(*args: Any) -> Any:
        prompts.append(real(*args))
        return prompts[-1]

    loaded.model.build_prompt = spy  # type: ignore[method-assign]
    try:
        for question in (
            ASK,
            Question("How many chairs?"),
            Question("What is at [0.1, 0.2, 0.3]?"),
        ):
            answer = pipeline.ask(question)
            ids, _ = reference_generate(loaded.model.decoder, prompts[-1], 8)
            assert answer.text == loaded.tokenizer.decode(ids).translate(NO_CONTROLS).strip()
            assert answer.tokens.generated == len(ids)
            assert answer.tokens.prompt == prompts[-1].embeds.shape[0]
    finally:
        del loaded.model.build_prompt
    assert len(prompts) == 3
    assert not torch.equal(prompts[0].embeds, prompts[1].embeds)


def test_the_same_question_twice_gives_the_same_answer(model: Path) -> None:
    """Greedy: also in another pipeline, with the scene's tokens cached and not."""
    pipeline = start(model)
    first, second = pipeline.ask(ASK), pipeline.ask(ASK)
    other = start(model).ask(ASK)
    assert first.text == second.text == other.text
    assert first.confidence == second.confidence == other.confidence
    assert pipeline.ask(Question("And now something else")).text != first.text


def test_sampling_follows_the_seed(model: Path) -> None:
    def ask(seed: int) -> str:
        return (
            start(model, **{"generation.temperature": 1.5, "generation.seed": seed}).ask(ASK).text
        )

    assert ask(1) == ask(1)
    assert len({ask(1), ask(2), ask(3)}) > 1


def test_scene_tokens_are_made_once_per_version(model: Path) -> None:
    pipeline = start(model, 3)
    first = pipeline.ask(ASK).timings
    second = pipeline.ask(Question("Another question?")).timings
    assert first.vision_s > 0
    assert first.preprocess_s > 0
    assert math.isnan(second.vision_s)
    assert math.isnan(second.preprocess_s)
    assert second.prefill_s > 0
    assert pipeline.observe(ROOM.frames[3]) is not None
    third = pipeline.ask(ASK)
    assert third.timings.vision_s > 0
    assert third.scene_version == 4
    pipeline.reset_scene()
    pipeline.observe(dataclasses.replace(ROOM.frames[4]))
    after_reset = pipeline.ask(ASK)
    # The same number of keyframes would not be enough to tell.
    assert after_reset.timings.vision_s > 0
    assert after_reset.scene_epoch == 1


def test_times_add_up(pipeline: Ada3DPipeline) -> None:
    for scope in Scope:
        times = pipeline.ask(dataclasses.replace(ASK, scope=scope)).timings
        parts = [
            times.preprocess_s,
            times.vision_s,
            times.spatial_s,
            times.prefill_s,
            times.decode_s,
        ]
        parts += [times.postprocess_s]
        known = [part for part in parts if not math.isnan(part)]
        assert all(part >= 0 for part in known)
        assert sum(known) <= times.total_s
        assert times.prefill_s <= times.first_token_s <= times.total_s
        assert {f.name for f in dataclasses.fields(StageTimings)} >= {"rank_s"}


def test_hooks_are_called_in_order(pipeline: Ada3DPipeline) -> None:
    events: list[Any] = []
    hooks = AskHooks(
        check=lambda: events.append("check"),
        on_stage=events.append,
        on_text=lambda delta, count: events.append((delta, count)),
    )
    answer = pipeline.ask(ASK, hooks)
    stages = [event for event in events if isinstance(event, Stage)]
    assert stages == [Stage.ENCODING, Stage.PREFILL, Stage.DECODING, Stage.POSTPROCESS]
    texts = [event for event in events if isinstance(event, tuple)]
    assert "".join(delta for delta, _ in texts).strip() == answer.text
    counts = [count for _, count in texts]
    assert counts == sorted(counts)
    assert counts[-1] == answer.tokens.generated
    decoding = events[events.index(Stage.DECODING) : events.index(Stage.POSTPROCESS)]
    assert decoding.count("check") == answer.tokens.generated  # before each token
    # Asked before the text is handed out, not after.
    assert all(type(events[events.index(t) - 1]) is str for t in texts[:1])


# -- stopping


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RequestTimeoutError, StopReason.TIMEOUT), (CanceledError, StopReason.CANCELED)],
    ids=["timeout", "canceled"],
)
def test_stopped_while_decoding_keeps_the_text(
    pipeline: Ada3DPipeline, error: type[Exception], reason: StopReason
) -> None:
    whole = pipeline.ask(ASK)
    seen: list[str] = []

    def check() -> None:
        if len(seen) >= 3:
            raise error("enough")

    answer = pipeline.ask(
        ASK, AskHooks(check=check, on_text=lambda delta, count: seen.append(delta))
    )
    assert answer.stop_reason is reason
    assert answer.tokens.generated == 3
    assert answer.text
    assert whole.text.startswith(answer.text)
    assert pipeline.ask(ASK).text == whole.text  # nothing is left behind


@pytest.mark.parametrize("stage", [Stage.ENCODING, Stage.PREFILL])
def test_stopped_before_the_first_token_raises(model: Path, stage: Stage) -> None:
    pipeline = start(model, 2)
    reached: list[Stage] = []

    def check() -> None:
        if reached and reached[-1] is stage:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        pipeline.ask(ASK, AskHooks(check=check, on_stage=reached.append))
    assert reached[-1] is stage
    assert pipeline.ask(ASK).tokens.generated == 8


def test_stopped_at_the_first_token(pipeline: Ada3DPipeline) -> None:
    stages: list[Stage] = []

    def check() -> None:
        if Stage.DECODING in stages:
            raise CanceledError("enough")

    answer = pipeline.ask(ASK, AskHooks(check=check, on_stage=stages.append))
    assert (answer.text, answer.tokens.generated, answer.stop_reason) == (
        "",
        0,
        StopReason.CANCELED,
    )
    assert math.isnan(answer.confidence)


def test_the_number_of_tokens(pipeline: Ada3DPipeline) -> None:
    assert pipeline.ask(dataclasses.replace(ASK, max_new_tokens=1)).tokens.generated == 1
    whole = pipeline.ask(ASK).text
    assert whole.startswith(pipeline.ask(dataclasses.replace(ASK, max_new_tokens=3)).text)


# -- the scene


def test_no_keyframe_yet(model: Path) -> None:
    pipeline = start(model, 0)
    for call in (pipeline.ask, pipeline.ground):
        with pytest.raises(NoFramesError, match="no keyframe yet"):
            call(ASK)
    assert pipeline.scene_state().num_keyframes == 0
    assert (pipeline.scene_state().oldest_ns, pipeline.scene_state().newest_ns) == (-1, -1)


def test_a_scene_without_any_depth(model: Path) -> None:
    """The node does not admit frames with so little depth; the model must fail by name."""
    pipeline = Ada3DPipeline(configured(model))
    pipeline.load()
    blind = dataclasses.replace(
        ROOM.frames[0], depth_m=np.full_like(ROOM.frames[0].depth_m, np.nan)
    )
    assert pipeline.observe(blind) is not None
    with pytest.raises(NoFramesError, match="none of the 1 views has a depth reading"):
        pipeline.ask(ASK)
    assert pipeline.ask(dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE)).tokens.generated == 8


def test_observe_and_reset(model: Path) -> None:
    pipeline = start(model, 3)
    state = pipeline.scene_state()
    assert (state.num_keyframes, state.epoch, state.version) == (3, 0, 3)
    assert (state.oldest_ns, state.newest_ns) == (ROOM.frames[0].stamp_ns, ROOM.frames[2].stamp_ns)
    with pytest.raises(FrameError) as caught:
        pipeline.observe(ROOM.frames[1])
    assert caught.value.reason is FrameReason.BACKWARD_STAMP
    pipeline.reset_scene()
    assert pipeline.scene_state().num_keyframes == 0
    with pytest.raises(NoFramesError):
        pipeline.ask(ASK)
    assert pipeline.observe(ROOM.frames[1]) is not None
    assert pipeline.ask(ASK).scene_epoch == 1


def test_settings_apply_from_the_next_question(model: Path) -> None:
    pipeline = start(model)
    assert pipeline.ask(ASK).tokens.generated == 8
    pipeline.set_config(
        configured(model, **{"generation.max_new_tokens": 2, "keyframe.max_views": 2})
    )
    answer = pipeline.ask(ASK)
    assert (answer.tokens.generated, len(answer.keyframe_stamps_ns)) == (2, 2)


def test_frames_that_come_while_a_question_runs_wait_for_the_next(model: Path) -> None:
    pipeline = start(model, 2)
    expected = pipeline.ask(ASK)
    pipeline.observe(ROOM.frames[2])
    version_2 = start(model, 2)

    def intrude(stage: Stage) -> None:
        if stage is Stage.ENCODING:
            thread = threading.Thread(target=version_2.observe, args=(ROOM.frames[2],))
            thread.start()
            thread.join(5.0)
            assert not thread.is_alive(), "observe() waits for the question"

    answer = version_2.ask(ASK, AskHooks(on_stage=intrude))
    assert answer.text == expected.text
    assert answer.keyframe_stamps_ns == expected.keyframe_stamps_ns
    assert version_2.scene_state().num_keyframes == 3
    assert version_2.ask(ASK).confidence == pipeline.ask(ASK).confidence
