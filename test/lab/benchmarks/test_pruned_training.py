"""Pruned and unpruned training side by side: what is counted, and that a stopped run goes on."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from ada3d_ros.lab.benchmarks import pruned_training
from ada3d_ros.lab.benchmarks.time_to_accuracy import (
    Point,
    compared,
    compared_by_loss,
    first_reached,
)
from ada3d_ros.lab.train import batches, gallery
from ada3d_ros.model.checkpoint import load_model


def by_loss(*points: tuple[int, float, float]) -> list[Point]:
    """Of (room passes, seconds, loss)."""
    return [Point(rooms, seconds, 0, 1, {}, loss) for rooms, seconds, loss in points]


def curve(*points: tuple[int, float, int]) -> list[Point]:
    """Of (room passes, seconds, right of 100)."""
    return [Point(rooms, seconds, right, 100, {}) for rooms, seconds, right in points]


UNPRUNED = curve((0, 0.0, 10), (20, 10.0, 30), (40, 20.0, 70), (60, 30.0, 60))
PRUNED = curve((0, 0.0, 10), (20, 6.0, 20), (40, 12.0, 60), (60, 18.0, 66))


def test_a_level_is_reached_between_two_validations() -> None:
    assert first_reached(UNPRUNED, 0.3) == pytest.approx((20.0, 10.0))
    assert first_reached(UNPRUNED, 0.5) == pytest.approx((30.0, 15.0))
    assert first_reached(UNPRUNED, 0.1) == (0.0, 0.0)
    assert first_reached(UNPRUNED, 0.71) is None


def test_what_is_saved_is_of_seconds_at_the_same_accuracy() -> None:
    row = compared(UNPRUNED, PRUNED, 0.5)
    assert row["unpruned"] == pytest.approx({"rooms": 30.0, "seconds": 15.0})
    assert row["pruned"] == pytest.approx({"rooms": 35.0, "seconds": 10.5})
    assert row["saved"] == pytest.approx(0.3)
    never = compared(UNPRUNED, PRUNED, 0.7)
    assert never["pruned"] is None
    assert never["saved"] is None
    at_once = compared(UNPRUNED, PRUNED, 0.05)
    assert at_once["saved"] is None  # nothing was needed that could be saved


def test_losses_are_compared_where_the_unpruned_copy_was_validated() -> None:
    """From its third validation on, where one was noted."""
    unpruned = by_loss((0, 0.0, 3.0), (20, 10.0, 2.0), (40, 20.0, 1.0), (60, 30.0, 0.5))
    pruned = by_loss((0, 0.0, math.nan), (20, 6.0, 2.0), (40, 12.0, 1.5), (60, 18.0, 0.5))
    first, second = compared_by_loss(unpruned, pruned)
    assert first["level"] == 1.0
    assert first["unpruned"] == {"rooms": 40.0, "seconds": 20.0}
    assert first["pruned"] == {"rooms": 50.0, "seconds": 15.0}
    assert first["saved"] == pytest.approx(0.25)
    assert second["saved"] == pytest.approx(0.4)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    start = tuple(
        dataclasses.replace(stage, rooms=4, batch=2, questions=4) for stage in pruned_training.START
    )
    measured = dataclasses.replace(pruned_training.MEASURED, rooms=8, questions=4)
    monkeypatch.setattr(pruned_training, "START", start)
    monkeypatch.setattr(pruned_training, "MEASURED", measured)
    monkeypatch.setattr(pruned_training, "VAL_ROOMS", 2)
    monkeypatch.setattr(pruned_training, "VALIDATE_EVERY", 2)
    monkeypatch.setattr(pruned_training, "TRIALS", (1,))
    monkeypatch.setattr(pruned_training, "TRIAL_STEPS", 2)
    monkeypatch.setattr(batches, "VAL_ROOMS", 2)
    monkeypatch.setattr(gallery, "ROOMS_AT_ONCE", 2)


def test_both_copies_learn_side_by_side_and_a_stopped_run_goes_on(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after three steps of four, two of them saved: these are not trained again."""
    trained: list[tuple[str, int]] = []
    plainly = pruned_training.train_step

    def noted(copy: pruned_training.Copy, step: int, first: int) -> None:
        plainly(copy, step, first)
        trained.append((copy.name, step))
        if len(trained) == 6:
            raise OSError("the disk is full")

    monkeypatch.setattr(pruned_training, "train_step", noted)
    file = tmp_path / "result.json"
    arguments = ["--out", str(tmp_path / "run"), "--json", str(file), "--seeds", "3"]
    assert pruned_training.main(arguments) == 2
    assert pruned_training.main(arguments) == 0
    first = [("pruned", 0), ("unpruned", 0), ("unpruned", 1), ("pruned", 1)]
    last = [("pruned", 2), ("unpruned", 2), ("unpruned", 3), ("pruned", 3)]
    assert trained == [*first, *last[:2], *last]

    result = json.loads(file.read_text())
    (seed,) = result["seeds"]
    assert result["complete"]
    assert seed["seed"] == 3
    assert sum(result["retention"]) / len(result["retention"]) == pytest.approx(0.41, abs=0.01)
    for name in ("unpruned", "pruned"):
        points = seed["points"][name]
        assert [point["rooms"] for point in points] == [0, 4, 8]
        assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(points))
        assert points[0]["asked"] == 8 == sum(n for _, n in points[0]["by_kind"].values())
        assert points[0]["loss"] > points[1]["loss"] > points[2]["loss"] > 0.0
        assert seed["step_s"][name]["n"] == 4
        loaded = load_model(tmp_path / "run" / "seed3" / name / "model")
        assert loaded.head is not None
    (trial,) = result["trials"]
    assert trial["step_ratio"]["n"] == 2
    assert trial["flop_ratio"] == trial["flops"]["pruned"] / trial["flops"]["unpruned"] < 0.7


def test_both_copies_begin_alike_and_part(short: None, tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--json", str(tmp_path / "r.json"), "--seeds", "0"]
    assert pruned_training.main(arguments) == 0
    start = torch.load(tmp_path / "start" / "state.pt", weights_only=True)
    first = start["modules"]["model"]["decoder.embed_tokens.weight"]
    ends = [
        torch.load(tmp_path / "seed0" / name / "state.pt", weights_only=True)
        for name in ("unpruned", "pruned")
    ]
    after = [end["modules"]["model"]["decoder.embed_tokens.weight"] for end in ends]
    assert not torch.equal(first, after[0])
    assert not torch.equal(after[0], after[1])
    towers = [end["modules"]["model"]["vision.embeddings.class_embedding"] for end in ends]
    shipped = pruned_training.load_model(pruned_training.embedded_model_path()).model.vision
    assert torch.equal(towers[0], towers[1])
    assert torch.equal(towers[0], shipped.state_dict()["embeddings.class_embedding"].float())


def test_a_ratio_out_of_range_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path), "--json", str(tmp_path / "r.json"), "--keep-ratio", "1.5"]
    assert pruned_training.main(options) == 2
    assert "--keep-ratio 1.5: allowed: above 0 and below 1" in capsys.readouterr().err
