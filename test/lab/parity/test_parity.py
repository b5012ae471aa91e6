"""The recorded reference, array by array; and that every comparison can fail.

The small case is part of the repository; the large ones are read from the folder beside it.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.parity.comparison import Row, compare
from ada3d_ros.lab.parity.forward import build_prompts, encode_inputs
from ada3d_ros.lab.parity.golden_case import GoldenCase
from ada3d_ros.lab.parity.parity import main, run_parity
from ada3d_ros.lab.parity.reference_engine import reference_generate

SMALL = "case_e_click"
CASES = (SMALL, "case_a", "case_b", "case_d", "case_e")


def rows_of(path: Path) -> list[Row]:
    results = list(run_parity(path))
    assert not [result for result in results if isinstance(result, Ada3DError)]
    return [result for result in results if isinstance(result, Row)]


@pytest.fixture
def golden(golden_dir: Path, request: pytest.FixtureRequest) -> Path:
    """The golden folder that holds the case named by the test's parameter `name`."""
    if (golden_dir / request.node.callspec.params["name"]).is_dir():
        return golden_dir
    return Path(request.getfixturevalue("shared_dir")) / "golden"


def copy_case(golden: Path, name: str, target: Path) -> Path:
    shutil.copytree(golden / "tokenizer", target / "tokenizer")
    shutil.copytree(golden / name, target / name)
    for path in (target / name, *(target / name).iterdir()):
        path.chmod(0o755)
    return target / name


def save_expected(case: Path, tensors: dict[str, torch.Tensor]) -> None:
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(stored, case / "expected.safetensors")


@pytest.mark.parametrize("name", [*CASES, "unit"])
def test_every_recorded_array_passes(golden: Path, name: str) -> None:
    rows = rows_of(golden / name)
    assert not [str(row) for row in rows if not row.passed]
    if name != "unit":
        compared = {row.name for row in rows if row.compared}
        assert compared >= set(load_file(golden / name / "expected.safetensors"))


@pytest.mark.parametrize("name", CASES)
def test_every_check_can_fail(golden: Path, tmp_path: Path, name: str) -> None:
    """Each recorded array is changed in one place by twice its tolerance; each must then fail."""
    case = copy_case(golden, name, tmp_path)
    tolerances = {row.name: row.tolerance for row in rows_of(case)}
    expected = load_file(case / "expected.safetensors")
    changed = [k for k, tensor in expected.items() if tensor.numel() and "attention_mask" not in k]
    for key in changed:
        step = 2 * tolerances[key] + 1e-6 if expected[key].is_floating_point() else 1
        expected[key].view(-1)[0] += step
    save_expected(case, expected)
    rows = {row.name: row for row in rows_of(case)}
    assert not [str(rows[key]) for key in changed if rows[key].passed]
    assert main([str(case), "--quiet"]) == 1


@pytest.mark.parametrize("array", ["raw_rgb", "raw_depth", "poses", "axis_align_matrix", "clicks"])
def test_every_input_of_the_small_case_counts(golden_dir: Path, tmp_path: Path, array: str) -> None:
    """Another picture, depth, pose or click does not give the recorded embeddings and logits."""
    case = copy_case(golden_dir, SMALL, tmp_path)
    inputs = load_file(case / "inputs.safetensors")
    if array in ("raw_rgb", "raw_depth"):
        inputs[array] = inputs[array].flip(1)  # upside down
    else:
        inputs[array] = inputs[array] + 0.1
    save_file({k: t.contiguous() for k, t in inputs.items()}, case / "inputs.safetensors")
    failed = {row.name for row in rows_of(case) if not row.passed}
    assert failed >= {"inputs_embeds", "after_scene.logits", "prefill.logits"}


def test_every_weight_of_the_small_case_counts(golden_dir: Path, tmp_path: Path) -> None:
    """No tensor is stored that no compared array depends on.

    But for the keys' biases: adding the same vector to all keys leaves a softmax as it is.
    """
    case = copy_case(golden_dir, SMALL, tmp_path)
    weights = load_file(case / "weights.safetensors")
    for name in (name for name in weights if not name.endswith("k_proj.bias")):
        changed = weights | {name: weights[name] * 1.5 + 0.1}
        save_file(changed, case / "weights.safetensors")
        failed = {row.name for row in rows_of(case) if not row.passed}
        assert "after_scene.logits" in failed, name


def test_wrong_shape_and_mask_fail(shared_dir: Path, tmp_path: Path) -> None:
    case = copy_case(shared_dir / "golden", "case_e", tmp_path)
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


@pytest.mark.parametrize("name", ["case_a", SMALL])
def test_text_checks_can_fail(golden: Path, tmp_path: Path, name: str) -> None:
    case = copy_case(golden, name, tmp_path)
    text = json.loads((case / "text.json").read_text())
    text |= {"prompt": text["prompt"] + "x", "greedy_text": "y"}
    (case / "text.json").write_text(json.dumps(text))
    data = json.loads((case / "config.json").read_text())
    data["scene"]["n_total_frames"] = 17
    (case / "config.json").write_text(json.dumps(data))
    failed = {row.name for row in rows_of(case) if not row.passed}
    assert failed == {"sample_ids", "input_ids[0]", "prompt[0]", "greedy_text"}


def test_batch_in_another_order_is_recognised(shared_dir: Path, tmp_path: Path) -> None:
    """An unseen batch may have its samples in any order.

    Samples reversed, the scenes' arrays swapped with them.
    """
    case = copy_case(shared_dir / "golden", "case_e", tmp_path)
    inputs = load_file(case / "inputs.safetensors")
    expected = load_file(case / "expected.safetensors")
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


def test_unknown_array_is_listed_with_a_reason(golden_dir: Path, tmp_path: Path) -> None:
    case = copy_case(golden_dir, SMALL, tmp_path)
    expected = load_file(case / "expected.safetensors")
    save_expected(case, expected | {"square.novel": torch.zeros(2), "plain": torch.zeros(2)})
    listed = {row.name: row.note for row in rows_of(case) if not row.compared}
    assert listed["plain"] == "no rule for an array of this name"
    assert listed["square.novel"] == "no rule for an array of this name"


def test_exit_status(golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(golden_dir / SMALL)]) == 0
    assert main([str(tmp_path / "absent")]) == 2
    assert "is not a folder" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2
    assert main([str(golden_dir / "metrics")]) == 2
    case = copy_case(golden_dir, SMALL, tmp_path)
    (case / "weights.safetensors").write_bytes(b"\0" * 20)
    assert main([str(case)]) == 2
    assert "damaged or cut short" in capsys.readouterr().out
    (case / "inputs.safetensors").unlink()
    assert main([str(tmp_path)]) == 2
    assert "inputs.safetensors cannot be read" in capsys.readouterr().out


def test_units_of_another_model_are_not_compared(tmp_path: Path) -> None:
    """Video-3D-LLM's recorder names its files alike; its prompts are no list of ours."""
    (tmp_path / "other/unit").mkdir(parents=True)
    (tmp_path / "other/unit/prompts.json").write_text('{"prompts": [], "encode": []}')
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit/sampling.json").write_text(
        '[{"n_total": 2, "num_frames": 3, "ids": [0, 1, 0]}]'
    )
    rows = rows_of(tmp_path)
    assert [(row.case, row.compared) for row in rows] == [("other", False), ("unit", True)]
    assert rows[1].passed


@pytest.mark.parametrize("name", ["case_a", "case_b"])
def test_reference_engine_gives_the_recorded_tokens(golden: Path, name: str) -> None:
    case = GoldenCase(golden / name)
    prompts, _ = build_prompts(case, encode_inputs(case))
    ids, logits = reference_generate(
        case.model.decoder, prompts[0], len(case.expected["greedy_ids"])
    )
    assert ids == case.expected["greedy_ids"].tolist()
    assert (logits - case.expected["greedy_logits"]).abs().max() < 5e-4
    kept = prefill(case.model.decoder, prompts[0]).kept[0]
    assert kept.shape[0] == len(case.expected["pooled_features"])


def test_reference_engine_gives_the_recorded_logits(golden_dir: Path) -> None:
    case = GoldenCase(golden_dir / SMALL)
    prompts, _ = build_prompts(case, encode_inputs(case))
    ids, logits = reference_generate(case.model.decoder, prompts[0], 1)
    assert ids == case.expected["greedy_ids"].tolist()
    assert (logits - case.expected["after_scene.logits"][:, -1]).abs().max() < 5e-4
