"""Strategies on questions about one view: paired, pooled over seeds, refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.lab.evaluation import image_questions
from ada3d_ros.lab.evaluation.command import main, make_parser
from ada3d_ros.lab.evaluation.image_questions import (
    GROUPS,
    AskedView,
    ask_views,
    compare,
    variants_of,
    views_of,
)
from ada3d_ros.lab.evaluation.selection import RoomSelection
from ada3d_ros.lab.train.embedded import EMBEDDED_CONFIG
from ada3d_ros.lab.world.view_questions import VIEW_KINDS
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.types import Scope

SIDE = EMBEDDED_CONFIG.vision.image_size
ROOMS = RoomSelection("val", 0, 3)


@pytest.fixture(scope="module")
def views() -> list[AskedView]:
    return list(views_of(ROOMS, SIDE, 2))


@pytest.fixture(scope="module", params=["image", "view"])
def results(request: pytest.FixtureRequest, model: Path) -> dict[str, Any]:
    """A model with random weights; one strategy again unpruned, one out of reach."""
    variants = [("fastv", 0.9999), ("adatoken3d", 0.5), ("fastv", 0.1)]
    found, _ = compare(model, {}, ROOMS, 2, request.param, variants)
    return found


def test_views_lie_evenly_along_the_path_and_belong_to_their_rooms(
    views: list[AskedView],
) -> None:
    assert [view.room for view in views] == [0, 0, 1, 1, 2, 2]
    assert views[0].frame.stamp_ns != views[1].frame.stamp_ns
    assert {q.kind for view in views for q in view.questions} == set(VIEW_KINDS)
    again = list(views_of(ROOMS, SIDE, 2))
    assert [view.questions for view in again] == [view.questions for view in views]


def test_a_room_has_only_so_many_views() -> None:
    with pytest.raises(ConfigError, match="--views 9: a room has 8"):
        list(views_of(ROOMS, SIDE, 9))


def test_every_row_is_beside_the_same_questions(results: dict[str, Any]) -> None:
    none, blind, almost, half, refused = results["rows"]
    assert results["n"]["all"] == sum(results["n"][kind] for kind in VIEW_KINDS)
    for row in (none, blind, almost, half):
        assert set(row["metrics"]) == set(GROUPS)
    assert all(metric["points"] == 0.0 for metric in none["metrics"].values())
    assert none["flop_share"] == pytest.approx(1.0)
    assert none["keep_ratio_achieved"] == 1.0
    assert half["keep_ratio_achieved"] == pytest.approx(0.5, abs=0.02)
    assert 0.5 < half["flop_share"] < 0.75  # the text stays
    assert "cannot be met" in refused["refused"]


def test_the_scope_decides_what_is_pruned(results: dict[str, Any]) -> None:
    tokens = results["rows"][0]["tokens"]
    patches = EMBEDDED_CONFIG.vision.patches_per_side**2
    assert (tokens == patches) == (results["scope"] == "image")


def test_views_go_to_the_pipelines_in_turn(
    views: list[AskedView], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    def show(pipeline: Any, frames: Any) -> None:
        shown.append((pipeline, frames[0].stamp_ns))

    def unanswered(*_: Any) -> ModelError:
        return ModelError("no text")

    monkeypatch.setattr(image_questions, "load_room", show)
    monkeypatch.setattr(image_questions, "_outcome", unanswered)
    pipelines: Any = ["a", "b", "c"]
    found = ask_views(pipelines, views, Scope.LATEST_IMAGE)
    assert [name for name, _ in shown] == ["a", "b", "c", "a", "b", "c"]
    assert [stamp for _, stamp in shown] == [view.frame.stamp_ns for view in views]
    assert found.unanswered == sum(len(view.questions) for view in views)
    assert found.right["all"].sum() == 0.0


def test_the_random_control_takes_three_seeds(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    original = image_questions.settings_of

    def noted(strategy: str, keep: float, seed: int) -> dict[str, object]:
        seeds.append((strategy, seed))
        return original(strategy, keep, seed)

    monkeypatch.setattr(image_questions, "settings_of", noted)
    found, _ = compare(model, {}, RoomSelection("val", 0, 1), 1, "image", [("random", 0.4)])
    assert seeds == [("none", 0), ("random", 0), ("random", 1), ("random", 2)]
    assert found["rows"][-1]["seeds"] == [0, 1, 2]


def test_the_embedded_model_knows_colours_of_one_view() -> None:
    """As a scene of one keyframe; in 2D it was never trained, yet is above chance."""
    model, rooms = embedded_model_path(), RoomSelection("val", 0, 6)
    found, _ = compare(model, {}, rooms, 2, "view", [])
    none, blind = found["rows"]
    assert none["metrics"]["color"]["value"] > 0.8
    assert blind["metrics"]["color"]["value"] < 0.4
    assert blind["metrics"]["color"]["points"] < -40


def test_the_command_writes_what_it_found(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "image.json"
    more = ["--scenes", "2", "--views", "1", "--split", "val", "--strategies", "pdrop"]
    more += ["--model", str(model), "--device", "cpu", "--keep", "0.41", "--seed", "4"]
    assert main(["image", *more, "--json", str(file)]) == 0
    data = json.loads(file.read_text())
    assert [row["strategy"] for row in data["rows"]] == ["none", "blind", "pdrop"]
    assert (data["scope"], data["scenes"], data["views"]) == ("image", 2, 2)
    assert data["provenance"]["seed"] == 4
    assert data["by_words"]["color"]["chance"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("more", [["--keep", "0"], ["--keep", "1"], ["--views", "0"]])
def test_a_share_that_is_none_is_refused(more: list[str]) -> None:
    with pytest.raises(ConfigError, match="--keep"):
        variants_of(make_parser().parse_args(["image", *more]))
