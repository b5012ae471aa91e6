"""The two forms side by side, on a curriculum of a few rooms."""

import json
from pathlib import Path

import pytest

from ada3d_ros.lab.benchmarks import two_backbones
from ada3d_ros.lab.benchmarks.two_backbones import FITTED, GROUPS, ROWS, main
from ada3d_ros.lab.train.session import BACKBONES
from ada3d_ros.lab.train.stages import HOUR, Stage

TINY = tuple(
    Stage(s.name, s.shows, 2, 2, min(s.questions, 6), s.lr, s.per_object, s.background)
    for s in HOUR
)


def test_both_forms_are_trained_asked_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_backbones, "HOUR", TINY)
    monkeypatch.setattr(two_backbones, "MEASURED_ROOMS", 1)
    monkeypatch.setattr(two_backbones, "ROWS", ROWS[4:5])  # random tokens before the model
    file, folder = tmp_path / "both.json", tmp_path / "runs"
    sizes = ["--rooms", "2", "--scenes", "3", "--pruned", "2", "--out", str(folder)]
    assert main([*sizes, "--only", "video3dllm"]) == 0
    alone = json.loads((folder / "video3dllm.json").read_text())
    assert "pruned" not in alone  # the other form's information is not there yet
    assert main([*sizes, "--json", str(file)]) == 0

    results = json.loads(file.read_text())
    assert list(results["forms"]) == list(BACKBONES)
    assert results["complete"]
    assert results["n"] == {"training_seeds": 1, "rooms": 3, "pruned_rooms": 2}
    for name, form in results["forms"].items():
        assert form["room_passes"] == {stage.name: 2 for stage in TINY}
        assert form["cpu_minutes"] > 0.0
        assert set(form["whole"]) == set(GROUPS)
        assert form["whole"]["existence"]["n"] == 6
        information = form["information"]
        assert len(information["information"]) == 4
        assert information["n"] == 4
        by_name = {row["variant"]: row for row in form["pruned"]}
        assert set(by_name) == {"random before 0.1 seed 0", *(f"{FITTED} {b}" for b in BACKBONES)}
        total = form["tokens"]["spatial_total"]
        kept = by_name["random before 0.1 seed 0"]["tokens"]["spatial_kept"]
        newlines = 80 if name == "video3dllm" else 0
        assert 0.09 * (total - newlines) < kept < 0.11 * total + newlines
    gap = 100.0 * (
        results["forms"]["video3dllm"]["whole"]["color"]["value"]
        - results["forms"]["llava3d"]["whole"]["color"]["value"]
    )
    assert results["points"]["color"] == pytest.approx(gap)


def test_a_run_without_both_forms_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        two_backbones.side_by_side(two_backbones.Plan(tmp_path, 2, 2, 2, 0))
