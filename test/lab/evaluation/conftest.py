"""A small model with random weights and a grounding head, to be evaluated."""

import dataclasses
from pathlib import Path

import pytest
import torch

from ada3d_ros.lab.train.embedded import EMBEDDED_CONFIG
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    decoder = dataclasses.replace(EMBEDDED_CONFIG.decoder, vocab_size=512)
    write_random_checkpoint(
        folder, config=dataclasses.replace(EMBEDDED_CONFIG, decoder=decoder, random_weights=True)
    )
    torch.manual_seed(0)
    save_grounding_head(GroundingHead(decoder.hidden_size), folder, 0.0)
    return folder
