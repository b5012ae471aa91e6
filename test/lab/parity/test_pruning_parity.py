"""Recorded runs of FastV and PyramidDrop, numbers of AdaToken-3D; every comparison can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.parity.comparison import Row
from ada3d_ros.lab.parity.parity import main, run_parity


def rows_of(path: Path) -> list[Row]:
    results = list(run_parity(path))
    assert not [result for result in results if isinstance(result, Ada3DError)]
    return [result for result in results if isinstance(result, Row)]


def cases(golden_dir: Path, method: str) -> list[Path]:
    found = sorted((golden_dir / method).glob("case_*/"))
    assert found
    return found


def copied(source: Path, target: Path) -> Path:
    folder = Path(shutil.copytree(source, target / source.parent.name / source.name))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize("method", ["fastv", "pdrop"])
def test_every_recorded_value_passes(golden_dir: Path, method: str) -> None:
    for case in cases(golden_dir, method):
        rows = rows_of(case)
        assert not [str(row) for row in rows if not row.passed]
        assert all(row.compared for row in rows)
        layers = json.loads((case / "config.json").read_text())["num_hidden_layers"]
        names = {row.name for row in rows}
        assert names >= {f"positions[{layer}]" for layer in range(layers)}
        assert names >= {
            "stage0.kept_spatial",
            "stage0.scores",
            "prefill_logits",
            "step_logits",
            "greedy_tokens",
        }
        assert names >= {"kv_length_per_layer", "decode_positions"}


def _changed(value: Any) -> Any:
    """The same JSON with the last number of each list raised by one."""
    if isinstance(value, dict):
        return {key: _changed(item) for key, item in value.items()}
    if isinstance(value, list) and value:
        return (
            [*value[:-1], _changed(value[-1])]
            if isinstance(value[-1], (list, dict))
            else [*value[:-1], value[-1] + 1]
        )
    return value


@pytest.mark.parametrize("method", ["fastv", "pdrop"])
def test_every_check_can_fail(golden_dir: Path, tmp_path: Path, method: str) -> None:
    case = copied(cases(golden_dir, method)[0], tmp_path)
    expected = json.loads((case / "expected.json").read_text())
    (case / "expected.json").write_text(json.dumps(_changed(expected)))
    arrays = load_file(case / "expected.safetensors")
    for array in arrays.values():
        array.view(-1)[-1] += 2e-3
    save_file(arrays, case / "expected.safetensors")
    rows = rows_of(case)
    passed = [str(row) for row in rows if row.passed]
    last_stage = len(expected["stages"]) - 1  # only the last of a list of stages is changed
    assert [
        line for line in passed if not any(f" stage{n}.kept" in line for n in range(last_stage))
    ] == []
    assert main([str(case), "--quiet"]) == 1


def test_another_parameter_fails(golden_dir: Path, tmp_path: Path) -> None:
    """The case's own K and R decide: with others the recorded indices are not met."""
    case = copied(cases(golden_dir, "fastv")[0], tmp_path)
    inputs = json.loads((case / "inputs.json").read_text())
    (case / "inputs.json").write_text(json.dumps(inputs | {"fastv_k": inputs["fastv_k"] + 1}))
    assert {row.name for row in rows_of(case) if not row.passed} >= {
        "kv_length_per_layer",
        "tokens_per_layer",
    }
    (case / "inputs.json").write_text(json.dumps(inputs | {"method": "other"}))
    assert main([str(case)]) == 2


def test_adatoken_numbers(golden_dir: Path, tmp_path: Path) -> None:
    folder = golden_dir / "adatoken"
    rows = rows_of(folder)
    assert not [str(row) for row in rows if not row.passed]
    assert all(("official" in row.name) == (not row.compared) for row in rows)
    names = {row.name for row in rows if row.compared}
    assert names >= {
        "S_self",
        "S_sp",
        "S_ss",
        "S_self (log-sum-exp)",
        "F",
        "S_cross",
        "INF",
        "I_norm",
    }
    assert names >= {"mean_0.2.O", "mean_0.3.counts_N1000", "mean_0.414.oracle_loss"}


def test_every_adatoken_check_can_fail(golden_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_dir / "adatoken", tmp_path / "adatoken"))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    path = sorted(folder.glob("case_*_expected.json"))[0]
    data = json.loads(path.read_text())
    reading = data["derived_paper_reading"]
    for name in ("S_self", "S_sp", "S_ss", "F", "S_cross", "INF", "I_norm"):
        reading[name][-1] += 2e-4
    for schedule in reading["schedules"].values():
        schedule["loss"] += 2e-3
        schedule["oracle_loss"] += 2e-3
        schedule["O"][-1] += 2e-2
        schedule["counts_N1000"][-1] += 1
    path.write_text(json.dumps(data))
    label = f"adatoken/{path.name.removesuffix('_expected.json')}"
    rows = [row for row in rows_of(folder) if row.case == label and row.compared]
    assert rows
    assert [str(row) for row in rows if row.passed] == []


def test_a_folder_of_methods_and_a_damaged_case(
    golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(golden_dir / "pdrop"), "--quiet"]) == 0
    case = copied(cases(golden_dir, "pdrop")[0], tmp_path)
    (case / "weights.safetensors").unlink()
    assert main([str(tmp_path)]) == 2
    assert "weights.safetensors cannot be read" in capsys.readouterr().out
