"""Point, then speak: every way of decoding gives the tokens and places of the slow reference."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.engine.batch import answer_batch
from ada3d_ros.engine.decode import DecodeOutput, decode
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.engine.places import MAX_PLACES, Place
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import CheckpointError, InvalidRequestError, ModelError
from ada3d_ros.grounding import ground_answer
from ada3d_ros.model.grounding_head import save_grounding_head
from ada3d_ros.model.prompt import POINT_TOKENS
from ada3d_ros.types import (
    Answer,
    AskHooks,
    GroundingMethod,
    PromptSequence,
    Question,
    Scope,
    StopReason,
)
from test.support.checkpoints import edit_config
from test.support.pipelines import ASK, OTHER, start, stop_at
from test.support.pointing import (
    EGOCENTRIC,
    POINT,
    POINTING,
    random_head,
    write_pointing_checkpoint,
)
from test.support.slow_pointing import SlowAnswer, slow_answer

LIMIT = 20
THIRD = Question("Describe the room.")


@dataclass
class Recorded:
    """What step 6 of each question got, and the spatial tokens alive in each layer of each walk."""

    asked: list[tuple[QueryContext, SceneContext, PromptSequence, PrefillOutput, DecodeOutput]] = (
        field(default_factory=list)
    )
    alive: list[list[int]] = field(default_factory=list)

    def slow(self, index: int = -1, eight_bits: bool = False) -> SlowAnswer:
        query, context, prompt, prefilled, _ = self.asked[index]
        seen = [kept.tolist() for kept in prefilled.kept]
        everything = [list(range(len(context.embeds)))] * len(seen)
        built = self.alive[: len(seen)]  # the first walk was the scene's
        alive = {"paper": seen, "build": built}.get(context.mode, everything)
        return slow_answer(query.loaded, prompt, seen, alive, LIMIT, eight_bits)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    seen, run_layer = Recorded(), LayerWalk.run_layer

    def record(*args: Any) -> Any:
        seen.asked.append(args)
        return ground_answer(*args)

    def note(walk: LayerWalk) -> None:
        seen.alive.append(walk.kept.tolist())
        run_layer(walk)

    for module in ("pipeline", "asking.together"):
        monkeypatch.setattr(f"ada3d_ros.{module}.ground_answer", record)
    monkeypatch.setattr(LayerWalk, "run_layer", note)
    return seen


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pointing_checkpoint(tmp_path_factory.mktemp("pointing") / "model")


@pytest.fixture(params=["growing", "static"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether buffers grow or are static."""
    static = request.param == "static"
    for module, name, real in (
        ("streaming", "decode", decode),
        ("together", "answer_batch", answer_batch),
    ):
        made = functools.partial(real, static=static)
        monkeypatch.setattr(f"ada3d_ros.engine.{module}.{name}", made)
    return str(request.param)


def same(found: DecodeOutput, slow: SlowAnswer, tolerance_m: float = 2e-4) -> None:
    """Token for token, place for place."""
    assert list(found.token_ids) == slow.token_ids
    assert [place.egocentric for place in found.places] == slow.egocentric

    def close(of: Callable[[Place], tuple[float, ...]], expected: list[list[float]]) -> None:
        got = torch.tensor([of(place) for place in found.places])
        assert torch.allclose(got, torch.tensor(expected), rtol=0, atol=tolerance_m)

    close(lambda place: place.fed_m, slow.fed_m)
    close(lambda place: place.center_m, slow.center_m)
    close(lambda place: place.size_m, slow.size_m)


PRUNED = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "cold": {"cache.mode": "paper"},
    "cold pruned": {"cache.mode": "paper", **PRUNED},
    "cached": {"cache.prune": "none", "cache.chunk_tokens": 16},
    "selected per question": {"cache.prune": "question", **PRUNED},
    "pruned while built": {"cache.prune": "build", **PRUNED},
    "chosen before": {"pruning.strategy": "uniform", "pruning.keep_ratio": 0.5},
}


def begin(model: Path, **settings: Any) -> Any:
    return start(
        model, **{"generation.max_new_tokens": LIMIT, "question.measure": False, **settings}
    )


@pytest.mark.parametrize("name", WAYS)
def test_tokens_and_places_are_those_of_the_reference(
    model: Path, recorded: Recorded, way: str, name: str
) -> None:
    pipeline = begin(model, **WAYS[name])
    answer = pipeline.ask(ASK)
    output = recorded.asked[-1][-1]
    same(output, recorded.slow())
    pointed = [token for token in output.token_ids if token in (POINT, EGOCENTRIC)]
    assert len(answer.places) == len(output.places) == len(pointed) > 3
    assert EGOCENTRIC in pointed
    assert answer.tokens.generated == len(output.token_ids) > len(pointed)


@pytest.mark.parametrize("settings", [{}, PRUNED], ids=["whole", "pruned while built"])
def test_questions_of_a_batch_point_each_for_themselves(
    model: Path, recorded: Recorded, way: str, settings: dict[str, Any]
) -> None:
    """Different chains, of which one ends early; places are those of its own question."""
    pipeline = begin(model, **settings)
    short = Question(OTHER.text, max_new_tokens=6)
    asked = [ASK, short, THIRD]
    pieces: list[list[tuple[str, int]]] = [[] for _ in asked]
    hooks = [AskHooks(on_text=lambda *piece, to=to: to.append(piece)) for to in pieces]
    answers = pipeline.ask_together(list(zip(asked, hooks, strict=True)))
    assert len(recorded.asked) == len(answers)
    chains = set()
    for i, (answer, question) in enumerate(zip(answers, asked, strict=True)):
        assert isinstance(answer, Answer)
        slow, output = recorded.slow(i), recorded.asked[i][-1]
        slow.cut(question.max_new_tokens or LIMIT)
        same(output, slow)
        assert len(answer.places) == len(slow.fed_m) > 0
        assert "".join(text for text, _ in pieces[i]).strip() == answer.text
        assert [count for _, count in pieces[i]][:-1] == list(range(1, len(output.token_ids) + 1))
        chains.add(tuple(map(tuple, slow.center_m)))
    assert len(chains) == 3


def test_a_scene_in_eight_bits(model: Path, recorded: Recorded, way: str) -> None:
    answer = begin(model, **{"cache.kv": "int8"}).ask(ASK)
    assert answer.scene_cached
    same(recorded.asked[-1][-1], recorded.slow(eight_bits=True), tolerance_m=5e-3)
    assert len(answer.places) > 3


def test_a_chain_ends_with_eight_places(model: Path, recorded: Recorded, way: str) -> None:
    answer = begin(model, **{"cache.prune": "none", "generation.max_new_tokens": 40}).ask(ASK)
    ids = recorded.asked[-1][-1].token_ids
    assert len(answer.places) == MAX_PLACES == sum(i in (POINT, EGOCENTRIC) for i in ids)
    assert not {POINT, EGOCENTRIC} & set(ids[-10:])
    assert "<point" not in answer.text


def test_places_lie_in_the_world_frame(model: Path, recorded: Recorded, way: str) -> None:
    """The model sees a floor at zero, with coordinates in a question or not."""
    pipeline = begin(model, **{"world.floor_z": "1.5"})
    for question in (ASK, Question("What is at [1.0, 0.5, 2.0]?")):
        answer = pipeline.ask(replace(question, want_boxes=False))
        query, _, _, _, output = recorded.asked[-1]
        assert query.origin_m == (0.0, 0.0, 1.5)
        same(output, recorded.slow())
        assert len(answer.places) == len(output.places) > 0
        for box, place in zip(answer.places, output.places, strict=True):
            assert box.center_m - place.center_m == pytest.approx([0.0, 0.0, 1.5])
            assert tuple(box.size_m) == place.size_m
            moved = np.array(box.evidence_xyz_m) - np.array(place.evidence_xyz_m)
            assert moved == pytest.approx(np.broadcast_to([0.0, 0.0, 1.5], moved.shape))
            assert sum(box.evidence_weights) <= 1.0 + 1e-5
            assert 0.0 < box.score <= 1.0
            assert box.method is GroundingMethod.HEAD


def test_where_nothing_can_be_pointed_at_no_such_token_is_chosen(
    model: Path, tmp_path: Path, recorded: Recorded, way: str
) -> None:
    """Without a head, or of an image alone."""
    headless = begin(write_pointing_checkpoint(tmp_path, head=False))
    image = begin(model)
    for answer in (headless.ask(ASK), image.ask(replace(ASK, scope=Scope.LATEST_IMAGE))):
        assert answer.places == recorded.asked[-1][-1].places == ()
    for asked in recorded.asked:
        assert not {POINT, EGOCENTRIC} & set(asked[-1].token_ids)
    begin(model).ask(ASK)
    assert recorded.asked[-1][-1].token_ids[0] == POINT  # chosen where it may be


def test_a_stopped_answer_has_the_places_so_far(model: Path, recorded: Recorded) -> None:
    answer = begin(model).ask(ASK, stop_at(4))
    slow = recorded.slow()
    slow.cut(4)
    assert answer.stop_reason is StopReason.CANCELED
    same(recorded.asked[-1][-1], slow)
    assert len(answer.places) == len(slow.fed_m) > 1


def test_sampled_answers_point_alike(model: Path, recorded: Recorded) -> None:
    """The same seed gives the same chain, with buffers that grow or not."""
    pipeline, real = begin(model, **{"generation.temperature": 0.05}), decode
    for static in (False, True, True):
        made = functools.partial(real, static=static)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ada3d_ros.engine.streaming.decode", made)
            pipeline.ask(THIRD)
    first, *others = (asked[-1] for asked in recorded.asked)
    for other in others:
        assert other.token_ids == first.token_ids
        for place, same_place in zip(other.places, first.places, strict=True):
            assert place.center_m == pytest.approx(same_place.center_m, abs=1e-4)
    assert len(first.places) > 1


def test_a_damaged_head_is_named(model: Path, tmp_path: Path) -> None:
    """Alone and in a batch, of which no answer is made up."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    head = random_head(POINTING.decoder.hidden_size)
    head.box[2].bias.fill_(torch.nan)
    save_grounding_head(head, folder, 0.0)
    pipeline = begin(folder)
    with pytest.raises(ModelError, match="grounding head's output is not finite"):
        pipeline.ask(ASK)
    for answer in pipeline.ask_together([(ASK, AskHooks()), (THIRD, AskHooks())]):
        assert isinstance(answer, ModelError)
        assert "grounding head's output is not finite" in str(answer)


def test_no_text_becomes_a_token_that_points(model: Path) -> None:
    pipeline = begin(model)
    tokenizer = pipeline.model.tokenizer
    assert [tokenizer.control_id(piece) for piece in POINT_TOKENS] == [POINT, EGOCENTRIC]
    for piece in POINT_TOKENS:
        for text in (piece, f"a {piece} b", f"{piece}{piece}"):
            assert not {POINT, EGOCENTRIC} & set(tokenizer.encode(text))
        with pytest.raises(InvalidRequestError, match=f"'{piece}', which steers the model"):
            pipeline.ask(Question(f"What is {piece} there?"))
    words = tokenizer.encode("the chair")
    assert tokenizer.decode([words[0], POINT, *words[1:], EGOCENTRIC]) == "the chair"
    assert not any(tokenizer.is_text(token) for token in (POINT, EGOCENTRIC))


def test_a_token_of_text_cannot_point(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    edit_config(folder, ada3d_point_ids=[POINT, 300])
    with pytest.raises(CheckpointError, match="names token 300, which is text"):
        begin(folder)
