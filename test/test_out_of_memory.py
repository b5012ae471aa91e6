"""Memory that ends, anywhere: answered with less, said by name, and nothing is left damaged."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import ErrorCode, ModelError, OutOfMemoryError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.voxel_table import VoxelTable
from ada3d_ros.types import AskHooks, Question, Scope, StopReason
from test.support.pipelines import (
    ASK,
    MANY,
    ROOM,
    cache_of,
    exact,
    library,
    settle,
    show,
    start,
    start_background,
    stop_at,
)

CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"
    " to ..."
)
OTHER = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
PRUNED = {"pruning.strategy": "voxel_dpp", "pruning.keep_ratio": 0.6}
STAGES = {  # settings under which a question passes there, module or object, name
    "vision": {},
    "projector": {},
    "prefix": {},
    "cached_prefill": {},
    "cold_prefill": {"cache.mode": "paper"},
    "decode": {},
}


def place(pipeline: Ada3DPipeline, stage: str) -> tuple[Any, str]:
    """What is called at the stage: an object and the name of its method."""
    from ada3d_ros.engine import query_context as module
    from ada3d_ros.engine import streaming as way

    return {
        "vision": (pipeline.model.model, "encode_views"),
        "projector": (pipeline.model.model, "project"),
        "prefix": (ScenePrefix, "step"),
        "cached_prefill": (module, "prefill_question"),
        "cold_prefill": (module, "prefill"),
        "decode": (way, "generate_text"),
        "layers": (pipeline.model.model.decoder, "run_layers"),
    }[stage]


def fail(
    patch: pytest.MonkeyPatch,
    where: tuple[Any, str],
    error: Exception,
    times: float,
    after: int = 0,
) -> list[int]:
    """Raise `error` at so many calls, after `after` right ones; the number of each call."""
    owner, name = where
    real, calls = getattr(owner, name), itertools.count()
    seen: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        seen.append(next(calls))
        if after <= seen[-1] < after + times:
            raise error
        return real(*args, **options)

    patch.setattr(owner, name, call)
    return seen


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("stage", STAGES)
def test_once_is_answered_with_fewer_views(
    model: Path, stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start(model, 5, **STAGES[stage]).ask(ASK)
    pipeline = start(model, 5, **STAGES[stage])
    with monkeypatch.context() as patch:
        fail(patch, place(pipeline, stage), error, 1)
        answer = pipeline.ask(ASK)
    assert answer.keyframe_stamps_ns == (ROOM.frames[2].stamp_ns, ROOM.frames[4].stamp_ns)
    assert answer.stamp_ns == ROOM.frames[4].stamp_ns
    assert not answer.scene_cached
    assert answer.text
    again = pipeline.ask(ASK)
    assert (again.text, again.confidence) == (expected.text, expected.confidence)
    assert again.scene_cached == expected.scene_cached
    assert again.keyframe_stamps_ns == expected.keyframe_stamps_ns


@pytest.mark.parametrize("stage", STAGES)
def test_twice_is_answered_with_less_of_them(
    model: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**STAGES[stage], **PRUNED}
    expected = start(model, 5, **settings).ask(ASK)
    pipeline = start(model, 5, **settings)
    with monkeypatch.context() as patch:
        fail(patch, place(pipeline, stage), CUDA, 1 if stage in ("prefix", "cached_prefill") else 2)
        if stage in ("prefix", "cached_prefill"):  # the second try goes without the cached scene
            fail(patch, place(pipeline, "cold_prefill"), CUDA, 1)
        answer = pipeline.ask(ASK)
    assert len(answer.keyframe_stamps_ns) == 2
    assert answer.keyframe_stamps_ns[-1] == ROOM.frames[4].stamp_ns
    assert answer.tokens.keep_ratio_achieved < 0.2
    again = pipeline.ask(ASK)
    assert (again.text, again.confidence) == (expected.text, expected.confidence)
    assert again.tokens.keep_ratio_achieved == expected.tokens.keep_ratio_achieved


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("stage", STAGES)
def test_always_is_said_by_name(
    model: Path, stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start(model, 5, **STAGES[stage])
    expected = pipeline.ask(ASK)
    pipeline.observe(dataclasses.replace(ROOM.frames[0], stamp_ns=ROOM.frames[-1].stamp_ns + 1))
    fresh = start(model, 5, **STAGES[stage])
    with monkeypatch.context() as patch:
        fail(patch, place(fresh, stage), error, 1e9)
        fail(patch, place(fresh, "cold_prefill"), error, 1e9)
        for _ in range(2):
            with pytest.raises(OutOfMemoryError, match=r"allocate.*keyframe\.max_views") as caught:
                fresh.ask(ASK)
            assert caught.value.code == ErrorCode.OUT_OF_MEMORY
            assert "\n" not in str(caught.value)
    answer = fresh.ask(ASK)
    assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
    assert answer.scene_cached == expected.scene_cached


@pytest.mark.parametrize("stage", STAGES)
def test_another_error_is_the_models_and_leaves_nothing(
    model: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start(model, 5, **STAGES[stage]).ask(ASK)
    pipeline = start(model, 5, **STAGES[stage])
    with monkeypatch.context() as patch:
        calls = fail(patch, place(pipeline, stage), OTHER, 1)
        with pytest.raises(ModelError, match="the model failed: mat1"):
            pipeline.ask(ASK)
        assert len(calls) == 1  # not tried again
    answer = pipeline.ask(ASK)
    assert (answer.text, answer.confidence) == (expected.text, expected.confidence)


@pytest.mark.parametrize("error", [CUDA, CPU, OTHER], ids=["cuda", "cpu", "other"])
@pytest.mark.parametrize("after", range(14))
def test_any_call_of_the_layers(
    model: Path, after: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a first chunk, a later one, or the question: nothing is left of it."""
    pipeline = start_background(model, MANY[:3])
    pipeline.observe(MANY[3])
    layer = pipeline.model.model.decoder.layers[2]
    with monkeypatch.context() as patch:
        fail(patch, (layer.mlp, "forward"), error, 1, after)
        try:
            pipeline.ask(ASK)
        except ModelError:
            assert error is OTHER
    settle(pipeline)
    exact(pipeline, library(model, MANY[:4]))


def test_text_that_was_sent_is_not_taken_back(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, 3)
    expected = pipeline.ask(ASK)
    sent: list[str] = []
    with monkeypatch.context() as patch:
        real = pipeline.model.model.decoder.lm_head.forward

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            if "".join(sent):
                raise CUDA
            return real(hidden)

        patch.setattr(pipeline.model.model.decoder.lm_head, "forward", logits)
        with pytest.raises(OutOfMemoryError):
            pipeline.ask(ASK, AskHooks(on_text=lambda delta, count: sent.append(delta)))
    assert expected.text.startswith("".join(sent).strip())  # once, from its beginning
    assert pipeline.ask(ASK).confidence == expected.confidence


def test_an_image_is_tried_as_often(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = start(model, 2)
    image = dataclasses.replace(ASK, scope=Scope.LATEST_IMAGE)
    expected = pipeline.ask(image)
    with monkeypatch.context() as patch:
        fail(patch, place(pipeline, "cold_prefill"), CUDA, 2)
        assert pipeline.ask(image).confidence == expected.confidence
    with monkeypatch.context() as patch:
        fail(patch, place(pipeline, "vision"), CUDA, 1e9)
        with pytest.raises(OutOfMemoryError):
            pipeline.ask(image)


# -- in the background


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("stage", ["vision", "projector", "prefix", "layers"])
def test_background_steps_give_up_on_this_scene_alone(
    model: Path, stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start_background(model, MANY[:3])
    with monkeypatch.context() as patch:
        calls = fail(patch, place(pipeline, stage), error, 1e9)
        settle(pipeline)
        for _ in range(5):
            assert not pipeline.run_background_step()
        assert len(calls) == 1
    exact(pipeline, library(model, MANY[:3]))
    show(pipeline, MANY[3:4])
    assert settle(pipeline) > 1
    exact(pipeline, library(model, MANY[:4]))


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("pieces", [0, 2, 5])
def test_memory_ends_while_voxels_are_appended(
    model: Path, pieces: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of the active prefix that failed was lost, and questions went on without it."""
    pipeline = start_background(model, MANY[:2])
    settle(pipeline)
    show(pipeline, MANY[2:4])
    for _ in range(pieces):
        pipeline.run_background_step()
    with monkeypatch.context() as patch:
        fail(patch, (pipeline.model.model.decoder.layers[2].mlp, "forward"), error, 1)
        settle(pipeline)
    twin = start_background(
        model, MANY[:2], **{"cache.settle_sec": 60.0, "cache.max_staleness": 1.0}
    )
    settle(twin)
    show(twin, MANY[2:4])
    answer, expected = pipeline.ask(ASK), twin.ask(ASK)
    if answer.scene_staleness > 0.0:
        assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
    show(pipeline, MANY[4:5])
    settle(pipeline)
    exact(pipeline, library(model, MANY[:5]))


def test_another_error_in_the_background_is_said_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = start_background(model, MANY[:2])
    with monkeypatch.context() as patch:
        fail(patch, place(pipeline, "vision"), OTHER, 1e9)
        with pytest.raises(ModelError, match="working ahead failed: mat1"):
            settle(pipeline)
        assert not pipeline.run_background_step()
    exact(pipeline, library(model, MANY[:2]))


@pytest.mark.parametrize("name", ["put", "plus", "at"])
def test_memory_ends_inside_the_voxel_table(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view half put in or taken out would leave wrong voxels for good: the table is as before."""
    from ada3d_ros.scene.voxel_table import VoxelSums

    settings = {"keyframe.max_views": 3}
    pipeline = start_background(model, MANY[:3], **settings)
    settle(pipeline)
    table: VoxelTable = cache_of(pipeline).encoder.table
    before = table.views, table.revision
    show(pipeline, MANY[3:4])  # one goes, one comes
    with monkeypatch.context() as patch:
        fail(patch, (VoxelSums, name), CUDA, 1e9)
        assert not pipeline.run_background_step()
        assert (table.views, table.revision) == before
    exact(pipeline, library(model, MANY[:4], **settings))


# -- stopped


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "voxel_dpp"])
def test_a_question_canceled_while_it_answers(model: Path, strategy: str) -> None:
    settings = {"pruning.strategy": strategy} | (
        {"pruning.keep_ratio": 0.6} if strategy != "none" else {}
    )
    pipeline, fresh = start(model, 4, **settings), start(model, 4, **settings)
    whole = fresh.ask(ASK)
    other = fresh.ask(Question("How many chairs?"))
    for token in range(1, 8):
        answer = pipeline.ask(ASK, stop_at(token))
        assert answer.stop_reason is StopReason.CANCELED
        assert answer.tokens.generated == token
        assert whole.text.startswith(answer.text.rstrip("\N{REPLACEMENT CHARACTER}"))
        next_one = pipeline.ask(Question("How many chairs?"))
        assert (next_one.text, next_one.confidence) == (other.text, other.confidence)


def live_bytes() -> int:
    """Of all tensors that Python knows."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) not in (torch.Tensor, torch.nn.Parameter):
            continue
        # Another test's sparse ones have no storage.
        if thing.device.type == "cpu" and thing.layout is torch.strided:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_nothing_piles_up(model: Path) -> None:
    pipeline = start(model, 0)
    levels: list[int] = []
    for i in range(200):
        for frame in ROOM.frames[:2]:
            pipeline.observe(frame)
        pipeline.ask(ASK, stop_at(1 + i % 3))
        pipeline.reset_scene()
        pipeline.run_background_step()
        if i % 50 == 49:
            levels.append(live_bytes())
    assert len(set(levels)) == 1


def test_memory_is_back_after_200_failures(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each stage in turn, of a build, an append and a question; each ends in an answer or a
    code.
    """
    settings = {"pruning.strategy": "adatoken3d", "cache.prompts": "What is there?"}
    pipeline = start_background(model, **settings)
    stages = ("vision", "projector", "prefix", "layers", "cached_prefill", "decode")
    levels, answered, refused = [], 0, 0
    for i in range(200):
        pipeline.reset_scene()
        pipeline.observe(ROOM.frames[0])
        if i % 2:  # the next keyframe is appended
            settle(pipeline)
        pipeline.observe(ROOM.frames[1])
        with monkeypatch.context() as patch:
            times = 1e9 if i % 5 == 4 else 1
            error = torch.cuda.OutOfMemoryError(str(CUDA))  # one kept would keep its tracebacks
            fail(patch, place(pipeline, stages[i % len(stages)]), error, times, i % 3)
            pipeline.run_background_step()
            try:
                answered += bool(pipeline.ask(ASK, stop_at(1)).tokens.generated)
            except OutOfMemoryError:
                refused += 1
        pipeline.reset_scene()
        pipeline.run_background_step()
        del error
        if i % 50 == 49:
            levels.append(live_bytes())
    assert answered + refused == 200
    assert min(answered, refused) > 5
    assert len(set(levels)) == 1
