"""The cases in the repository: their size, and that the 3D one is a part of the recording."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ada3d_ros.lab.parity.parity import main

ROOT = Path(__file__).resolve().parents[3]
SMALL = "case_e_click"


def weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_golden_folder_stays_small_and_is_not_installed(golden_dir: Path) -> None:
    assert weight(golden_dir / SMALL) <= 2_000_000
    video3dllm = weight(golden_dir / "video3dllm")
    assert video3dllm <= 2_500_000
    assert weight(golden_dir) - video3dllm <= 6_000_000
    assert max(path.stat().st_size for path in golden_dir.rglob("*")) < 5_000_000
    cmake = (ROOT / "CMakeLists.txt").read_text()
    installed = re.findall(r"install\(DIRECTORY ([\w/ ]+?)(?:\s+DESTINATION)", cmake)
    assert installed == ["ada3d_ros/", "launch config"]


def test_the_golden_folder_passes(golden_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(golden_dir), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("237 passed, 0 failed")


def test_the_small_case_is_recorded_again_byte_by_byte(
    golden_dir: Path, shared_dir: Path, tmp_path: Path
) -> None:
    source, target = shared_dir / "golden/case_e", tmp_path / "shared" / SMALL
    (tmp_path / "shared/tokenizer").mkdir(parents=True)
    tokenizer = golden_dir / "tokenizer/tokenizer.model"
    (tmp_path / "shared/tokenizer/tokenizer.model").write_bytes(tokenizer.read_bytes())
    assert main([str(source), "--record", str(target), "--sample", "2", "--quiet"]) == 0
    written = {path.name: path.read_bytes() for path in target.iterdir()}
    assert written == {path.name: path.read_bytes() for path in (golden_dir / SMALL).iterdir()}


def test_every_array_of_the_small_case_is_the_references(
    golden_dir: Path, shared_dir: Path
) -> None:
    """Taken apart by hand: scene s1 is the second of the batch, its sample the third."""
    whole = load_file(shared_dir / "golden/case_e/expected.safetensors")
    part = load_file(golden_dir / SMALL / "expected.safetensors")
    keep, first = whole["attention_mask"][2].bool(), int(whole["batch_offset"][0])
    scene_stop = 149 + len(whole["pooled_features"]) - first  # 149 ids stand before the scene
    by_hand = {
        name: whole[f"s1.{name}"]
        for name in ("pixel_values", "depth_m", "poses_aligned", "intrinsics_adjusted")
    } | {
        "voxel_index": whole["voxel_index"][1],
        "patch_xyz": whole["patch_xyz"][1],
        "pooled_features": whole["pooled_features"][first:],
        "inputs_embeds": whole["inputs_embeds"][2, keep][None],
        "after_scene.logits": whole["logits"][2, keep][None, scene_stop:],
        "greedy_ids": whole["logits"][2, keep][-1:].argmax(dim=-1),
    }
    assert set(part) == set(by_hand)
    assert all(torch.equal(part[name], array) for name, array in by_hand.items())


def test_what_cannot_be_recorded_is_said(
    golden_dir: Path, shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(source: Path, sample: int, target: Path = tmp_path / "new") -> str:
        assert main([str(source), "--record", str(target), "--sample", str(sample)]) == 2
        return capsys.readouterr().out

    batch = shared_dir / "golden/case_e"
    assert "has no scene" in record(batch, 1)  # the 2D image
    assert "has 3, from 0 on" in record(batch, 3)
    assert "exists already" in record(batch, 2, tmp_path)
    assert "no logits of whole prompts" in record(golden_dir / SMALL, 0)
    assert "config.json cannot be read" in record(golden_dir / "metrics", 0)
    assert not (tmp_path / "new").exists()


def test_the_small_case_says_where_it_comes_from(golden_dir: Path) -> None:
    config = json.loads((golden_dir / SMALL / "config.json").read_text())
    assert config["part_of"] == {"case": "case_e", "sample": 2}
    assert config["reference_commit"].startswith("91d979d")
    assert "91d979d" in (golden_dir / "README.md").read_text()
