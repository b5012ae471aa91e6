"""`ada3d train` learns, stops, goes on where it stopped, and exports what the node loads."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.lab.train import batches, gallery, run
from ada3d_ros.lab.train.optimizers import WARMUP_STEPS, learning_rate
from ada3d_ros.lab.train.session import open_session
from ada3d_ros.lab.train.stages import MIX, STAGES, Stage
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.generated import frames_of
from ada3d_ros.lab.world.questions import KINDS
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.pipeline import Ada3DPipeline

SHORT = tuple(
    dataclasses.replace(
        stage,
        rooms=4,
        batch=2,
        questions=min(stage.questions, 5),
        per_object=min(stage.per_object, 2),
        background=min(stage.background, 3),
    )
    for stage in STAGES
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CURRICULA", {"full": SHORT})
    monkeypatch.setattr(run, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(batches, "VAL_ROOMS", 2)
    monkeypatch.setattr(gallery, "ROOMS_AT_ONCE", 2)


def test_every_stage_runs_and_the_export_answers(short: None, tmp_path: Path) -> None:
    out, folder = tmp_path / "run", tmp_path / "model"
    arguments = ["--out", str(out), "--rooms", "4", "--export", str(folder), "--threshold", "0.0"]
    assert run.main(arguments) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {stage.name for stage in STAGES}
    assert all(math.isfinite(value) for line in lines for value in line["val"].values())
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["seen"] == {stage.name: 4 for stage in STAGES}

    settings = {"generation.max_new_tokens": 4, "pruning.strategy": "none"}
    pipeline = Ada3DPipeline(from_flat({"model.path": str(folder)} | settings))
    info = pipeline.check()
    assert info.has_grounding_head
    assert not info.random_weights
    pipeline.load()
    rooms = make_rooms("test", torch.tensor([0]))
    for frame in frames_of(rooms, render(rooms, 96), 0):
        pipeline.observe(frame)
    assert pipeline.scene_state().num_keyframes >= 4


def test_a_run_goes_on_where_it_stopped(short: None, tmp_path: Path) -> None:
    assert run.main(["--out", str(tmp_path), "--stages", "symbolic", "--minutes", "0"]) == 0
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    assert first["seen"] == {}
    assert run.main(["--out", str(tmp_path), "--stages", "symbolic"]) == 0
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert second["seen"] == {"symbolic": 4}
    assert second["optimizers"][0]["state"]
    before, after = (c["modules"]["model"]["decoder.embed_tokens.weight"] for c in (first, second))
    assert not torch.equal(before, after)
    assert run.main(["--out", str(tmp_path), "--stages", "symbolic"]) == 0
    third = torch.load(tmp_path / "state.pt", weights_only=True)  # the stage was done
    assert torch.equal(third["modules"]["model"]["decoder.embed_tokens.weight"], after)


def test_a_stage_that_is_done_leaves_the_state_of_the_next(short: None, tmp_path: Path) -> None:
    """The optimisers of a stage that was stopped are those it goes on with."""
    arguments = ["--out", str(tmp_path), "--rooms", "4", "--stages"]
    assert run.main([*arguments, "symbolic,points"]) == 0
    before = torch.load(tmp_path / "state.pt", weights_only=True)
    assert run.main([*arguments, "symbolic"]) == 0
    after = torch.load(tmp_path / "state.pt", weights_only=True)
    assert before["stage"] == after["stage"] == "points"
    assert len(before["optimizers"][0]["state"]) == len(after["optimizers"][0]["state"]) > 0


def test_another_seed_begins_with_other_weights_and_sees_other_rooms(
    short: None, tmp_path: Path
) -> None:
    sessions = [open_session(tmp_path / str(seed), 1, 4, Workers("cpu"), seed) for seed in (0, 1)]
    first, second = (next(session.model.decoder.parameters()) for session in sessions)
    assert not torch.equal(first, second)
    stage = STAGES[0]
    steps = stage.rooms // stage.batch
    numbers = [[session.batch_of(stage, step) for step in range(steps)] for session in sessions]
    assert numbers == [list(range(steps)), list(range(steps, 2 * steps))]
    losses = [
        batches.batch_loss(sessions[0], SHORT[0], "train", session.batch_of(SHORT[0], 0))[0]
        for session in sessions
    ]
    assert losses[0] != losses[1]


def test_rates_warm_up_and_fall() -> None:
    stage = Stage("x", "images", 100, 1, 1, 1.0, decay=0.4)
    assert learning_rate(stage, 0, 0.0) == pytest.approx(1 / WARMUP_STEPS)
    assert learning_rate(stage, 1000, 0.5) == 1.0
    assert learning_rate(stage, 1000, 0.8) == pytest.approx(0.55)
    assert learning_rate(stage, 1000, 1.0) == pytest.approx(0.1)


def test_the_mix_asks_every_kind() -> None:
    assert set(MIX) == set(KINDS)


def test_an_unknown_stage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--out", str(tmp_path), "--stages", "symbolik"]) == 2
    assert "symbolik" in capsys.readouterr().err
