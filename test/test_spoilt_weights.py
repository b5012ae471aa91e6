"""Weights of which a part is not finite: an error, however late the model comes upon it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.errors import ErrorCode, ModelError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question
from test.support.pipelines import start

ASK = Question("What is there?")
OTHER = Question("Where is the lamp?")


def ids_of(pipeline: Ada3DPipeline, question: Question, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ids of its answer."""
    ids: list[int] = []
    with monkeypatch.context() as patch:
        decode = pipeline.model.tokenizer.decode
        patch.setattr(
            pipeline.model.tokenizer,
            "decode",
            lambda given: (ids.clear(), ids.extend(given), decode(given))[2],
        )
        pipeline.ask(question)
    return ids


Spoil = Callable[[float], tuple[Ada3DPipeline, int]]


@pytest.fixture(params=[{}, {"generation.temperature": 0.7}], ids=["greedy", "sampled"])
def spoil(request: pytest.FixtureRequest, model: Path, monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """A pipeline in which one token's embedding has this value, and how many tokens of ASK's answer
    are good: that token comes next in it, and in no other prompt or answer.
    """

    def spoilt(value: float) -> tuple[Ada3DPipeline, int]:
        pipeline = start(model, 2, **request.param)
        ids, others = (ids_of(pipeline, question, monkeypatch) for question in (ASK, OTHER))
        others += pipeline.model.tokenizer.encode(f"{ASK.text} {OTHER.text}")
        place = next(i for i in range(1, 7) if ids[i] not in (*others, *ids[:i]))
        with torch.inference_mode():
            pipeline.model.model.decoder.embed_tokens.weight[ids[place]] = value
        return pipeline, place + 1

    return spoilt


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_after_the_first_token(spoil: Spoil, value: float) -> None:
    (pipeline, good), pieces = spoil(value), list[str]()
    hooks = AskHooks(on_text=lambda piece, count: pieces.append(piece))
    with pytest.raises(
        ModelError, match=r"not finite in torch\.float32.*model\.precision"
    ) as caught:
        pipeline.ask(ASK, hooks)
    assert caught.value.code is ErrorCode.MODEL_ERROR
    assert len(pieces) == good  # nothing is streamed that was chosen of NaN
    assert math.isfinite(pipeline.ask(OTHER).confidence)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_in_a_batch_one_is_spoilt_alone(spoil: Spoil, value: float) -> None:
    pipeline, _ = spoil(value)
    alone = pipeline.ask(OTHER)
    bad, good = pipeline.ask_together([(ASK, AskHooks()), (OTHER, AskHooks())])
    assert isinstance(bad, ModelError)
    assert "not finite" in str(bad)
    assert isinstance(good, Answer)
    assert good.text == alone.text
    assert good.confidence == pytest.approx(alone.confidence, rel=1e-5)


def test_infinite_logits_are_no_answer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One logit of all, and not that of the token that is chosen."""
    pipeline = start(model, 2)
    decoder, calls = pipeline.model.model.decoder, [0]
    logits = decoder.lm_head.forward

    def overflown(hidden: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        result = logits(hidden)
        if calls[0] == 3:
            result[..., 7] = -math.inf
        return result

    monkeypatch.setattr(decoder.lm_head, "forward", overflown)
    with pytest.raises(ModelError, match="not finite"):
        pipeline.ask(ASK)
