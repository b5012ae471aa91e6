"""One small random model, one whole run of `ada3d analyze` on it, and what the run was made of."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ada3d_ros.config import AgentConfig
from ada3d_ros.lab.analysis.analyze import main, unpruned_prompts
from ada3d_ros.lab.analysis.asked_rooms import AskedScene
from ada3d_ros.lab.evaluation.scenes import VoxelScene, load_for, read_voxel_scene
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.config import DecoderConfig, LlavaConfig
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.types import PromptSequence

QUESTIONS = ("What is in the room?", "Find the chair.")


@pytest.fixture(scope="session")
def config() -> LlavaConfig:
    """Four layers with grouped queries, views of 16 patches."""
    vision = dataclasses.replace(
        TINY_CONFIG.vision, hidden_size=32, intermediate_size=64, image_size=56
    )
    decoder = DecoderConfig(512, 64, 128, num_layers=4, num_heads=4, num_kv_heads=2)
    return dataclasses.replace(TINY_CONFIG, decoder=decoder, vision=vision)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, config: LlavaConfig) -> Path:
    """With `model` and `questions.txt`; the run of `analysed` writes into `out`."""
    path = tmp_path_factory.mktemp("analysis")
    write_random_checkpoint(path / "model", 3, config)
    (path / "questions.txt").write_text("\n".join(QUESTIONS))
    return path


@pytest.fixture(scope="session")
def command(folder: Path) -> Callable[..., list[str]]:
    """Arguments of `ada3d analyze` on the model and the questions."""

    def build(*more: str, source: str = "room:0") -> list[str]:
        model = ["--model", str(folder / "model"), "--device", "cpu", "--precision", "fp32"]
        places = ["--questions", str(folder / "questions.txt"), "--out", str(folder / "out")]
        return [source, *model, *places, *more]

    return build


@pytest.fixture(scope="session")
def analysed(folder: Path, command: Callable[..., list[str]]) -> dict[str, Any]:
    """The JSON of one whole run at stride 1; it must hold no NaN."""
    more = ["--keep-ratio", "0.41,0.3", "--stride", "1", "--answer-tokens", "5", "--seed", "7"]
    strategies = ["--strategy", "adatoken3d,ada-unroped,uniform,voxel_dpp,fastv"]
    assert main(command(*more, *strategies)) == 0

    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (folder / "out" / "analysis.json").read_text()
    data: dict[str, Any] = json.loads(text, parse_constant=reject)
    return data


@pytest.fixture(scope="session")
def arrays(folder: Path, analysed: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of figure 4 of the run."""
    return dict(np.load(folder / "out" / "survival.npz"))


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LoadedModel:
    options = argparse.Namespace(model=folder / "model", device="cpu", precision="fp32")
    return load_for(options)[0]


@pytest.fixture(scope="session")
def scene(loaded: LoadedModel) -> VoxelScene:
    return read_voxel_scene(loaded, "room:0", AgentConfig())


@pytest.fixture(scope="session")
def prompts(loaded: LoadedModel, scene: VoxelScene) -> list[PromptSequence]:
    return unpruned_prompts(loaded, [scene], [AskedScene(QUESTIONS)])
