"""Questions about one view: every answer is derived again from the pixels, thing by thing."""

import random
from collections import Counter

import pytest
import torch

from ada3d_ros.lab.world.graph import Graph, Thing, graphs
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.lab.world.shading import NOTHING
from ada3d_ros.lab.world.view_questions import (
    MIN_SHARE,
    VIEW_KINDS,
    shares_of,
    view_questions,
)

SIDE, ROOMS = 128, 24
Asked = list[tuple[Graph, dict[int, float], RoomQuestion]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    rooms = make_rooms("val", torch.arange(ROOMS), 1)
    index = render(rooms, SIDE).object_index
    found = []
    for b, graph in enumerate(graphs(rooms)):
        for view in range(index.shape[1]):
            shares = shares_of(index[b, view])
            for question in view_questions(graph, shares, random.Random(f"{b} {view}")):
                found.append((graph, shares, question))
    return found


def fitting(graph: Graph, words: str) -> list[Thing]:
    wanted = set(words.split()) - {"object"}
    return [t for t in graph.things if wanted <= {t.color, t.category}]


def test_shares_of_pixels_by_object() -> None:
    view = torch.tensor([[NOTHING, 2, 2], [0, 2, NOTHING], [NOTHING] * 3], dtype=torch.int16)
    assert shares_of(view) == {0: 1 / 9, 2: 3 / 9}
    assert shares_of(torch.full((2, 2), NOTHING)) == {}


def test_a_thing_is_in_a_view_from_one_patch_on() -> None:
    view = torch.full((SIDE, SIDE), NOTHING, dtype=torch.int16)
    view[:8, :8] = 1  # 64 of 128 x 128
    assert shares_of(view)[1] == MIN_SHARE
    view[0, 0] = NOTHING
    assert shares_of(view)[1] < MIN_SHARE


def test_yes_is_what_enough_pixels_show_and_no_what_none_does(asked: Asked) -> None:
    counted: Counter[str] = Counter()
    for graph, shares, question in asked:
        if question.kind != "existence":
            continue
        covered = [shares.get(t.number, 0) for t in fitting(graph, question.names[0])]
        counted[question.answer] += 1
        if question.answer == "yes":
            assert max(covered) >= MIN_SHARE
        else:
            assert sum(covered) == 0
    assert 0.4 < counted["yes"] / counted.total() < 0.6
    # Some of what is not in the view stands elsewhere in the room.
    assert any(fitting(g, q.names[0]) for g, _, q in asked if q.answer == "no")


@pytest.mark.parametrize("kind", ["color", "category"])
def test_what_is_asked_about_is_seen_well_and_alone_of_its_name(asked: Asked, kind: str) -> None:
    questions = [(g, s, q) for g, s, q in asked if q.kind == kind]
    assert len(questions) > ROOMS
    for graph, shares, question in questions:
        seen = [t for t in fitting(graph, question.names[0]) if shares.get(t.number, 0)]
        (thing,) = seen
        assert shares[thing.number] >= MIN_SHARE
        assert question.answer == getattr(thing, kind)
        assert question.names[0] in question.text
        assert question.evidence == (thing.number,)


def test_answers_are_words_of_their_kind_and_none_prevails(asked: Asked) -> None:
    words = {"existence": ("yes", "no"), "color": COLORS, "category": CATEGORIES}
    for kind in VIEW_KINDS:
        answers = Counter(q.answer for _, _, q in asked if q.kind == kind)
        assert set(answers) <= set(words[kind])
        assert max(answers.values()) / answers.total() < 0.6


def test_what_is_hardly_seen_is_neither_there_nor_absent() -> None:
    graph = graphs(make_rooms("val", torch.tensor([0]), 1))[0]
    first, second = graph.things[:2]
    shares = {first.number: MIN_SHARE, second.number: 0.99 * MIN_SHARE}
    for seed in range(200):
        for question in view_questions(graph, shares, random.Random(seed)):
            named = [t.number for t in fitting(graph, question.names[0])]
            if question.answer == "yes":
                assert first.number in named
            if question.answer == "no":
                assert first.number not in named
                assert second.number not in named
    assert view_questions(graph, {second.number: 0.99 * MIN_SHARE}, random.Random(0)) == []
