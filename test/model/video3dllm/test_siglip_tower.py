"""The cut SigLIP tower against transformers' whole SiglipVisionModel."""

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.video3dllm import vision as vision_module
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.video3dllm.vision import SiglipTower

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 48,  # 3 patches of 14, 6 px that are not seen
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def oracle_and_tower(select_layer: int) -> tuple[SiglipVisionModel, SiglipTower]:
    """With weights that no norm or bias leaves at its start."""
    torch.manual_seed(0)
    oracle = SiglipVisionModel(SiglipVisionConfig(**SIZES)).eval().requires_grad_(False)
    for parameter in oracle.parameters():
        parameter.normal_(std=0.3)
    tower = SiglipTower(VisionConfig(**SIZES, select_layer=select_layer)).requires_grad_(False)
    state = oracle.state_dict()
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return oracle, tower


@pytest.mark.parametrize("select_layer", [-2, -1, 0, 3])
def test_equals_transformers_hidden_state(select_layer: int) -> None:
    """hidden_states end before the norm that the reference never applies."""
    oracle, tower = oracle_and_tower(select_layer)
    seen = [oracle.embeddings(torch.zeros(1, 3, 48, 48))]
    pixels = torch.randn(3, 3, 48, 48)
    seen = [oracle.embeddings(pixels)]
    for layer in oracle.encoder.layers:
        seen.append(layer(seen[-1], None))
    features = tower(pixels)
    assert features.shape == (3, 9, 32)
    assert torch.allclose(features, seen[select_layer], atol=1e-4)
    assert len(tower.encoder.layers) == (select_layer if select_layer >= 0 else 5 + select_layer)


def test_the_whole_of_it_is_transformers_output_before_its_last_norm() -> None:
    oracle, tower = oracle_and_tower(-1)
    pixels = torch.randn(2, 3, 48, 48)
    expected = oracle(pixels).last_hidden_state
    assert torch.allclose(oracle.post_layernorm(tower(pixels)), expected, atol=1e-4)


def test_the_last_block_and_the_last_norm_do_not_exist() -> None:
    with torch.device("meta"):
        tower = SiglipTower(Video3DConfig().vision)
    names = set(tower.state_dict())
    assert len(tower.encoder.layers) == 26
    assert not [name for name in names if "post_layernorm" in name or "head" in name]
    assert tower.embeddings.position_embedding.weight.shape == (729, 1152)
    assert tower.embeddings.patch_embedding.bias is not None
    assert not list(tower.named_buffers())  # they would stay on the meta device when it is loaded


def test_pixels_beyond_the_last_patch_are_not_seen() -> None:
    _, tower = oracle_and_tower(-2)
    pixels = torch.randn(1, 3, 48, 48)
    other = pixels.clone()
    other[..., 42:] = 9.0
    other[..., 42:, :] = 9.0
    assert torch.equal(tower(pixels), tower(other))
    other[..., 41] = 9.0
    assert not torch.allclose(tower(pixels), tower(other))


def test_views_are_independent_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tower = oracle_and_tower(-2)
    pixels = torch.randn(5, 3, 48, 48)
    whole = tower(pixels)
    monkeypatch.setattr(vision_module, "MAX_VIEWS_PER_BATCH", 2)
    assert torch.allclose(tower(pixels), whole, atol=1e-5)
