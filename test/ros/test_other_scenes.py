"""Scenes beside the one in use, while others let go of them: no model outlives its node's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.ros.other_scenes import OtherScenes


class Pipeline:
    """As much of one as is looked at. model: shared by those beside it."""

    def __init__(self, model: str) -> None:
        self.model, self.config, self.scene = model, object(), ""

    def beside(self) -> Pipeline:
        other = Pipeline(self.model)
        other.config = self.config
        return other

    def load_scene(self, scene: str) -> None:
        self.scene = scene

    def set_config(self, config: object) -> None:
        self.config = config


class Store:
    """Counts what is read; `meanwhile` is called in the middle of it."""

    def __init__(self) -> None:
        self.read_count = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def read(self, name: str) -> Any:
        self.read_count += 1
        self.meanwhile()
        return SimpleNamespace(scene=name, objects=None)


def opened(store: Store) -> Any:
    return OtherScenes(store.read)


def test_it_is_opened_once_until_it_is_written_again() -> None:
    store, node = Store(), Pipeline("3B")
    others = opened(store)
    first = others.pipeline_of("hall", node, 1)
    assert (first.scene, first.model) == ("hall", "3B")
    node.config = object()
    assert others.pipeline_of("hall", node, 1) is first
    assert first.config is node.config
    assert others.pipeline_of("hall", node, 2) is not first
    assert store.read_count == 2


def test_only_the_last_two_stay_open() -> None:
    store, node = Store(), Pipeline("3B")
    others = opened(store)
    for name in ("hall", "attic", "hall", "cellar", "hall"):
        others.pipeline_of(name, node, 1)
    assert store.read_count == 3
    others.pipeline_of("attic", node, 1)
    assert store.read_count == 4


def test_another_model_never_answers_with_the_one_before() -> None:
    store = Store()
    others = opened(store)
    others.pipeline_of("hall", Pipeline("3B"), 1)
    assert others.pipeline_of("hall", Pipeline("7B"), 1).model == "7B"
    assert store.read_count == 2


@pytest.mark.parametrize("let_go", ["clear", "forget"])
def test_what_was_let_go_while_it_was_read_is_not_kept(let_go: str) -> None:
    """The question that wanted it has it; after that it goes, and its weights with it."""
    store, node = Store(), Pipeline("7B")
    others = opened(store)
    store.meanwhile = lambda: others.clear() if let_go == "clear" else others.forget("hall")
    pipeline = others.pipeline_of("hall", node, 1)
    assert pipeline.scene == "hall"
    rest = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert rest() is None

    store.meanwhile = lambda: None
    others.pipeline_of("hall", node, 1)
    assert store.read_count == 2
