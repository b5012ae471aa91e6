"""Packed questions give the same states as each question prefilled alone, as the engine does."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.train.embedded import corpus, feature_code, new_model
from ada3d_ros.lab.train.objective import Packed, losses, run_packed
from ada3d_ros.lab.train.packing import PackedQuestions, Packer, prompt_text
from ada3d_ros.lab.train.run import planned_pruner
from ada3d_ros.lab.train.tokens import (
    SYMBOLIC_VOXEL_M,
    RoomTokens,
    label_shares,
    room_tokens,
    symbolic_points,
    turn_rooms,
)
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import ABSENT, make_rooms
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import (
    CLICK_ID,
    IMAGE_ID,
    POINT_TOKENS,
)
from ada3d_ros.model.random_checkpoint import train_tokenizer
from ada3d_ros.pruning.ranking import PruneContext
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner


@pytest.fixture(scope="module")
def packer(tmp_path_factory: pytest.TempPathFactory) -> Packer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(folder / "tokenizer.model", corpus(), 1280, POINT_TOKENS)
    points = tokenizer.control_id("<point>"), tokenizer.control_id("<point_ego>")
    return Packer(tokenizer, point_ids=points)


def test_packed_rows_equal_each_prompt_alone(packer: Packer) -> None:
    """Places and words after the prompt too: as the engine would feed them, one after the other."""
    model, head = new_model(packer.tokenizer)
    rooms = make_rooms("val", torch.arange(2))
    points = symbolic_points(rooms, 4, 12, torch.Generator().manual_seed(0))
    code = feature_code(model.config.vision.hidden_size)
    known = graphs(rooms)
    asked = [make_questions(graph, 5, tuple(KINDS), 16) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    assert (packed.head_question.bincount() > 2).any()  # some point at several places
    with torch.no_grad():
        tokens = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
        states = run_packed(model, packer.prefix_ids, tokens, packed)
        loss, parts = losses(model.decoder, head, states, packed)
        assert torch.isfinite(loss)
        assert set(parts) == {"answer", "pointing", "presence", "box", "peak"}
        for number, rows in enumerate(packed.rows):
            at = rows[rows >= 0]
            room = int(packed.room[number])
            spatial = tokens[room].tokens
            ids = [*packer.prefix_ids, IMAGE_ID, *packed.ids.flatten()[at].tolist()]
            embeds = model.project(spatial.features)
            here = model.encode_clicks(clicks_of(packed, at).tolist())
            prompt = model.build_prompt(ids, embeds, here, spatial.xyz_m)
            alone = prefill(model.decoder, prompt).logits
            together = model.decoder.lm_head(states.text.flatten(0, 1)[at[-1]])
            torch.testing.assert_close(together, alone, rtol=2e-4, atol=2e-4)


def clicks_of(packed: PackedQuestions, rows: torch.Tensor) -> torch.Tensor:
    """The points (n, 3) that stand in these places of the flattened text."""
    is_click = packed.ids.flatten() == CLICK_ID
    number = is_click.cumsum(0) - 1
    return packed.clicks[number[rows[is_click[rows]]]]


def test_targets_are_places_and_answers(packer: Packer) -> None:
    """Tokens that point, then words; words weigh one a question, those that point a fifth."""
    known = graphs(make_rooms("val", torch.arange(3)))
    asked = [make_questions(graph, 1, tuple(KINDS), 16) for graph in known]
    packed = packer.pack(known, asked, 9)
    eos, at = packer.tokenizer.eos_id, 0
    for question in packed.questions:
        count = len(question.places)
        ids = packed.target_id[at : at + count].tolist()
        last = [packer.egocentric_id] if question.egocentric else [packer.point_id]
        assert ids == ([packer.point_id] * (count - 1) + last if count else [])
        assert packed.target_weight[at : at + count].tolist() == pytest.approx([0.2] * count)
        at += count
        size = round(1 / float(packed.target_weight[at]))
        ids = packed.target_id[at : at + size].tolist()
        assert ids[-1] == eos
        assert packer.tokenizer.decode(ids) == question.answer
        at += size
    assert at == len(packed.target_id)


def test_what_is_fed_lies_by_what_is_pointed_at(packer: Packer) -> None:
    """Within the noise of the true centres; an egocentric place as seen from where one stands."""
    known = graphs(make_rooms("val", torch.arange(8)))
    asked = [make_questions(graph, 1, ("relation", "nearest", "count"), 12) for graph in known]
    packed = packer.pack(known, asked, 9)
    seen = 0
    for number, question in enumerate(packed.questions):
        graph = known[int(packed.room[number])]
        centers = {t.number: torch.tensor(t.center_m) for t in graph.things}
        rows = packed.rows[number][packed.rows[number] >= 0]
        fed = clicks_of(packed, rows)
        assert len(fed) == len(question.places)
        world = fed[:-1] if question.egocentric else fed
        for point, place in zip(world, question.places, strict=False):
            assert float((point - centers[place]).norm()) < 0.4
        if question.egocentric:
            at, facing, thing = (centers[n] for n in question.places)
            ahead, towards = (facing - at)[:2], (thing - at)[:2]
            angle = torch.atan2(towards[1], towards[0]) - torch.atan2(ahead[1], ahead[0])
            away = towards.norm()
            told = fed[-1][:2]
            assert float((told - away * torch.stack((angle.cos(), angle.sin()))).norm()) < 0.6
            side = {"left": float(told[1]) > 0, "right": float(told[1]) < 0}
            assert side.get(question.answer, float(told[0]) < 0)
            seen += 1
    assert seen >= 4


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


def symbolic_batch(
    model: Llava3D, packer: Packer, seeds: torch.Tensor, questions: int, seed: int
) -> tuple[list[RoomTokens], PackedQuestions]:
    """Rooms of validation with some tens of tokens each, and questions about them."""
    rooms = make_rooms("val", seeds)
    points = symbolic_points(rooms, 5, 16, torch.Generator().manual_seed(0))
    known = graphs(rooms)
    asked = [make_questions(graph, seed, tuple(KINDS), questions) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    code = feature_code(model.config.vision.hidden_size)
    return room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M), packed


def test_pruned_training_keeps_what_the_schedule_says(packer: Packer) -> None:
    """As many tokens of every room; with all kept, the very same numbers as without a pruner."""
    model, _ = new_model(packer.tokenizer)
    tokens, packed = symbolic_batch(model, packer, torch.arange(2), 11, 5)
    pruner = planned_pruner(model, 0.41)
    shares = pruner.schedule.retention
    assert len(shares) == model.config.decoder.num_layers
    assert sum(shares) / len(shares) == pytest.approx(0.41, abs=0.01)
    pruned = run_packed(model, packer.prefix_ids, tokens, packed, pruner)
    counts = [max(math.floor(shares[-1] * len(t.owner)), pruner.n_min) for t in tokens]
    assert counts[0] != counts[1]  # one room is padded
    assert pruned.mask.sum(1).tolist() == counts
    assert pruned.spatial.shape[1] == max(counts)
    for room, count in enumerate(counts):
        kept = pruned.kept[room, :count]
        assert torch.equal(kept, kept.sort().values)
        assert torch.equal(pruned.xyz_m[room, :count], tokens[room].tokens.xyz_m[kept])
        assert torch.equal(pruned.owner[room, :count], tokens[room].owner[kept])
        assert (pruned.kept[room, count:] == -1).all()

    full = run_packed(model, packer.prefix_ids, tokens, packed)
    everything = replace(pruner, schedule=RetentionSchedule((1.0,) * len(shares)))
    same = run_packed(model, packer.prefix_ids, tokens, packed, everything)
    assert torch.equal(full.text, same.text)
    assert torch.equal(full.spatial, same.spatial)
    assert not torch.allclose(full.text, pruned.text)


def test_gradients_flow_through_the_tokens_that_are_left(packer: Packer) -> None:
    """Where only the last layer reads, and tokens drop before it: through those and no others."""
    model, head = new_model(packer.tokenizer)
    with torch.no_grad():  # a head that says something
        for parameter in head.parameters():
            parameter.add_(0.1)
    tokens, packed = symbolic_batch(model, packer, torch.arange(2), 6, 5)
    for layer in model.decoder.layers[:-1]:  # they write nothing: only the last layer reads
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    features = [t.tokens.features.detach().clone().requires_grad_() for t in tokens]
    tokens = [
        replace(t, tokens=replace(t.tokens, features=f))
        for t, f in zip(tokens, features, strict=True)
    ]
    layers = model.config.decoder.num_layers
    pruner = LayerPruner("last", RetentionSchedule((*(1.0,) * (layers - 1), 0.25)))
    states = run_packed(model, packer.prefix_ids, tokens, packed, pruner)
    loss, _ = losses(model.decoder, head, states, packed)
    loss.backward()
    for room, found in enumerate(features):
        assert found.grad is not None
        moved = torch.nonzero(found.grad.abs().sum(1))[:, 0]
        kept = states.kept[room][states.mask[room]]
        assert 0 < len(kept) < len(found)
        assert torch.equal(moved, kept)


@dataclass(frozen=True)
class RememberingPruner(LayerPruner):
    """Keeps the scores by which the engine dropped."""

    scores: list[torch.Tensor] = field(default_factory=list)

    def rank(self, context: PruneContext) -> torch.Tensor:
        self.scores.append(LayerPruner.rank(self, context))
        return self.scores[-1]


def prefill_alone(
    model: Llava3D,
    packer: Packer,
    room: RoomTokens,
    packed: PackedQuestions,
    number: int,
    pruner: LayerPruner,
) -> PrefillOutput:
    """What the engine makes of one question's prompt, without its answer."""
    at = packed.rows[number][packed.rows[number] >= 0]
    width = packed.ids.shape[1]
    at = at[at % width <= packed.query[number]]
    prompt = model.build_prompt(
        [*packer.prefix_ids, IMAGE_ID, *packed.ids.flatten()[at].tolist()],
        model.project(room.tokens.features),
        model.encode_clicks(clicks_of(packed, at).tolist()),
        room.tokens.xyz_m,
    )
    return prefill(model.decoder, prompt, pruner=pruner, with_states=True)


@pytest.mark.parametrize("kind", ["count", "color", "category", "grounding"])
def test_one_question_trains_on_the_engines_own_pruned_prefill(packer: Packer, kind: str) -> None:
    """The tokens that are left, their states, the question's state, and its logits."""
    model, _ = new_model(packer.tokenizer)
    pruner = planned_pruner(model, 0.41)
    rooms = make_rooms("val", torch.tensor([4]))
    points = symbolic_points(rooms, 5, 40, torch.Generator().manual_seed(0))
    known = graphs(rooms)
    packed = packer.pack(known, [make_questions(known[0], 3, (kind,), 1)], 9)
    with torch.no_grad():
        code = feature_code(model.config.vision.hidden_size)
        (room,) = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
        trained = run_packed(model, packer.prefix_ids, [room], packed, pruner)
        alone = prefill_alone(model, packer, room, packed, 0, pruner)
        last = trained.text[0, packed.query[0]]
        logits = model.decoder.lm_head(last)
    assert alone.counts[0] == len(room.owner)
    assert len(alone.kept[-1]) < len(alone.kept[1]) < len(room.owner)  # twice at least
    assert torch.equal(trained.kept[0], alone.kept[-1])
    assert alone.states is not None
    torch.testing.assert_close(trained.spatial[0], alone.states.spatial, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(last, alone.states.query, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(logits, alone.logits, rtol=2e-4, atol=2e-4)


def test_the_questions_of_a_room_rank_its_tokens_together(packer: Packer) -> None:
    """By the mean of the engine's scores of each alone, whatever else is in the batch."""
    model, _ = new_model(packer.tokenizer)
    layers, share = model.config.decoder.num_layers, 0.3
    schedule = RetentionSchedule((*(1.0,) * (layers - 1), share))
    with torch.no_grad():
        tokens, packed = symbolic_batch(model, packer, torch.tensor([4, 5]), 5, 3)
        kept = run_packed(
            model, packer.prefix_ids, tokens, packed, LayerPruner("all", schedule)
        ).kept
        for room, one in enumerate(tokens):
            each = RememberingPruner("each", schedule)
            for number in torch.nonzero(packed.room == room)[:, 0].tolist():
                prefill_alone(model, packer, one, packed, number, each)
            assert len(each.scores) == int((packed.room == room).sum()) > 2
            best = torch.stack(each.scores).mean(0).argsort(descending=True)
            expected = best[: math.floor(share * len(one.owner))].sort().values
            assert torch.equal(kept[room][kept[room] >= 0], expected)


def test_grounding_is_asked_as_the_pipeline_asks() -> None:
    graph = graphs(make_rooms("val", torch.tensor([0])))[0]
    (question,) = make_questions(graph, 0, ("grounding",), 1)
    assert prompt_text(question) == GROUNDING_PROMPT.format(phrase=question.phrase)


# -- each loss, worked out question by question


@dataclass(frozen=True)
class Step:
    """One forward pass of two rooms: the sum to minimise, its parts, and what they are of."""

    model: Llava3D
    head: GroundingHead
    states: Packed
    packed: PackedQuestions
    total: float
    parts: dict[str, float]

    @property
    def owned(self) -> list[list[int]]:
        """Of each query the tokens, kept, that its evidence owns by 0.4 of their patches."""
        found = []
        for query, room in enumerate(self.packed.head_room.tolist()):
            owner = self.states.owner[room]
            wanted = torch.nonzero(self.packed.evidence[query])[:, 0].tolist()
            found.append(
                [
                    token
                    for token in range(len(owner))
                    if self.states.mask[room, token]
                    and any(float(owner[token, thing]) >= 0.4 for thing in wanted)
                ]
            )
        return found


@pytest.fixture(scope="module")
def step(packer: Packer) -> Step:
    """A head that says something: its last layer is not zero."""
    model, head = new_model(packer.tokenizer)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    rooms = make_rooms("val", torch.arange(2))
    points = symbolic_points(rooms, 4, 12, torch.Generator().manual_seed(0))
    known = graphs(rooms)
    asked = [make_questions(graph, 5, tuple(KINDS), 18) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    with torch.no_grad():
        code = feature_code(model.config.vision.hidden_size)
        tokens = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
        states = run_packed(model, packer.prefix_ids, tokens, packed)
        owner = states.owner.clone()
        owner[:, ::2] *= 0.39  # of every other token less than the share that counts
        states = replace(states, owner=owner)
        total, parts = losses(model.decoder, head, states, packed)
    return Step(model, head, states, packed, float(total), parts)


def pointed(step: Step, number: int) -> tuple[torch.Tensor, float]:
    """Pointer logits over the tokens of a query's question, -inf elsewhere; the presence logit."""
    room, packed, states = int(step.packed.head_room[number]), step.packed, step.states
    mask = states.mask[room]
    query = states.text[room, packed.head_place[number]]
    with torch.no_grad():
        logits, presence = step.head.point(
            query[None, None], states.spatial[room][mask][None], None
        )
    wide = torch.full((len(mask),), -math.inf, dtype=torch.float64)
    wide[mask] = logits[0, 0].double()
    return wide, float(presence[0, 0])


def test_the_answer_loss_is_the_mean_over_questions_of_their_tokens(step: Step) -> None:
    """Minus the log of the probability of each true token, times its weight."""
    packed, total = step.packed, 0.0
    for k in range(len(packed.target_id)):
        hidden = step.states.text[packed.target_room[k], packed.target_place[k]]
        with torch.no_grad():
            probabilities = step.model.decoder.lm_head(hidden).double().softmax(-1)
        lost = -math.log(float(probabilities[packed.target_id[k]]))
        total += lost * float(packed.target_weight[k])
    assert step.parts["answer"] == pytest.approx(total / len(packed.room), rel=1e-5)


def test_the_pointing_loss_is_of_the_weight_on_the_objects_own_tokens(step: Step) -> None:
    each = []
    for number, owned in enumerate(step.owned):
        if owned:
            weights = pointed(step, number)[0].softmax(-1)
            each.append(-math.log(float(weights[owned].sum())))
    assert 0 < len(each) < len(step.packed.head_room)
    expected = sum(each) / len(step.packed.head_room)
    assert step.parts["pointing"] == pytest.approx(expected, rel=1e-4)


def test_the_presence_loss_is_of_what_is_there(step: Step) -> None:
    each = []
    for number, truth in enumerate(step.packed.presence.tolist()):
        if truth >= 0:
            probability = 1 / (1 + math.exp(-pointed(step, number)[1]))
            each.append(-math.log(probability if truth == 1 else 1 - probability))
    truths = set(step.packed.presence.tolist())
    assert truths == {-1.0, 0.0, 1.0}
    assert step.parts["presence"] == pytest.approx(sum(each) / len(each), rel=1e-4)


def boxed(step: Step) -> list[int]:
    asked = torch.isfinite(step.packed.box_m[:, 0]).tolist()
    return [n for n, owned in enumerate(step.owned) if owned and asked[n]]


def test_the_box_loss_is_of_centre_and_log_of_the_full_extents(step: Step) -> None:
    """At the object's own tokens, weighed as they are pointed at, and a little each."""
    each = []
    for number in boxed(step):
        room, owned = int(step.packed.head_room[number]), step.owned[number]
        weights = pointed(step, number)[0].softmax(-1)[owned] + 1e-3
        weights = (weights / weights.sum()).float()
        query = step.states.text[room, step.packed.head_place[number]][None, None]
        tokens, xyz_m = step.states.spatial[room][owned], step.states.xyz_m[room][owned]
        with torch.no_grad():
            center, size = step.head.boxes(query, tokens[None], weights[None, None], xyz_m[None])
        truth = step.packed.box_m[number].tolist()
        off = [abs(a - b) for a, b in zip(center[0, 0].tolist(), truth[:3], strict=True)]
        scale = [abs(math.log(a / b)) for a, b in zip(size[0, 0].tolist(), truth[3:], strict=True)]
        each.append((sum(off) + sum(scale)) / 3)
    assert len(each) >= 2
    assert step.parts["box"] == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_the_truths_are_the_rooms(step: Step) -> None:
    """Boxes with full extents, and what rests on what, as the graph of the room has them."""
    known = graphs(make_rooms("val", torch.arange(2)))
    packed = step.packed
    for query, number in enumerate(packed.head_question.tolist()):
        question, room = packed.questions[number], int(packed.head_room[query])
        things = {thing.number: thing for thing in known[room].things}
        nth = query - packed.head_question.tolist().index(number)
        assert int(packed.head_place[query]) == int(packed.query[number]) + nth
        expected = (question.places[nth],) if question.places else question.evidence
        evidence = torch.nonzero(packed.evidence[query])[:, 0].tolist()
        assert evidence == sorted(set(expected))
        target = question.places[nth] if question.places else question.target
        if target is not None:
            truth = [*things[target].center_m, *things[target].extents_m]
            assert packed.box_m[query].tolist() == pytest.approx(truth, abs=1e-5)
        else:
            assert torch.isnan(packed.box_m[query]).all()


def test_the_sum_weighs_its_parts(step: Step) -> None:
    share = len(boxed(step)) / len(step.packed.head_room)
    parts = step.parts
    expected = (
        parts["answer"] + 0.5 * parts["pointing"] + 0.3 * parts["presence"] + share * parts["box"]
    )
    assert step.total == pytest.approx(expected, rel=1e-5)
