"""A keyframe and a prompt on their way to the device: copied once, waited for never."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.scene.views import build_multiview
from ada3d_ros.scene.voxel_table import VoxelTable
from ada3d_ros.types import SpatialTokens
from test.cuda.emulator import EmulatedCuda
from test.support.box_room import build_box_room

FRAMES = build_box_room(num_views=3, width=160, height=120).frames
CLICKS = [(0.5, 1.0, 0.2), (1.5, -1.0, 0.4)]
TEXT = "<image>\nfrom <boxes> to <boxes>?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def scene_of(folder: Path, device: str, cuda: EmulatedCuda | None) -> list[torch.Tensor]:
    """Three keyframes encoded, one taken out, and a prompt about them, on the host again."""
    loaded = load_model(folder, device)
    model, vision, table = loaded.model, loaded.model.config.vision, VoxelTable()
    ids = loaded.tokenizer.encode(TEXT)
    mean, std = vision.image_mean, vision.image_std
    views = [build_multiview([f], vision.image_size, "default", mean, std) for f in FRAMES]
    if cuda is not None:
        cuda.counters.clear()
    for name, view in enumerate(views):
        (sums,) = model.view_parts(model.encode_views(view.pixels), view)
        table.add(name, sums)
        if cuda is not None and name == 0:
            # Pixels, points and valid patches; the order by voxel, counts; then into the table.
            assert cuda.counters.uploads <= 8
    table.remove(0)
    tokens: SpatialTokens = model.spatial_tokens(table)
    embeds = model.project(tokens.features)
    prompt = model.build_prompt(ids, embeds, model.encode_clicks(CLICKS), tokens.xyz_m)
    if cuda is not None:
        assert cuda.counters.syncs_in("") == []
    return [t.cpu() for t in (tokens.features, tokens.xyz_m, tokens.num_patches, prompt.embeds)]


def test_nothing_waits_for_the_device_and_all_is_as_on_the_host(
    folder: Path, cuda: EmulatedCuda
) -> None:
    with torch.inference_mode():
        found = scene_of(folder, "cuda:1", cuda)
        expected = scene_of(folder, "cpu", None)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
