"""The cut vision tower against transformers' whole CLIPVisionModel."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model import vision as vision_module
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.vision import VisionTower

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 42,
}


@pytest.mark.parametrize("select_layer", [-2, -1, -4, 0, 3])
def test_equals_transformers_hidden_state(select_layer: int) -> None:
    torch.manual_seed(0)
    oracle = CLIPVisionModel(CLIPVisionConfig(**SIZES)).eval().requires_grad_(False)
    tower = VisionTower(VisionConfig(**SIZES, select_layer=select_layer)).requires_grad_(False)
    state = {
        name.removeprefix("vision_model."): tensor for name, tensor in oracle.state_dict().items()
    }
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    pixels = torch.randn(3, 3, 42, 42)
    with torch.no_grad():
        expected = oracle(pixels, output_hidden_states=True).hidden_states[select_layer][:, 1:]
    assert (
        len(tower.encoder.layers) == VisionConfig(**SIZES, select_layer=select_layer).num_run_layers
    )
    assert torch.allclose(tower(pixels), expected, atol=1e-5)


def test_views_are_independent_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    tower = VisionTower(VisionConfig(**SIZES)).requires_grad_(False)
    pixels = torch.randn(5, 3, 42, 42)
    for parameter in tower.parameters():
        parameter.normal_(std=0.2)
    whole = tower(pixels)
    monkeypatch.setattr(vision_module, "MAX_VIEWS_PER_BATCH", 2)
    assert torch.allclose(tower(pixels), whole, atol=1e-5)


def test_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CheckpointError, match="mm_vision_select_layer -9"):
        VisionConfig(**SIZES, select_layer=-9)
