"""Packed questions give the same states as each question prefilled alone, as the engine does."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.train.embedded import corpus, feature_code, new_model
from ada3d_ros.lab.train.objective import losses, run_packed
from ada3d_ros.lab.train.packing import Packer, prompt_text
from ada3d_ros.lab.train.run import planned_pruner
from ada3d_ros.lab.train.tokens import (
    SYMBOLIC_VOXEL_M,
    label_shares,
    room_tokens,
    symbolic_points,
    turn_rooms,
)
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import ABSENT, make_rooms
from ada3d_ros.model.prompt import parse_coordinates, render_question
from ada3d_ros.model.random_checkpoint import train_tokenizer
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner


@pytest.fixture(scope="module")
def packer(tmp_path_factory: pytest.TempPathFactory) -> Packer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return Packer(train_tokenizer(folder / "tokenizer.model", corpus(), 1024))


def test_packed_rows_equal_each_prompt_alone(packer: Packer) -> None:
    model, head = new_model(packer.tokenizer)
    rooms = make_rooms("val", torch.arange(2))
    points = symbolic_points(rooms, 4, 12, torch.Generator().manual_seed(0))
    code = feature_code(model.config.vision.hidden_size)
    known = graphs(rooms)
    asked = [make_questions(graph, 5, tuple(KINDS), 11) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    with torch.no_grad():
        tokens = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
        states = run_packed(model, packer.prefix_ids, tokens, packed)
        loss, parts = losses(model.decoder, head, states, packed)
        assert torch.isfinite(loss)
        assert set(parts) == {"answer", "pointing", "presence", "box"}
        for number, question in enumerate(packed.questions):
            room = int(packed.room[number])
            text, points = parse_coordinates(prompt_text(question))
            ids = packer.tokenizer.encode(render_question(text))
            spatial = tokens[room].tokens
            embeds, clicks = model.project(spatial.features), model.encode_clicks(points)
            prompt = model.build_prompt(ids, embeds, clicks, spatial.xyz_m)
            alone = prefill(model.decoder, prompt).logits
            together = model.decoder.lm_head(states.text[room, packed.query[number]])
            torch.testing.assert_close(together, alone, rtol=2e-4, atol=2e-4)


def test_targets_are_the_answers(packer: Packer) -> None:
    known = graphs(make_rooms("val", torch.arange(3)))
    asked = [make_questions(graph, 1, tuple(KINDS), 11) for graph in known]
    packed = packer.pack(known, asked, 9)
    eos, place = packer.tokenizer.eos_id, 0
    for question in packed.questions:
        size = round(1 / float(packed.target_weight[place]))
        ids = packed.target_id[place : place + size].tolist()
        assert ids[-1] == eos
        assert packer.tokenizer.decode(ids) == question.answer
        place += size
    assert place == len(packed.target_id)
    assert float(packed.target_weight.sum()) == pytest.approx(len(packed.questions))
    boxed = torch.isfinite(packed.box_m[:, 0])
    assert boxed.tolist() == [q.target is not None for q in packed.questions]


def test_shares_name_what_the_owners_are() -> None:
    rooms = make_rooms("val", torch.arange(1))
    shares = label_shares(rooms, 0, torch.tensor([[0, 0, ABSENT, ABSENT], [1, 1, 1, 1]]))
    assert shares.shape == (2, 20)
    category, color = int(rooms.category[0, 0]), int(rooms.color[0, 0])
    assert shares[0, category] == shares[0, 10] == 0.5
    assert shares[0, 11 + color] == shares[0, 19] == 0.5
    assert shares[1, int(rooms.category[0, 1])] == 1.0


def test_four_quarter_turns_are_none() -> None:
    rooms = make_rooms("val", torch.arange(2))
    turned = turn_rooms(turn_rooms(rooms, 3), 1)
    assert torch.equal(turned.center_m, rooms.center_m)
    assert torch.equal(turned.room_m, rooms.room_m)
    torch.testing.assert_close(turned.extents_m(), rooms.extents_m(), atol=1e-5, rtol=0)


def test_pruned_training_keeps_per_question_what_the_schedule_says(packer: Packer) -> None:
    model, head = new_model(packer.tokenizer)
    rooms = make_rooms("val", torch.arange(2))
    points = symbolic_points(rooms, 5, 16, torch.Generator().manual_seed(0))
    known = graphs(rooms)
    asked = [make_questions(graph, 5, tuple(KINDS), 11) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    code = feature_code(model.config.vision.hidden_size)
    tokens = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
    pruner = planned_pruner(model, 0.41)
    assert pruner is not None
    shares = pruner.schedule.retention
    assert len(shares) == model.config.decoder.num_layers
    assert sum(shares) / len(shares) == pytest.approx(0.41, abs=0.01)
    pruned = run_packed(model, packer.prefix_ids, tokens, packed, pruner)
    counts = [pruner.counts(len(t.owner), None)[-1] for t in tokens]
    assert counts == [max(math.floor(shares[-1] * len(t.owner)), pruner.n_min) for t in tokens]
    assert torch.equal(pruned.mask.sum(1), torch.tensor(counts)[packed.room])
    masks = {tuple(mask.tolist()) for mask in pruned.mask[packed.room == 0]}
    assert len(masks) > 1  # each question keeps its own
    loss, _ = losses(model.decoder, head, pruned, packed)
    loss.backward()
    assert all(
        torch.isfinite(p.grad).all() for p in model.decoder.parameters() if p.grad is not None
    )
    full = run_packed(model, packer.prefix_ids, tokens, packed)
    everything = replace(pruner, schedule=RetentionSchedule((1.0,) * len(shares)))
    same = run_packed(model, packer.prefix_ids, tokens, packed, everything)
    assert torch.equal(full.text, same.text)
    assert not torch.allclose(full.text, pruned.text)


def test_the_first_question_dropped_is_dropped_as_in_the_engine(packer: Packer) -> None:
    """Until tokens first go, the scene's states are the same, so the engine keeps the same ones."""
    model, _ = new_model(packer.tokenizer)
    rooms = make_rooms("val", torch.tensor([4]))
    points = symbolic_points(rooms, 5, 16, torch.Generator().manual_seed(0))
    known = graphs(rooms)
    asked = [make_questions(known[0], 3, tuple(KINDS), 8)]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    with torch.no_grad():
        tokens = room_tokens(
            model, rooms, points, feature_code(model.config.vision.hidden_size), SYMBOLIC_VOXEL_M
        )
        layers = model.config.decoder.num_layers
        pruner = LayerPruner("last", RetentionSchedule((*(1.0,) * (layers - 1), 0.25)))
        kept = run_packed(model, packer.prefix_ids, tokens, packed, pruner).mask
        spatial = tokens[0].tokens
        for number, question in enumerate(packed.questions):
            text, points = parse_coordinates(prompt_text(question))
            prompt = model.build_prompt(
                packer.tokenizer.encode(render_question(text)),
                model.project(spatial.features),
                model.encode_clicks(points),
                spatial.xyz_m,
            )
            filled = prefill(model.decoder, prompt, pruner=pruner)
            assert filled.kept[-1].tolist() == torch.nonzero(kept[number])[:, 0].tolist()


def test_grounding_is_asked_as_the_pipeline_asks() -> None:
    graph = graphs(make_rooms("val", torch.tensor([0])))[0]
    (question,) = make_questions(graph, 0, ("grounding",), 1)
    assert prompt_text(question) == GROUNDING_PROMPT.format(phrase=question.phrase)
