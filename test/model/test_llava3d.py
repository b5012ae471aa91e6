"""The composition: splice, counts, limits, 2D-only models, presets."""

import dataclasses

import numpy as np
import pytest
import torch

from ada3d_ros.errors import ConfigError, InvalidRequestError, NoFramesError, QuestionTooLongError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.model.random_checkpoint import TINY_CONFIG
from ada3d_ros.types import MultiViewInput


def make_model(compat: str = "default", **changes: object) -> Llava3D:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY_CONFIG, **changes)
    assert isinstance(config, LlavaConfig)
    return Llava3D(config, compat).requires_grad_(False).eval()


def make_views(depth_value: float) -> MultiViewInput:
    side, generator = TINY_CONFIG.vision.image_size, torch.Generator().manual_seed(0)
    K = torch.tensor([[100.0, 0.0, 56.0], [0.0, 100.0, 56.0], [0.0, 0.0, 1.0]])[None]
    pixels = torch.randn(1, 3, side, side, generator=generator)
    depth = torch.full((1, side, side), depth_value)
    return MultiViewInput(pixels, depth, K, torch.eye(4)[None], np.zeros(1, np.int64))


def test_splice_puts_rows_in_the_place_of_their_placeholders() -> None:
    model = make_model()
    visual, clicks = torch.randn(3, 192), model.encode_clicks([(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)])
    prompt = model.build_prompt([1, 7, IMAGE_ID, 8, CLICK_ID, CLICK_ID, 9], visual, clicks)
    assert prompt.spatial_span == (2, 5)
    assert prompt.positions.tolist() == list(range(9))
    assert torch.equal(prompt.embeds[2:5], visual)
    assert torch.equal(prompt.embeds[6:8], clicks)
    assert torch.equal(prompt.embeds[[0, 1, 5, 8]], model.decoder.embed(torch.tensor([1, 7, 8, 9])))
    assert not torch.equal(clicks[0], clicks[1])


@pytest.mark.parametrize(
    ("ids", "has_visual", "num_clicks", "numbers"),
    [
        ([1, 5], True, 0, "0 <image>.*1 image"),
        ([1, IMAGE_ID], False, 0, "1 <image>.*0 image"),
        ([1, IMAGE_ID, IMAGE_ID], True, 0, "2 <image>.*1 image"),
        ([1, IMAGE_ID, CLICK_ID], True, 2, "1 <boxes>.*2 coord"),
        ([1, IMAGE_ID, CLICK_ID], True, 0, "1 <boxes>.*0 coord"),
    ],
)
def test_counts_that_differ_are_named(
    ids: list[int], has_visual: bool, num_clicks: int, numbers: str
) -> None:
    """The reference ignores some of these silently and dies of an index error on the others."""
    model = make_model()
    with pytest.raises(InvalidRequestError, match=numbers):
        model.build_prompt(
            ids,
            torch.zeros(2, 192) if has_visual else None,
            model.encode_clicks([(0.0, 0.0, 0.0)] * num_clicks),
        )


def test_long_prompt_is_refused_by_default_and_cut_by_reference() -> None:
    ids, visual = [1, IMAGE_ID, *range(10, 20)], torch.zeros(5, 192)
    with pytest.raises(
        QuestionTooLongError, match=r"16 tokens \(5 of them spatial\), the model takes 8"
    ):
        make_model(max_length=8).build_prompt(ids, visual)
    cut = make_model("reference", max_length=4).build_prompt(ids, visual)
    assert cut.embeds.shape[0] == 4
    assert cut.spatial_span == (1, 4)


def test_views_to_tokens_and_rows() -> None:
    model, views = make_model(), make_views(2.0)
    features = model.encode_views(views.pixels)
    tokens = model.build_spatial_tokens(features, views)
    assert features.shape == (1, 64, 96)
    assert int(tokens.num_patches.sum()) == 64
    assert model.project(tokens.features).shape == (len(tokens.features), 192)
    capped = make_model(token_cap=5).build_spatial_tokens(features, views)
    assert len(capped.features) == 5


def test_scene_without_depth_is_refused_by_default() -> None:
    model = make_model()
    views = make_views(float("nan"))
    with pytest.raises(NoFramesError, match="none of the 1 views has a depth reading"):
        model.build_spatial_tokens(model.encode_views(views.pixels), views)
    zero = make_model("reference")
    tokens = zero.build_spatial_tokens(zero.encode_views(views.pixels), make_views(0.0))
    assert tokens.features.shape[0] == 1  # all patches at the camera centre


def test_two_d_model_says_what_it_cannot_do() -> None:
    model = make_model(has_video_tower=False)
    features = model.encode_views(torch.zeros(1, 3, 112, 112))
    assert model.build_prompt([1, IMAGE_ID, 5], model.project(features[0])).spatial_span == (1, 65)
    with pytest.raises(InvalidRequestError, match="2D only"):
        model.build_spatial_tokens(features, make_views(1.0))
    with pytest.raises(InvalidRequestError, match="2D only"):
        model.encode_clicks([(1.0, 2.0, 3.0)])


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.compat = 'exact'"):
        Llava3D(TINY_CONFIG, "exact")
