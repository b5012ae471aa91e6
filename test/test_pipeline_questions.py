"""What may be asked of the pipeline, and the boxes that come of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.errors import InvalidRequestError, ModelError, QuestionTooLongError
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, GroundingMethod, Question, Scope, StopReason
from test.support.pipelines import ASK, ROOM, configured, start

BOX = ROOM.boxes[0]
BOX_TEXT = f"It is at [{', '.join(f'{v:.3f}' for v in (*BOX.center_m, *BOX.size_m))}]."


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

    monkeypatch.setattr(loaded.model.decoder.lm_head, "forward", logits)
    return ids[:-1]


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
    (prompt,) = (text for text in asked if GROUNDING_PROMPT.format(phrase="the red box") in text)
    assert prompt.count("<image>") == 1
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


@pytest.mark.parametrize("written", ["(0.5, 0.2, 0.3)", "［0.5, 0.2, 0.3］", "(50, 20, 30) cm"])
def test_other_brackets_ask_the_same(pipeline: Ada3DPipeline, written: str) -> None:
    square, other = (
        pipeline.ask(Question(f"What is at {t}?")) for t in ("[0.5, 0.2, 0.3]", written)
    )
    assert (other.text, other.confidence) == (square.text, square.confidence)
    assert other.tokens == square.tokens


@pytest.mark.parametrize("strategy", ["none", "cond_dpp"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_ends_of_lines_ask_the_same(model: Path, strategy: str, end: str) -> None:
    pipeline = start(model, 2, **{"pruning.strategy": strategy})
    lines = "Is there a chair", "near the table?"
    plain, other = (pipeline.ask(Question(between.join(lines))) for between in ("\n", end))
    assert (other.text, other.confidence) == (plain.text, plain.confidence)
    assert other.tokens == plain.tokens


def test_a_phrase_with_ends_of_lines_is_found_as_another(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(pipeline, monkeypatch, BOX_TEXT)
    (box,) = pipeline.ground(Question("the red\r\nbox\r", max_new_tokens=200)).boxes
    assert box.label == "the red\nbox"


def test_control_characters_of_an_answer_reach_nobody(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    hooks = AskHooks(on_text=lambda piece, count: pieces.append(piece))
    say(pipeline, monkeypatch, "a chair\0 and\x1b[2J a table\r\nor\x85 two")
    answer = pipeline.ask(Question("What?", max_new_tokens=99), hooks)
    assert answer.text == "".join(pieces).strip() == "a chair and[2J a table\nor two"
    say(pipeline, monkeypatch, "\0\0\x1b\0")
    with pytest.raises(ModelError, match="the model gave no text"):
        pipeline.ask(Question("What?", max_new_tokens=99))


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
        ("at (1.5, nan, 3)", InvalidRequestError),
        ("at (1,5, 2,0, 3,1)", InvalidRequestError),
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
