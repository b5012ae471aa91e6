"""The composition behind the seam: table, prompt, clicked places, one image, no ground heads."""

import dataclasses

import pytest
import torch

from ada3d_ros.errors import ConfigError, InvalidRequestError, QuestionTooLongError
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.tokens import place_voxels, pool_patches, sine_embedding
from ada3d_ros.scene.floor import Floor
from ada3d_ros.scene.keyframes import SceneSnapshot
from test.support.video3d import CELLS, SMALL_VIDEO3D, encode, flat_frame, small_video3d

PER_FRAME = CELLS * (CELLS + 1)


def test_it_is_a_backbone() -> None:
    model: Backbone = small_video3d()
    assert (model.name, model.reference) == ("video3dllm", False)
    assert model.config.max_spatial_tokens(3) == 3 * PER_FRAME
    (part,) = encode(model, [flat_frame()])
    assert model.config.view_values == part.features.numel() + part.patches.numel()


def test_a_scene_is_its_frames_in_order_and_appending_changes_nothing() -> None:
    model = small_video3d()
    parts = encode(model, [flat_frame(seed=seed) for seed in range(3)])
    table = model.new_table()
    table.add(3, parts[0])
    table.add(5, parts[1])
    first, held = model.spatial_tokens(table), table.hold()
    table.add(7, parts[2])
    whole = model.spatial_tokens(table)
    assert torch.equal(whole.features[: 2 * PER_FRAME], first.features)
    assert torch.equal(whole.features, torch.cat([part.features for part in parts]))
    new, held = model.new_tokens(table, held)
    assert torch.equal(new.features, parts[2].features)
    assert len(held) == 3
    nothing, _ = model.new_tokens(table, held)
    assert nothing.features.shape == (0, 50)


def test_each_view_is_encoded_alone() -> None:
    model = small_video3d()
    frames = [flat_frame(seed=seed) for seed in range(3)]
    together, alone = encode(model, frames), [encode(model, [frame])[0] for frame in frames]
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.features, b.features, atol=1e-5)


def test_the_origin_is_the_epochs_first_camera_on_the_floor() -> None:
    scene = SceneSnapshot(floor=Floor(0.3, "given"), anchor_xy_m=(4.0, -2.5))
    assert small_video3d().origin_of(scene) == (4.0, -2.5, 0.3)
    assert small_video3d("reference").origin_of(scene) == (0.0, 0.0, 0.0)


def test_every_place_in_a_question_is_its_own() -> None:
    """The reference gives all of them the first one's embedding."""
    model = small_video3d()
    points = [(1.0, 2.0, 0.5), (-3.0, 0.25, 1.0)]
    clicks = model.encode_clicks(points)
    for click, point in zip(clicks, points, strict=True):
        embedding = sine_embedding(place_voxels(torch.tensor(point), SMALL_VIDEO3D), 50)
        expected = model.decoder.embed(torch.tensor(38)) + embedding
        assert torch.allclose(click, expected, atol=1e-6)
    prompt = model.build_prompt([1, CLICK_ID, 2, CLICK_ID], None, clicks)
    assert torch.equal(prompt.embeds[[1, 3]], clicks)
    assert not torch.allclose(clicks[0], clicks[1])
    assert model.encode_clicks([]).shape == (0, 50)


@pytest.mark.parametrize(
    ("ids", "points"),
    [([1, CLICK_ID], []), ([1], [(0.0, 0.0, 0.0)]), ([CLICK_ID], [(0.0,) * 3] * 2)],
)
def test_places_and_points_must_be_as_many(
    ids: list[int], points: list[tuple[float, float, float]]
) -> None:
    model = small_video3d()
    with pytest.raises(InvalidRequestError, match=r"placeholder\(s\), but \d coordinate"):
        model.build_prompt(ids, None, model.encode_clicks(points))


def test_a_point_beyond_the_range_is_refused() -> None:
    far = [(0.0, 0.0, 0.0), (15.2, 1.0, 0.0)]
    words = r"point \(15\.20, 1\.00, 0\.00\) m from the scene's origin lies outside"
    with pytest.raises(InvalidRequestError, match=words):
        small_video3d().encode_clicks(far)
    moved = small_video3d("reference").encode_clicks(far)
    assert torch.equal(moved, small_video3d().encode_clicks([far[0], (15.0, 1.0, 0.0)]))


def test_the_scene_stands_in_the_place_of_the_image() -> None:
    model = small_video3d()
    (part,) = encode(model, [flat_frame()])
    visual = model.project(part.features)
    assert visual is part.features
    prompt = model.build_prompt([1, IMAGE_ID, 2, 3], visual, None, part.xyz_m)
    assert prompt.spatial_span == (1, 1 + PER_FRAME)
    assert torch.equal(prompt.embeds[1 : 1 + PER_FRAME], visual)
    for ids in ([1, 2], [IMAGE_ID, IMAGE_ID]):  # the reference drops it, or takes it twice
        with pytest.raises(InvalidRequestError, match="<image> placeholder"):
            model.build_prompt(ids, visual)


def test_a_long_prompt_is_refused_and_by_the_reference_cut() -> None:
    visual = torch.zeros(300, 50)
    with pytest.raises(QuestionTooLongError, match=r"302 tokens.*the model takes 256"):
        small_video3d().build_prompt([1, IMAGE_ID, 2], visual)
    cut = small_video3d("reference").build_prompt([1, IMAGE_ID, 2], visual)
    assert (len(cut.embeds), cut.spatial_span) == (256, (1, 256))


def test_one_image_is_its_cells_without_places_in_the_world() -> None:
    model = small_video3d()
    image = model.prepare_image(flat_frame())
    features = model.encode_views(image.pixels)
    tokens = model.image_tokens(features, image)
    assert tokens.num_patches.tolist() == [1, 1, 1, 0] * 3
    assert tokens.xyz_m[4:7].tolist() == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]
    assert tokens.xyz_m[7].isnan().all()
    pooled = pool_patches(model.projector(features), CELLS)[0]
    assert torch.allclose(tokens.features[tokens.num_patches == 1], pooled, atol=1e-6)


def test_without_ground_heads() -> None:
    model = small_video3d(config=dataclasses.replace(SMALL_VIDEO3D, ground_id=-1))
    assert model.ground is None
    assert not [name for name in model.state_dict() if name.startswith("ground")]
    frames = encode(model, [flat_frame()])
    with pytest.raises(InvalidRequestError, match="no ground heads"):
        model.ground_scores(torch.zeros(50), torch.zeros(1, 6), frames)


def test_without_coordinates() -> None:
    """A LLaVA-Video, which has no `<coord>` token."""
    model = small_video3d(config=dataclasses.replace(SMALL_VIDEO3D, coord_id=-1))
    assert model.encode_clicks([]).shape == (0, 50)
    with pytest.raises(InvalidRequestError, match="takes no coordinates"):
        model.encode_clicks([(0.0, 0.0, 0.0)])


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.compat = 'exact'"):
        Video3DLLM(SMALL_VIDEO3D, "exact")
