"""`ada3d parity` on recorded runs of Video-3D-LLM: all pass, and every check can fail."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.parity.comparison import Row
from ada3d_ros.lab.parity.parity import main, run_parity
from ada3d_ros.lab.parity.video3dllm_case import Video3DCase
from ada3d_ros.lab.parity.video3dllm_reference import build_recorded_views, find_ground

SMALL = "case_c_ground"
CASES = (SMALL, "case_a", "case_b")
EXACT = ("voxel", "coord_voxel", "cropped_rgb_f0")


def rows_of(path: Path) -> list[Row]:
    results = list(run_parity(path))
    assert not [str(result) for result in results if isinstance(result, Ada3DError)]
    return [result for result in results if isinstance(result, Row)]


def failed(path: Path) -> set[str]:
    return {row.name for row in rows_of(path) if not row.passed}


@pytest.fixture
def small(golden_dir: Path, tmp_path: Path) -> Path:
    """A copy of the case within the repository."""
    return copy_of(golden_dir / "video3dllm", SMALL, tmp_path)


def copy_of(golden: Path, name: str, target: Path) -> Path:
    for folder in ("tokenizer", name):
        shutil.copytree(golden / folder, target / folder, copy_function=shutil.copyfile)
    return target / name


def change(path: Path, **tensors: torch.Tensor) -> None:
    """Puts other tensors into a file."""
    held = load_file(path) | tensors
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, path)


def change_json(path: Path, **values: Any) -> None:
    data = json.loads(path.read_text())
    for key, value in values.items():
        first, _, second = key.partition("__")
        if second:
            data[first][second] = value
        else:
            data[first] = value
    path.write_text(json.dumps(data))


# -- all pass


@pytest.mark.parametrize("name", [SMALL, "unit"])
def test_what_the_repository_holds_passes(golden_dir: Path, name: str) -> None:
    folder = golden_dir / "video3dllm" / name
    rows = rows_of(folder)
    assert not [str(row) for row in rows if not row.passed]
    if name != "unit":
        compared = {row.name for row in rows if row.compared}
        assert compared >= set(load_file(folder / "expected.safetensors"))


@pytest.mark.parametrize("name", [*CASES, "unit"])
def test_every_recorded_array_passes(shared_dir: Path, name: str) -> None:
    folder = shared_dir / "golden/video3dllm" / name
    rows = rows_of(folder)
    assert not [str(row) for row in rows if not row.passed]
    if name != "unit":
        compared = {row.name for row in rows if row.compared}
        expected = set(load_file(folder / "expected.safetensors"))
        assert compared >= expected | {"sample_ids", "prompt", "prompt_ids", "greedy_text"}


def test_the_repositorys_part_is_a_true_part_of_the_recording(
    golden_dir: Path, shared_dir: Path
) -> None:
    ours, theirs = golden_dir / "video3dllm", shared_dir / "golden/video3dllm"
    files = [path.relative_to(ours) for path in ours.rglob("*") if path.is_file()]
    assert len(files) == 14
    for file in files:
        if file.suffix == ".safetensors":
            whole = load_file(theirs / file)
            for name, tensor in load_file(ours / file).items():
                assert torch.equal(tensor, whole[name]), (file, name)
        else:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


# -- every check can fail


@pytest.mark.parametrize("name", CASES)
def test_every_array_changed_by_twice_its_tolerance_fails(
    shared_dir: Path, tmp_path: Path, name: str
) -> None:
    case = copy_of(shared_dir / "golden/video3dllm", name, tmp_path)
    tolerances = {row.name: row.tolerance for row in rows_of(case)}
    assert all(tolerances[key] == 0.0 for key in EXACT if key in tolerances)
    expected = load_file(case / "expected.safetensors")
    for key, tensor in expected.items():
        if tensor.dtype == torch.bool:
            tensor.view(-1)[0] = not bool(tensor.view(-1)[0])
        else:
            step = 2 * tolerances[key] or 1  # what is exact holds whole numbers
            tensor.view(-1)[0] += step
    change(case / "expected.safetensors", **expected)
    assert failed(case) >= set(expected)
    assert main([str(case), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("array", "fails"),
    [
        ("raw_rgb", "vision_features"),
        ("raw_depth", "voxel"),
        ("poses", "poses_aligned"),
        ("axis_align_matrix", "poses_aligned"),
        ("intrinsic_depth", "coords_pooled"),
        ("objects", "ground_scores"),
    ],
)
def test_every_input_counts(small: Path, array: str, fails: str) -> None:
    inputs = load_file(small / "inputs.safetensors")
    changed = inputs[array].flip(1) if array.startswith("raw") else inputs[array] + 0.1
    change(small / "inputs.safetensors", **{array: changed})
    assert fails in failed(small)


def test_every_weight_counts(small: Path) -> None:
    """No tensor is stored that no compared array depends on.

    But for the biases of the tower's keys: the same vector on all keys leaves a softmax as it is.
    """
    case = Video3DCase(small)
    model = case.model.requires_grad_(True)
    views = build_recorded_views(case.views, case.config)
    parts = model.view_parts(model.encode_views(views.pixels), views)
    ids = case.ids("ground_input_ids")
    prompt = model.build_prompt(ids, torch.cat([part.features for part in parts]))
    hidden = model.decoder.run_layers(0, 2, prompt.embeds[None], prompt.positions)
    place = find_ground(ids, case.config) + len(prompt.embeds) - len(ids)
    state = model.decoder.norm(hidden)[0, place]
    scores = model.ground_scores(state, case.inputs["objects"], parts)
    weights = torch.randn(len(scores), generator=torch.Generator().manual_seed(0))
    ((scores * weights).sum() + model.decoder.logits(hidden[0, -1]).square().sum()).backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or float(parameter.grad.abs().max()) < 1e-3
    ]
    assert idle == [f"vision.encoder.layers.{i}.self_attn.k_proj.bias" for i in range(3)]


def test_texts_and_choices_can_fail(small: Path) -> None:
    change_json(
        small / "text.json",
        prompt_rendered="x",
        input_ids=[1],
        greedy_text="y",
        ground_prompt_rendered="z",
        ground_input_ids=[2],
        argmax_with_zero_target=0,
        scanrefer_box_index=0,
        multi3drefer_kept_indices_threshold_0_4=[0],
    )
    change_json(small / "config.json", scene__n_total_frames=19)
    assert failed(small) == {
        "sample_ids",
        "prompt",
        "prompt_ids",
        "greedy_text",
        "ground_prompt",
        "ground_prompt_ids",
        "argmax_with_zero_target",
        "scanrefer_box_index",
        "multi3drefer_kept_indices_threshold_0_4",
    }


# -- what is read from the case


def test_the_penalty_is_that_of_the_arrays_name(small: Path) -> None:
    """case_c's greedy answers are the same with 1.05; with 2.0 they are not."""
    expected = load_file(small / "expected.safetensors")
    change(small / "expected.safetensors", greedy_ids_rp200=expected["greedy_ids_rp105"])
    assert failed(small) == {"greedy_ids_rp200"}


def test_depth_scale_and_ranges_are_read(small: Path) -> None:
    change_json(small / "config.json", scene__depth_scale=500)
    assert "coords_pooled" in failed(small)
    depth = load_file(small / "inputs.safetensors")["raw_depth"]
    change(small / "inputs.safetensors", raw_depth=(depth.int() // 2).to(torch.uint16))
    change_json(small / "config.json", scene__depth_scale=500, mm__max_xyz_range=[1, 1, 1])
    case = Video3DCase(small)
    assert (case.config.max_xyz_m, case.views.depth_scale) == ((1.0, 1.0, 1.0), 500)


def test_the_number_of_tower_layers_and_the_special_tokens_are_read(small: Path) -> None:
    change_json(small / "config.json", vision_config__layers_used=2)
    assert "vision_features" in failed(small)
    change_json(small / "config.json", vision_config__layers_used=4)
    with pytest.raises(Ada3DError, match=r"layers\.3\."):
        Video3DCase(small)
    change_json(
        small / "config.json",
        vision_config__layers_used=3,
        mm__coord_token_ids=[5],
        mm__ground_token_ids=[6],
        mm__voxel_size=0.2,
        mm__ground_head_temperature=0.1,
    )
    config = Video3DCase(small).config
    assert (config.coord_id, config.ground_id) == (5, 6)
    assert (config.voxel_size_m, config.ground_temperature) == (0.2, 0.1)


def test_a_geometry_that_is_not_ours_is_said(small: Path) -> None:
    change_json(small / "config.json", geometry__coord_window=26)
    (error,) = run_parity(small)
    assert isinstance(error, Ada3DError)
    assert "geometry.coord_window is 26, ours 27" in str(error)


def test_a_case_without_ground_heads(small: Path) -> None:
    """As case_a and case_b would be without the heads' weights."""
    weights = load_file(small / "weights.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "ground_head" not in name}
    save_file(kept, small / "weights.safetensors")
    assert Video3DCase(small).model.ground is None
    (error,) = [row for row in run_parity(small) if isinstance(row, Ada3DError)]
    assert "no ground heads" in str(error)


def test_unknown_arrays_are_listed_and_damage_is_said(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(small / "expected.safetensors", novel=torch.zeros(2))
    listed = {row.name: row.note for row in rows_of(small) if not row.compared}
    assert listed == {"novel": "no rule for an array of this name"}
    change_json(small / "config.json", llm=None)
    assert main([str(small)]) == 2
    (small / "weights.safetensors").write_bytes(b"\0" * 20)
    assert main([str(small)]) == 2
    assert "damaged or cut short" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "change_to", "name"),
    [
        ("sampling.json", ("uniform", 0, "indices"), "uniform[0]"),
        ("sampling.json", ("max_coverage_pick", 0, "chosen"), "max_coverage_pick[0]"),
        ("boxes.json", ("selection", 0, "multi3drefer_indices"), "multi3drefer[0]"),
        ("prompts.json", ("prompts", 3, "eval_labels"), "prompts[3].eval_labels"),
        ("prompts.json", ("prompts", 0, "train_labels"), "prompts[0].train_labels"),
        ("prompts.json", ("encode", 3, "decoded"), "encode[3].decoded"),
    ],
)
def test_unit_checks_can_fail(
    golden_dir: Path, tmp_path: Path, file: str, change_to: tuple[str, int, str], name: str
) -> None:
    folder = copy_of(golden_dir / "video3dllm", "unit", tmp_path)
    data = json.loads((folder / file).read_text())
    group, index, key = change_to
    data[group][index][key] = data[group][index][key][:-1]
    (folder / file).write_text(json.dumps(data))
    assert failed(folder) == {name}


def test_unit_arrays_can_fail(golden_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(golden_dir / "video3dllm", "unit", tmp_path)
    geometry = load_file(folder / "geometry.safetensors")
    outputs = {k: t + 1e-4 for k, t in geometry.items() if "_out" in k}
    change(folder / "geometry.safetensors", **outputs)
    order = load_file(folder / "max_coverage.safetensors")["order"].flip(0)
    change(folder / "max_coverage.safetensors", order=order)
    assert failed(folder) == {*outputs, "max_coverage.order"}


DAMAGED = {"a list": "[]", "null": "null", "no end": "[" * 100_000, "a word": '"x"'}


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("name", ["config.json", "text.json"])
def test_json_of_another_kind_is_one_sentence(
    small: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (small / name).write_text(DAMAGED[content])
    assert main([str(small)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("ERROR")]) == 1
    assert "1 folder(s) not readable" in lines[-1]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_config", "patch_size", 0),
        ("vision_config", "num_attention_heads", 0),
        ("vision_config", "layer_norm_eps", "x"),
        ("vision_config", "intermediate_size", []),
        ("llm", "num_attention_heads", 0),
        ("mm", "voxel_size", {}),
        ("geometry", "coord_crop_margin", "x"),
    ],
)
def test_a_size_of_nonsense_is_one_sentence(
    small: Path, capsys: pytest.CaptureFixture[str], part: str, key: str, value: object
) -> None:
    data = json.loads((small / "config.json").read_text())
    data[part][key] = value
    (small / "config.json").write_text(json.dumps(data))
    assert main([str(small), "--quiet"]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().out
