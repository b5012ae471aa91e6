"""The pooling of `condensed_grid` learns on the strategy's own choice, and nothing else does."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.lab.train.embedded import corpus, feature_code, new_model
from ada3d_ros.lab.train.packing import Packer
from ada3d_ros.lab.train.pooling import HIDDEN, Learner, new_pooling, pooled, train
from ada3d_ros.lab.train.tokens import RoomTokens, room_tokens, symbolic_points
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.checkpoint import weights_sha256
from ada3d_ros.model.prompt import POINT_TOKENS
from ada3d_ros.model.random_checkpoint import train_tokenizer
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pruning.baselines.condensed_grid import EMBEDDED, read_pooling
from ada3d_ros.pruning.strategy import Candidates, select
from test.support.decoders import config_of, policy_of

VOXEL_M = 0.3


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(folder / "tokenizer.model", corpus(), 1280, POINT_TOKENS)
    model, head = new_model(tokenizer)
    pooling = new_pooling(model.config.vision.hidden_size, 0)
    model.requires_grad_(False)
    ids = model.config.point_id, model.config.egocentric_point_id
    packer = Packer(tokenizer, point_ids=ids)
    return Learner(model, head.requires_grad_(False), packer, pooling)


@pytest.fixture(scope="module")
def rooms(learner: Learner) -> list[tuple[Graph, RoomTokens, int]]:
    """Rooms of true labels: points in their objects, and around them."""
    made = make_rooms("train", torch.arange(3))
    points = symbolic_points(made, 12, 60, torch.Generator().manual_seed(0))
    code = feature_code(learner.model.config.vision.hidden_size)
    with torch.no_grad():
        tokens = room_tokens(learner.model, made, points, code, VOXEL_M)
    objects = made.category.shape[1]
    return [(g, t, objects) for g, t in zip(graphs(made), tokens, strict=True)]


def test_what_it_learns_on_is_the_strategys_choice(
    learner: Learner, rooms: list[tuple[Graph, RoomTokens, int]], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    pooling = {n: torch.randn(t.shape, generator=generator) for n, t in learner.pooling.items()}
    save_file(pooling, tmp_path / "pooling.safetensors")
    config: PruningConfig = config_of(
        {"condensed_grid.file": str(tmp_path / "pooling.safetensors"), "n_min": 1}
    )
    tokens = rooms[0][1].tokens
    budget = int(0.2 * len(tokens.features))
    scene = Candidates(tokens.features, tokens.xyz_m, tokens.num_patches, VOXEL_M)
    chosen = select("condensed_grid", scene, budget, config).in_order()
    found = pooled(rooms[0][1], 0.2, pooling)
    assert torch.allclose(found.tokens.features, chosen.merge(tokens.features), atol=1e-5)
    assert torch.allclose(found.tokens.xyz_m, chosen.merge(tokens.xyz_m), atol=1e-5)
    assert int(found.tokens.num_patches.sum()) == int(tokens.num_patches.sum())
    assert policy_of("condensed_grid", 0.2).num_kept_pre_llm(len(tokens.features)) == budget


def test_it_learns_and_the_model_stays(
    learner: Learner, rooms: list[tuple[Graph, RoomTokens, int]]
) -> None:
    before = [p.clone() for p in learner.model.parameters()]
    log = train(learner, rooms, steps=25, seed=0)
    assert [entry["step"] for entry in log] == [25]
    assert {"answer", "pointing", "presence", "box"} < log[0].keys()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))
    assert float(learner.pooling["out.weight"].abs().max()) > 1e-3  # it was zero
    assert not any(tensor.requires_grad for tensor in learner.pooling.values())


def test_the_embedded_models_pooling_was_trained_on_its_weights() -> None:
    with safe_open(EMBEDDED, "pt") as file:
        facts = file.metadata()
    assert facts["sha256"] == weights_sha256(embedded_model_path())
    shapes = {name: tuple(tensor.shape) for name, tensor in read_pooling("embedded").items()}
    assert shapes == {"in.weight": (HIDDEN, 128), "in.bias": (HIDDEN,), "out.weight": (1, HIDDEN)}
    assert EMBEDDED.stat().st_size < 2**20
