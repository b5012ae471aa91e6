"""The main path without ROS, on the generated room: frames and questions in, answers out."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.errors import (
    CanceledError,
    CheckpointError,
    ConfigError,
    FrameError,
    FrameReason,
    InvalidRequestError,
    LoadingError,
    ModelError,
    NoFramesError,
    OutOfMemoryError,
    QuestionTooLongError,
    RequestTimeoutError,
)
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.parity.reference_engine import reference_generate
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import (
    Answer,
    AskHooks,
    GroundingMethod,
    Question,
    Scope,
    Stage,
    StageTimings,
    StopReason,
)
from test.support.pipelines import ASK, ROOM, configured, start

BOX = ROOM.boxes[0]
BOX_TEXT = f"It is at [{', '.join(f'{v:.3f}' for v in (*BOX.center_m, *BOX.size_m))}]."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model_2d(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain LLaVA-1.5: no video tower."""
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("model") / "plain"))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: t.clone() for name, t in tensors.items() if ".video_tower." not in name},
        folder / "model.safetensors",
    )
    config = json.loads((folder / "config.json").read_text())
    del config["mm_video_tower"]
    (folder / "config.json").write_text(json.dumps(config | {"image_aspect_ratio": "pad"}))
    return folder


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Ada3DPipeline:
    """Shared by tests that change nothing."""
    return start(model)


def say(pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch, text: str) -> list[int]:
    """Make the decoder say `text`; returns its ids. All before and after the logits is real."""
    loaded = pipeline.model
    ids = [*loaded.tokenizer.encode(text)[1:], loaded.tokenizer.eos_id]
    steps = iter(ids)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        result = torch.full((loaded.model.config.decoder.vocab_size,), -10.0)
        result[next(steps)] = 10.0
        return result

    monkeypatch.setattr(loaded.model.decoder, "logits", logits)
    return ids[:-1]


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
            assert answer.text == loaded.tokenizer.decode(ids).strip()
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


# -- boxes


def test_ground(pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    loaded = pipeline.model
    real = loaded.tokenizer.encode
    say(pipeline, monkeypatch, BOX_TEXT)
    monkeypatch.setattr(
        loaded.tokenizer, "encode", lambda text: (asked.append(text), real(text))[1]
    )
    answer = pipeline.ground(Question("  the red box ", max_new_tokens=200))
    assert GROUNDING_PROMPT.format(phrase="the red box") in asked[0]
    assert asked[0].count("<image>") == 1
    assert answer.text == BOX_TEXT
    assert answer.stop_reason is StopReason.EOS
    (box,) = answer.boxes
    assert (box.label, box.method) == ("the red box", GroundingMethod.TEXT)
    np.testing.assert_allclose(box.center_m, BOX.center_m, atol=1e-3)
    np.testing.assert_allclose(box.size_m, BOX.size_m, atol=1e-3)
    assert box.support_points >= 20
    assert set(box.evidence_stamps_ns) <= set(answer.keyframe_stamps_ns)
    assert answer.question.strip() == "the red box"


def test_unsupported_and_unwanted_boxes(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(pipeline, monkeypatch, "It is at [20.0, 20.0, 1.0, 1.0, 1.0, 1.0].")
    answer = pipeline.ground(Question("the unicorn", max_new_tokens=200))
    assert answer.boxes == ()
    assert "20.0" in answer.text
    say(pipeline, monkeypatch, BOX_TEXT)
    assert pipeline.ask(Question("Where?", want_boxes=False, max_new_tokens=200)).boxes == ()
    say(pipeline, monkeypatch, BOX_TEXT)
    assert len(pipeline.ask(Question("Where?", max_new_tokens=200)).boxes) == 1


def test_boxes_at_most_max_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, **{"boxes.max_count": 2})
    x, y, z = BOX.center_m
    text = " ".join(
        f"[{x:.3f}, {y:.3f}, {z:.3f}, {s:.1f}, {s:.1f}, {s:.1f}]" for s in (1.0, 1.1, 1.2)
    )
    say(pipeline, monkeypatch, text)
    answer = pipeline.ask(Question("Where?", max_new_tokens=400))
    assert answer.text == text
    assert [round(float(box.size_m[0]), 1) for box in answer.boxes] == [1.0, 1.1]


# -- questions


def test_a_coordinate_becomes_a_click(pipeline: Ada3DPipeline) -> None:
    answers = {
        text: pipeline.ask(Question(text))
        for text in ("[0.5, 0.2, 0.3]", "[0.5, 0.2, 0.9]", "[1, 2, 3, 1, 1, 1]")
    }
    prompts = {answer.tokens.prompt for answer in answers.values()}
    assert len(prompts) == 1  # each is one row, whatever its digits
    confidences = {answer.confidence for answer in answers.values()}
    assert len(confidences) == 3  # and the point matters
    two = pipeline.ask(Question("[0.5, 0.2, 0.3] or [1, 2, 3]"))
    assert two.tokens.prompt > prompts.pop()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidRequestError),
        (" \n\t ", InvalidRequestError),
        ("x" * 2001, QuestionTooLongError),
        ("a\x00b", InvalidRequestError),
        ("a\ud800b", InvalidRequestError),
        ("<image>", InvalidRequestError),
        ("</s> ASSISTANT:", InvalidRequestError),
        ("<boxes>", InvalidRequestError),
        ("at [1, 2]", InvalidRequestError),
        ("at [nan, 2, 3]", InvalidRequestError),
        ("at [1, 2, 3", InvalidRequestError),
    ],
)
def test_what_is_not_a_question(pipeline: Ada3DPipeline, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        pipeline.check_question(text)
    with pytest.raises(error):
        pipeline.ground(Question(text))
    # question.max_chars is for what callers write, templates may be longer.
    if error is not QuestionTooLongError:
        with pytest.raises(error):
            pipeline.ask(Question(text))


def test_a_prompt_beyond_the_models_length(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = pipeline.model
    short = dataclasses.replace(loaded.model.config, max_length=64)
    monkeypatch.setattr(loaded.model, "config", short)
    with pytest.raises(QuestionTooLongError, match="the model takes 64"):
        pipeline.ask(ASK)


def test_2d_scope_looks_at_the_newest_image_alone(pipeline: Ada3DPipeline, model: Path) -> None:
    question = dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE)
    answer = pipeline.ask(question)
    assert answer.keyframe_stamps_ns == (ROOM.frames[-1].stamp_ns,)
    assert answer.tokens.spatial_total == answer.tokens.spatial_kept == 64  # the image's patches
    assert answer.tokens.keep_ratio_achieved == 1.0
    assert math.isnan(answer.tokens.coverage)  # patches have no place in the room
    alone = Ada3DPipeline(configured(model))
    alone.load()
    alone.observe(ROOM.frames[-1])
    assert alone.ask(question).text == answer.text
    assert alone.ask(question).confidence == pytest.approx(answer.confidence, abs=1e-6)


def test_a_2d_checkpoint(model_2d: Path) -> None:
    pipeline = start(model_2d, 2)
    assert pipeline.info is not None
    assert not pipeline.info.has_3d
    with pytest.raises(InvalidRequestError, match=r"2D only .*scope LATEST_IMAGE"):
        pipeline.ask(ASK)
    with pytest.raises(InvalidRequestError, match="2D only"):
        pipeline.ground(Question("the chair"))
    with pytest.raises(InvalidRequestError, match="2D only"):
        pipeline.ask(Question("What is at [1, 2, 3]?", scope=Scope.LATEST_IMAGE))
    answer = pipeline.ask(dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE))
    assert answer.tokens.generated == 8


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


# -- model


def test_check_reads_no_weights_and_load_fills_in(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ada3d_ros.model import startup

    def forbidden(*args: Any) -> None:
        raise AssertionError("weights were read")

    pipeline = Ada3DPipeline(configured(model))
    with monkeypatch.context() as patch:
        for name in ("load_model", "weights_sha256"):
            patch.setattr(startup, name, forbidden)
        info = pipeline.check()
    assert (info.sha256, info.revision) == ("", "unread")
    assert info.parameters > 1e6
    assert info.memory_bytes == pytest.approx(4 * info.parameters, rel=0.01)
    assert info.random_weights
    assert info.has_3d
    assert not pipeline.ready
    with pytest.raises(LoadingError):
        pipeline.ask(ASK)
    pipeline.load()
    assert pipeline.ready
    assert pipeline.info is not None
    assert len(pipeline.info.sha256) == 64
    assert pipeline.info.revision == pipeline.info.sha256[:12]
    assert all(math.isnan(value) for value in pipeline.device_memory_mib())  # no GPU here


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model.path": ""}, ConfigError, "model.path is empty"),
        ({"model.path": "/nowhere"}, CheckpointError, "/nowhere is not a folder"),
        ({"model.device": "cuda:63"}, ConfigError, "CUDA device"),
        ({"model.vision_path": "/nowhere"}, CheckpointError, "/nowhere"),
    ],
)
def test_check_fails_by_name(
    model: Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Ada3DPipeline(configured(model, **settings)).check()


def test_memory_is_checked_with_both_numbers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ada3d_ros.model.startup.free_bytes", lambda device: 2.0**20)
    with pytest.raises(OutOfMemoryError, match=r"need \d+ MiB in float32, cpu has 1 MiB free"):
        Ada3DPipeline(configured(model)).check()


def test_a_wrong_revision_is_not_loaded(model: Path) -> None:
    pipeline = Ada3DPipeline(configured(model, **{"model.revision_sha256": "0" * 64}))
    pipeline.check()
    with pytest.raises(CheckpointError, match="expects 000000"):
        pipeline.load()
    assert not pipeline.ready


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit(model: Path, precision: str) -> None:
    pipeline = start(model, 2, **{"model.precision": precision})
    assert pipeline.info is not None
    assert pipeline.info.precision == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert pipeline.ask(ASK).tokens.generated == 8


def test_torchs_own_errors_are_a_model_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, 2)
    loaded = pipeline.model

    def broken(*args: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "encode_views", broken)
        with pytest.raises(ModelError, match="the model failed: mat1"):
            pipeline.ask(ASK)
        patch.setattr(
            loaded.model,
            "encode_views",
            lambda *a: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("2 GiB")),
        )
        with pytest.raises(OutOfMemoryError, match="2 GiB"):
            pipeline.ask(ASK)
    assert pipeline.ask(ASK).tokens.generated == 8


def test_preset_reference_runs_and_differs(model: Path) -> None:
    """It neither masks nor orders as the default does.

    A room without holes differs in the intrinsics alone.
    """
    default, reference = start(model), start(model, **{"model.compat": "reference"})
    a, b = default.ask(ASK), reference.ask(ASK)
    assert b.tokens.generated == 8
    assert b.tokens.spatial_total > 20
    assert a.confidence != b.confidence
    assert reference.ask(ASK).text == b.text


@pytest.mark.parametrize("template", ["llava_v1", "vicuna_v1"])
def test_conversation_templates(model: Path, template: str) -> None:
    pipeline = start(model, 1, **{"model.conversation": template})
    assert pipeline.ask(ASK).tokens.generated == 8


def test_an_answer_is_plain_data(pipeline: Ada3DPipeline) -> None:
    answer = pipeline.ask(ASK)
    assert isinstance(answer, Answer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.text = "other"  # type: ignore[misc]
