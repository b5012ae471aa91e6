"""LLaVA-NeXT and LLaVA-1.5 against transformers' own models, from the image to greedy ids."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.scene_encoder import encode_image
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.lab.evaluation.field.images import image_frame
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.llava_next.llava_next import LlavaNext
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.model.random_checkpoint import main, write_random_checkpoint
from ada3d_ros.types import SpatialTokens
from test.support.checkpoints import SMALL_2D, SMALL_NEXT, convert, edit_config, new_name, old_name
from test.support.llava_oracle import Oracle, drawn

SEED, NEW = 5, 12
SIZES = [  # (height, width): landscape, portrait, square, tiny, panoramas, hairs, a single pixel
    *((90, 120), (120, 90), (100, 100), (9, 9), (40, 280), (300, 31), (1, 1000), (1000, 1), (1, 1))
]
IDS = torch.randint(3, 500, (14,), generator=torch.Generator().manual_seed(1)).tolist()
IMAGE_AT = 5


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-NeXT in the original layout."""
    return write_random_checkpoint(tmp_path_factory.mktemp("next"), SEED, SMALL_NEXT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-1.5 in the original layout."""
    return write_random_checkpoint(tmp_path_factory.mktemp("plain"), SEED, SMALL_2D)


def tokens_of(model: Llava3D, size: tuple[int, int]) -> SpatialTokens:
    clock = StageClock(model.device, time.perf_counter)
    return encode_image(model, image_frame(drawn(*size), 0), clock)


def compare(model: Llava3D, oracle: Oracle, size: tuple[int, int]) -> float:
    """The largest deviation of a logit, over all positions; asserts equal greedy ids."""
    tokens = tokens_of(model, size)
    inputs = oracle.inputs(IDS, IMAGE_AT, len(tokens.features), drawn(*size))
    with torch.inference_mode():
        ids = [*IDS[:IMAGE_AT], IMAGE_ID, *IDS[IMAGE_AT:]]
        prompt = model.build_prompt(ids, model.project(tokens.features), None, tokens.xyz_m)
        layers = model.config.decoder.num_layers
        hidden = model.decoder.run_layers(0, layers, prompt.embeds[None], prompt.positions)
        actual = model.decoder.logits(hidden)[0]

    output = decode(model.decoder, prefill(model.decoder, prompt), GenerationRequest(NEW))
    expected = oracle.greedy_ids(inputs, NEW)
    assert expected == list(output.token_ids)
    assert len(set(expected)) > 4  # not one token over and over
    return float((actual - oracle.logits(inputs)).abs().max())


@pytest.mark.parametrize("rename", [new_name, old_name])
def test_all_three_layouts_of_llava_next_are_the_same_model(
    following: Path, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    expected = load_model(following)
    actual = load_model(convert(following, tmp_path / "converted", rename))
    assert actual.info.notes == ()
    own = dataclasses.replace(expected.info.config, random_weights=False)  # not said in the other
    assert actual.info.config == own
    ours, theirs = actual.model.state_dict(), expected.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours["newline"].abs().sum() > 0


@pytest.mark.parametrize("size", SIZES)
def test_llava_next_is_that_of_transformers(
    following: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    model = load_model(following).model
    assert isinstance(model, LlavaNext)
    oracle = Oracle(convert(following, tmp_path / "converted"))
    assert compare(model, oracle, size) < 5e-4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aspect", ["square", "pad"])
def test_llava_15_is_that_of_transformers(
    plain: Path, tmp_path: Path, size: tuple[int, int], aspect: str
) -> None:
    """Cropped, as the published llava-hf folders say, and padded, as LLaVA's own config.json."""
    folder = convert(plain, tmp_path / "converted")
    oracle = Oracle(folder, pads=aspect == "pad")
    edit_config(folder, image_aspect_ratio=aspect)
    assert compare(load_model(folder).model, oracle, size) < 5e-4


@pytest.mark.parametrize("backbone", ["llava1.5", "llava_next"])
def test_a_small_one_to_try_out(tmp_path: Path, backbone: str) -> None:
    """`ada3d random-model --backbone`: an image of 4:3 has 2 x 2 crops of 112 px."""
    assert main([str(tmp_path), "--backbone", backbone]) == 0
    loaded = load_model(tmp_path)
    assert loaded.model.name == loaded.info.config.backbone == backbone
    tokens = tokens_of(loaded.llava3d, (120, 160))
    assert len(tokens.features) == (64 if backbone == "llava1.5" else 64 + 12 * (16 + 1))


def test_an_image_that_no_square_can_be_made_of_is_refused(plain: Path, following: Path) -> None:
    """In LLaVA-1.5, whose square would have as many pixels as the long side's; not in crops."""
    with pytest.raises(InvalidRequestError, match=r"3000 x 1 pixels: .* 2000 times"):
        tokens_of(load_model(plain).llava3d, (1, 3000))
    assert len(tokens_of(load_model(following).llava3d, (1, 3000)).features) == 16
