"""A small checkpoint with random weights, and a copy of it that a test may spoil."""

import shutil
from pathlib import Path

import pytest

from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from test.support.checkpoints import SMALL


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=3, config=SMALL)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))
