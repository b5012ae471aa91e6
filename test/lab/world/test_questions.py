"""Every answer is derived a second time from the graph, by other means; answers are balanced.

Phrases name what they shall.
"""

import math
import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from ada3d_ros.lab.world.graph import Graph, Thing, graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.room_question import NUMBERS, RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.lab.world.wordings import WORDINGS, reword

ROOMS = 1000
QueryContext = list[tuple[Graph, RoomQuestion]]


@pytest.fixture(scope="module", params=[1, 2])
def asked(request: pytest.FixtureRequest) -> QueryContext:
    known = graphs(make_rooms("test", torch.arange(ROOMS), request.param))
    return [
        (g, q)
        for i, g in enumerate(known)
        for q in make_questions(g, i, tuple(KINDS), 2 * len(KINDS))
    ]


def named(graph: Graph, words: str) -> list[Thing]:
    """Objects that fit words such as `red chair`, `chairs`, `white objects`."""
    wanted = set(words.replace("shelves", "shelf").split())
    colors = wanted & set(COLORS)
    categories = {k for k in CATEGORIES if k in wanted or k + "s" in wanted}
    return [
        t
        for t in graph.things
        if (not colors or t.color in colors) and (not categories or t.category in categories)
    ]


def only(things: list[Thing]) -> Thing:
    assert len(things) == 1
    return things[0]


def floor(thing: Thing) -> np.ndarray:
    return np.array(thing.center_m[:2])


def nearest_to(graph: Graph, anchor: Thing) -> Thing:
    others = [t for t in graph.things if t.number != anchor.number]
    return others[int(np.argmin([np.linalg.norm(floor(t) - floor(anchor)) for t in others]))]


def largest(things: list[Thing]) -> Thing:
    return things[int(np.argmax([np.prod(t.extents_m) for t in things]))]


def at_point(graph: Graph, text: str) -> Thing:
    match = re.search(r"\[(.+)\]", text)
    assert match is not None
    point = np.array([float(v) for v in match[1].split(",")])
    return only(
        [
            t
            for t in graph.things
            if (np.abs(point - t.center_m) <= np.array(t.extents_m) / 2 + 1e-3).all()
        ]
    )


def answer_again(graph: Graph, question: RoomQuestion) -> str:
    text = question.text
    if question.kind == "existence":
        return "yes" if named(graph, text.rstrip("?")) else "no"
    if question.kind == "count":
        return NUMBERS[len(named(graph, text.split("many ")[1].split(" are")[0]))]
    if question.kind == "color":
        return only(
            named(
                graph,
                (
                    text.rstrip("?").split()[-1]
                    if "of the" in text
                    else text.rstrip("?").split("the ")[1]
                ),
            )
        ).color
    if question.kind == "category":
        return (
            at_point(graph, text).category
            if "[" in text
            else only(named(graph, text.rstrip("?"))).category
        )
    if question.kind == "nearest":
        return nearest_to(graph, only(named(graph, text.split("the ")[1].rstrip("?")))).category
    if question.kind == "multihop":
        group = named(graph, text.rstrip("?").split()[-1])
        return nearest_to(graph, largest(group)).color
    if question.kind == "superlative":
        tallest = max(graph.things, key=lambda t: t.center_m[2] + t.extents_m[2] / 2)
        return largest(list(graph.things)).color if "largest" in text else tallest.category
    if question.kind == "caption":
        thing = at_point(graph, text)
        return f"{'an' if thing.color == 'orange' else 'a'} {thing.color} {thing.category}"
    things = [only(named(graph, f"{c} {k}")) for c, k in re.findall(r"the (\w+) (\w+)", text)[:3]]
    if question.kind in ("relation", "side"):
        at, facing, thing = things
        a, b = floor(facing) - floor(at), floor(thing) - floor(at)
        turn = math.degrees(math.atan2(a[0] * b[1] - a[1] * b[0], float(a @ b)))
        side = "behind" if abs(turn) > 130 else "left" if turn > 0 else "right"
        return side if question.kind == "relation" else "yes" if side in text else "no"
    if question.kind == "within":
        match = re.search(r"many (.+) are within (.+) m", text)
        assert match is not None
        group = graph.things if match[1] == "objects" else named(graph, match[1])
        near = [t for t in group if np.hypot(*(floor(t) - floor(things[0]))) < float(match[2])]
        return NUMBERS[len([t for t in near if t is not things[0]])]
    if question.kind == "between":
        found = [t for t in graph.things if t not in things and strip(*things, t)]
        return only(found).category if found else "nothing"
    below = [t for t in graph.things if t is not things[0] and carries(t, things[0])]
    above = [t for t in graph.things if t is not things[-1] and carries(things[-1], t)]
    if question.kind == "under":
        return below[0].category if below else "floor"
    assert question.kind == "on"
    if question.form == "on_yes":
        return "yes" if things[0] in above else "no"
    return above[0].category if above else "nothing"


def carries(low: Thing, high: Thing) -> bool:
    """Whether the lower side of `high` lies on top of `low`, above its middle part."""
    gap = (high.center_m[2] - high.extents_m[2] / 2) - (low.center_m[2] + low.extents_m[2] / 2)
    off = np.abs(floor(high) - floor(low))
    return abs(gap) < 0.03 and bool((off <= np.array(low.extents_m[:2]) / 2).all())


def strip(a: Thing, b: Thing, thing: Thing) -> bool:
    """Whether it stands within half a metre of the way from one to the other, sampled."""
    ways = [floor(a) + share * (floor(b) - floor(a)) for share in np.linspace(0.1, 0.9, 81)]
    return min(float(np.linalg.norm(floor(thing) - way)) for way in ways) < 0.5


def test_answers_derived_again_are_the_same(asked: QueryContext) -> None:
    counted: Counter[str] = Counter()
    for graph, question in asked:
        if not question.phrase:
            assert answer_again(graph, question) == question.answer, question.text
            counted[question.kind] += 1
    assert set(counted) == set(KINDS) - {"grounding", "absent"}
    assert min(counted.values()) > ROOMS // 4


def test_no_answer_is_too_frequent(asked: QueryContext) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question in asked:
        answers[question.kind][question.answer] += 1
    for kind, count in answers.items():
        if kind not in ("grounding", "absent"):
            assert len(count) > 1
            assert max(count.values()) / sum(count.values()) <= 0.55, kind


def test_phrases_name_their_target_alone_and_absent_ones_nothing(asked: QueryContext) -> None:
    for graph, question in asked:
        if question.kind == "grounding":
            things = named(graph, question.phrase.removeprefix("the ").removeprefix("a "))
            thing = largest(things) if "largest" in question.phrase else only(things)
            assert thing.number == question.target
            assert question.unique == (len(graph.matching(category=thing.category)) == 1)
        elif question.kind == "absent":
            assert named(graph, question.phrase) == [], question.phrase
            assert question.target is None
    assert {q.unique for _, q in asked if q.kind == "grounding"} == {True, False}


def test_evidence_is_what_the_answer_rests_on(asked: QueryContext) -> None:
    for graph, question in asked:
        things = [t for t in graph.things if t.number in question.evidence]
        assert len(things) == len(question.evidence)
        if question.kind in ("color", "multihop"):
            assert only(things).color == question.answer
        elif question.kind == "count":
            assert NUMBERS[len(things)] == question.answer
            assert [t.center_m[0] for t in things_in_order(graph, question)] == sorted(
                t.center_m[0] for t in things
            )


def things_in_order(graph: Graph, question: RoomQuestion) -> list[Thing]:
    return [next(t for t in graph.things if t.number == n) for n in question.places]


def test_free_wordings_keep_answer_and_places_and_number_at_least_twelve(
    asked: QueryContext,
) -> None:
    assert min(map(len, WORDINGS.values())) >= 12
    draw = random.Random(2)
    said: dict[str, set[str]] = defaultdict(set)
    for _, question in asked:
        other = reword(question, draw)
        assert (other.answer, other.places, other.kind) == (
            question.answer,
            question.places,
            question.kind,
        )
        assert re.findall(r"-?\d+\.\d{3}", other.text) == re.findall(r"-?\d+\.\d{3}", question.text)
        said[question.kind].add(re.sub(r"\[.*\]", "", other.text))
    assert min(map(len, said.values())) > 40


def test_typos_change_one_word_by_one_letter() -> None:
    graph = graphs(make_rooms("val", torch.tensor([3])))[0]
    draw, changed = random.Random(0), 0
    for question in make_questions(graph, 9, ("color",), 300):
        plain = f"What color is the {question.names[0]}?"
        words = reword(question, draw).text.rstrip("?").split()
        if len(words) == len(plain.split()):
            off = [a for a, b in zip(words, plain.rstrip("?").split(), strict=True) if a != b]
            changed += len(off) == 1
    assert changed > 0


def test_same_seed_same_questions() -> None:
    graph = graphs(make_rooms("val", torch.tensor([3])))[0]
    kinds = tuple(random.Random(0).choices(list(KINDS), k=30))
    assert make_questions(graph, 9, kinds, 30) == make_questions(graph, 9, kinds, 30)
    assert make_questions(graph, 9, kinds, 30) != make_questions(graph, 10, kinds, 30)
