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
    MIN_PIXELS,
    VIEW_KINDS,
    pixels_of,
    view_questions,
)

SIDE, ROOMS = 128, 24
Asked = list[tuple[Graph, dict[int, int], RoomQuestion]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    rooms = make_rooms("val", torch.arange(ROOMS), 1)
    index = render(rooms, SIDE).object_index
    found = []
    for b, graph in enumerate(graphs(rooms)):
        for view in range(index.shape[1]):
            pixels = pixels_of(index[b, view])
            for question in view_questions(graph, pixels, random.Random(f"{b} {view}")):
                found.append((graph, pixels, question))
    return found


def fitting(graph: Graph, words: str) -> list[Thing]:
    wanted = set(words.split()) - {"object"}
    return [t for t in graph.things if wanted <= {t.color, t.category}]


def test_pixels_are_counted_by_object() -> None:
    view = torch.tensor([[NOTHING, 2, 2], [0, 2, NOTHING], [NOTHING] * 3], dtype=torch.int16)
    assert pixels_of(view) == {0: 1, 2: 3}
    assert pixels_of(torch.full((2, 2), NOTHING)) == {}


def test_yes_is_what_enough_pixels_show_and_no_what_none_does(asked: Asked) -> None:
    counted: Counter[str] = Counter()
    for graph, pixels, question in asked:
        if question.kind != "existence":
            continue
        covered = [pixels.get(t.number, 0) for t in fitting(graph, question.names[0])]
        counted[question.answer] += 1
        if question.answer == "yes":
            assert max(covered) >= MIN_PIXELS
        else:
            assert sum(covered) == 0
    assert 0.4 < counted["yes"] / counted.total() < 0.6
    # Some of what is not in the view stands elsewhere in the room.
    assert any(fitting(g, q.names[0]) for g, _, q in asked if q.answer == "no")


@pytest.mark.parametrize("kind", ["color", "category"])
def test_what_is_asked_about_is_seen_well_and_alone_of_its_name(asked: Asked, kind: str) -> None:
    questions = [(g, p, q) for g, p, q in asked if q.kind == kind]
    assert len(questions) > ROOMS
    for graph, pixels, question in questions:
        seen = [t for t in fitting(graph, question.names[0]) if pixels.get(t.number, 0)]
        (thing,) = seen
        assert pixels[thing.number] >= MIN_PIXELS
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
    pixels = {first.number: MIN_PIXELS, second.number: MIN_PIXELS - 1}
    for seed in range(200):
        for question in view_questions(graph, pixels, random.Random(seed)):
            named = [t.number for t in fitting(graph, question.names[0])]
            if question.answer == "yes":
                assert first.number in named
            if question.answer == "no":
                assert first.number not in named
                assert second.number not in named
    assert view_questions(graph, {second.number: MIN_PIXELS - 1}, random.Random(0)) == []
