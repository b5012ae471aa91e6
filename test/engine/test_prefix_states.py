"""The prefix cache's states: the docstring's table is the code's, and a cache walks it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ada3d_ros.engine.prefix_cache import TRANSITIONS, PrefixCache, PrefixEvent, PrefixState
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Question
from test.support.pipelines import ASK, ROOM, cache_of, configured

ABSENT, BUILDING, READY, STALE = PrefixState


def test_the_docstring_has_the_table_of_the_code() -> None:
    rows = re.findall(r"\| (\w+) +\| (\w+) +\| (\w+) +\|", PrefixState.__doc__ or "")
    documented = {
        (PrefixState[state], PrefixEvent[event]): PrefixState[following]
        for state, event, following in rows
        if state != "state"
    }
    assert documented == TRANSITIONS
    assert {state for state, _ in TRANSITIONS} == set(PrefixState)
    assert {event for _, event in TRANSITIONS} == set(PrefixEvent)


def background(model: Path, **settings: Any) -> Ada3DPipeline:
    small = {"cache.settle_sec": 0.0, "cache.chunk_tokens": 16, "pruning.strategy": "none"}
    pipeline = Ada3DPipeline(configured(model, **{**small, **settings}), background=True)
    pipeline.load()
    return pipeline


def step_until(pipeline: Ada3DPipeline, done: Callable[[PrefixCache], bool]) -> None:
    for _ in range(300):
        if done(cache_of(pipeline)):
            return
        assert pipeline.run_background_step()
    raise AssertionError("not reached")


def walk(pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The transitions that the cache takes from here on, as they come."""
    seen: list[Any] = []
    cache = cache_of(pipeline)
    go = cache.transition

    def note(event: PrefixEvent) -> None:
        before = cache.state
        go(event)
        seen.append((before, event, cache.state))

    monkeypatch.setattr(cache, "transition", note)
    return seen


def test_a_scene_walks_every_row_of_the_table(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, questions, steps, a failure and a reset: each row is taken, and no other."""
    pipeline = background(model)
    seen = walk(pipeline, monkeypatch)
    cache = cache_of(pipeline)
    pipeline.free_memory()  # ABSENT forgotten
    pipeline.run_background_step()  # no keyframe: nothing to do
    assert cache.state is ABSENT

    # The first build, abandoned for want of memory, then begun again under a changing scene.
    pipeline.observe(ROOM.frames[0])  # ABSENT scene changed
    with monkeypatch.context() as patch:
        step_until(pipeline, lambda cache: cache.state is BUILDING)
        patch.setattr(ScenePrefix, "step", out_of_memory)
        assert not pipeline.run_background_step()  # BUILDING abandoned
    assert cache.state is ABSENT
    pipeline.observe(ROOM.frames[1])
    step_until(pipeline, lambda cache: cache.state is BUILDING)
    pipeline.free_memory()  # BUILDING forgotten
    assert cache.state is ABSENT
    step_until(pipeline, lambda cache: cache.state is BUILDING)
    pipeline.observe(ROOM.frames[2])  # BUILDING scene changed
    step_until(pipeline, lambda cache: cache.active is not None)  # BUILDING finished
    assert cache.state is STALE  # through READY: the scene changed meanwhile

    # Old but usable: appended, rebuilt beside it, abandoned, and finished.
    assert pipeline.ask(ASK).scene_cached
    assert cache.state is STALE
    step_until(pipeline, lambda cache: cache.pending is not None)  # STALE build started
    with monkeypatch.context() as patch:
        patch.setattr(ScenePrefix, "step", out_of_memory)
        assert not pipeline.run_background_step()  # STALE abandoned
    assert cache.state is STALE
    pipeline.observe(ROOM.frames[3])  # STALE scene changed
    step_until(pipeline, lambda cache: cache.state is READY)  # STALE finished
    assert pipeline.cache_report().staleness == 0.0

    # A scene that loses a keyframe and gets it back is held as it is without a build.
    pipeline.free_memory()  # READY forgotten
    assert cache.state is ABSENT
    assert pipeline.ask(ASK).scene_staleness == 0.0
    assert cache.state is READY
    pipeline.observe(ROOM.frames[4])
    pipeline.run_background_step()
    assert cache.state is STALE  # READY scene changed
    pipeline.reset_scene()
    pipeline.run_background_step()  # STALE forgotten
    assert cache.state is ABSENT
    missing = set(TRANSITIONS) - {(before, event) for before, event, _ in seen}
    assert missing == {(STALE, PrefixEvent.CAUGHT_UP)}  # the next test
    assert all(TRANSITIONS[before, event] is after for before, event, after in seen)


def test_a_change_that_leaves_every_voxel_as_it_was_is_caught_up_without_a_build(
    model: Path,
) -> None:
    """A keyframe without depth is a new scene with the same voxels."""
    pipeline = background(model)
    for frame in ROOM.frames[:2]:
        pipeline.observe(frame)
    step_until(pipeline, lambda cache: cache.state is READY)
    builds = pipeline.cache_report().builds
    blind = with_no_depth(ROOM.frames[2])
    assert pipeline.observe(blind) is not None
    answer = pipeline.ask(Question("What is in the room?"))
    assert cache_of(pipeline).state is READY
    assert (answer.scene_staleness, pipeline.cache_report().builds) == (0.0, builds)
    assert answer.scene_version == 3


@pytest.mark.parametrize("state", list(PrefixState))
def test_an_event_that_the_table_does_not_have_raises(model: Path, state: PrefixState) -> None:
    cache = cache_of(background(model))
    for event in PrefixEvent:
        cache.state = state
        if (state, event) in TRANSITIONS:
            cache.transition(event)
            assert cache.state is TRANSITIONS[state, event]
        else:
            with pytest.raises(KeyError):
                cache.transition(event)
            assert cache.state is state


def out_of_memory(*args: Any) -> bool:
    raise QuestionTooLongError("no room")


def with_no_depth(frame: Any) -> Any:
    return dataclasses.replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))
