"""A small checkpoint with random weights, and a copy of it that a test may spoil."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from ada3d_ros.model.config import DecoderConfig, VisionConfig
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint

SMALL = dataclasses.replace(
    TINY_CONFIG,
    decoder=DecoderConfig(512, 32, 48, 2, 4, 2),
    vision=VisionConfig(16, 24, 3, 2, image_size=28),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=3, config=SMALL)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))
