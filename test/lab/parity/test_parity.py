"""The recorded reference, array by array; and that every comparison can fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.parity.golden_case import GoldenCase, build_rows
from ada3d_ros.lab.parity.parity import Row, compare, main, run_parity
from ada3d_ros.lab.parity.reference_engine import reference_generate

CASES = ("case_a", "case_b", "case_d", "case_e")


def rows_of(path: Path) -> list[Row]:
    results = list(run_parity(path))
    assert not [result for result in results if isinstance(result, Ada3DError)]
    return [result for result in results if isinstance(result, Row)]


def copy_case(shared_dir: Path, name: str, target: Path) -> Path:
    shutil.copytree(shared_dir / "golden/tokenizer", target / "tokenizer")
    shutil.copytree(shared_dir / "golden" / name, target / name)
    for path in (target / name, *(target / name).iterdir()):
        path.chmod(0o755)
    return target / name


def save_expected(case: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        case / "expected.safetensors",
    )


@pytest.mark.parametrize("name", [*CASES, "unit"])
def test_every_recorded_array_passes(shared_dir: Path, name: str) -> None:
    rows = rows_of(shared_dir / "golden" / name)
    assert not [str(row) for row in rows if not row.passed]
    if name != "unit":
        compared = {row.name for row in rows if row.compared}
        assert compared >= set(load_file(shared_dir / "golden" / name / "expected.safetensors"))


@pytest.mark.parametrize("name", CASES)
def test_every_check_can_fail(shared_dir: Path, tmp_path: Path, name: str) -> None:
    """Each recorded array is changed in one place by twice its tolerance; each must then fail."""
    case = copy_case(shared_dir, name, tmp_path)
    tolerances = {row.name: row.tolerance for row in rows_of(case)}
    expected = load_file(case / "expected.safetensors")
    for key, tensor in expected.items():
        if tensor.numel() and "attention_mask" not in key:
            tensor.view(-1)[0] += (
                1 if not tensor.is_floating_point() else 2 * tolerances[key] + 1e-6
            )
    save_expected(case, expected)
    rows = {row.name: row for row in rows_of(case)}
    changed = [
        key for key, tensor in expected.items() if tensor.numel() and "attention_mask" not in key
    ]
    assert not [str(rows[key]) for key in changed if rows[key].passed]
    assert main([str(case), "--quiet"]) == 1


def test_wrong_shape_and_mask_fail(shared_dir: Path, tmp_path: Path) -> None:
    case = copy_case(shared_dir, "case_e", tmp_path)
    expected = load_file(case / "expected.safetensors")
    expected["batch_offset"] = expected["batch_offset"][:1]
    expected["s0.depth_m"][0, 0, 0] = float("nan")
    expected["attention_mask"][1, -1] = 1 - expected["attention_mask"][1, -1]
    save_expected(case, expected)
    failed = {row.name for row in rows_of(case) if not row.passed}
    assert {"batch_offset", "s0.depth_m", "attention_mask"} <= failed


def test_another_shape_fails_even_where_it_would_broadcast() -> None:
    assert not compare("case", "depth_m", torch.ones(1, 3), torch.ones(2, 3)).passed
    assert compare("case", "depth_m", torch.ones(2, 3), torch.ones(2, 3)).passed


def test_text_checks_can_fail(shared_dir: Path, tmp_path: Path) -> None:
    case = copy_case(shared_dir, "case_a", tmp_path)
    text = json.loads((case / "text.json").read_text())
    text |= {"prompt": text["prompt"] + "x", "greedy_text": "y"}
    (case / "text.json").write_text(json.dumps(text))
    data = json.loads((case / "config.json").read_text())
    data["scene"]["n_total_frames"] = 17
    (case / "config.json").write_text(json.dumps(data))
    failed = {row.name for row in rows_of(case) if not row.passed}
    assert failed == {"sample_ids", "input_ids[0]", "prompt[0]", "greedy_text"}


def test_batch_in_another_order_is_recognised(shared_dir: Path, tmp_path: Path) -> None:
    """An unseen batch may have its samples in any order: rows reversed, the scenes' arrays swapped
    with them.
    """
    case = copy_case(shared_dir, "case_e", tmp_path)
    inputs, expected = (
        load_file(case / "inputs.safetensors"),
        load_file(case / "expected.safetensors"),
    )
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key].flip(0).contiguous()
    save_file(inputs, case / "inputs.safetensors")
    first = int(expected["batch_offset"][0])
    pooled = expected["pooled_features"]
    expected["pooled_features"] = torch.cat((pooled[first:], pooled[:first]))
    expected["batch_offset"] = torch.tensor([len(pooled) - first, len(pooled)])
    for key in ("voxel_index", "patch_xyz", "inputs_embeds", "attention_mask", "logits"):
        expected[key] = expected[key].flip(0)
    save_expected(case, expected)
    text = json.loads((case / "text.json").read_text())
    (case / "text.json").write_text(json.dumps({key: value[::-1] for key, value in text.items()}))
    assert not [str(row) for row in rows_of(case) if not row.passed]


def test_unknown_array_is_listed_with_a_reason(shared_dir: Path, tmp_path: Path) -> None:
    case = copy_case(shared_dir, "case_d", tmp_path)
    save_expected(
        case,
        load_file(case / "expected.safetensors")
        | {
            "square.novel": torch.zeros(2),
            "plain": torch.zeros(2),
        },
    )
    listed = {row.name: row.note for row in rows_of(case) if not row.compared}
    assert listed == dict.fromkeys(("square.novel", "plain"), "no rule for an array of this name")


def test_exit_status(shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shared_dir / "golden/case_d")]) == 0
    assert main([str(tmp_path / "absent")]) == 2
    assert "is not a folder" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2
    assert main([str(shared_dir / "golden/metrics")]) == 2
    case = copy_case(shared_dir, "case_d", tmp_path)
    (case / "weights.safetensors").write_bytes(b"\0" * 20)
    assert main([str(case)]) == 2
    assert "damaged or cut short" in capsys.readouterr().out
    (case / "inputs.safetensors").unlink()
    assert main([str(tmp_path)]) == 2
    assert "inputs.safetensors cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["case_a", "case_b"])
def test_reference_engine_gives_the_recorded_tokens(shared_dir: Path, name: str) -> None:
    case = GoldenCase(shared_dir / "golden" / name)
    prompts, _ = build_rows(case, case.run_visuals(""), "")
    ids, logits = reference_generate(
        case.model.decoder, prompts[0], len(case.expected["greedy_ids"])
    )
    assert ids == case.expected["greedy_ids"].tolist()
    assert (logits - case.expected["greedy_logits"]).abs().max() < 5e-4
    assert prefill(case.model.decoder, prompts[0]).kept[0].shape[0] == len(
        case.expected["pooled_features"]
    )
