"""What `cache.prune: auto` chooses, on times made by known lines."""

from __future__ import annotations

import math

import pytest

from ada3d_ros.engine.deadline import LatencyModel
from ada3d_ros.engine.prune_choice import EXPLORED, MAX_TRIES, PruneChoice, SceneSize
from test.support.pipelines import timed_answer

SIZE = SceneSize(total=1000, keep_ratio=0.4, max_new_tokens=256)
# Seconds to the first token and per further one.
Times = dict[str, tuple[float, float]]
# A selection costs 20 ms at the first token and saves 4 ms a token: it pays from token 6 on.
SELECTS: Times = {"none": (0.060, 0.026), "question": (0.080, 0.022), "build": (0.050, 0.021)}


def answer(
    model: LatencyModel, times: Times, mode: str, length: int, size: SceneSize = SIZE
) -> float:
    """Record an answer of this mode; its seconds."""
    first, step = times[mode]
    tokens = size.total * (1.0 if mode == "none" else size.keep_ratio)
    model.record(timed_answer(tokens, first, step, 0.0, length, mode))
    return first + (length - 1) * step


def explored(times: Times, length: int) -> tuple[LatencyModel, PruneChoice]:
    model = LatencyModel()
    for mode in times:
        for _ in range(EXPLORED):
            answer(model, times, mode, length)
    return model, PruneChoice(model)


@pytest.mark.parametrize(
    ("length", "chosen"), [(1, "none"), (3, "none"), (5, "none"), (7, "question"), (30, "question")]
)
def test_a_question_is_served_by_the_usual_length_of_answers(length: int, chosen: str) -> None:
    _, choice = explored(SELECTS, length)
    assert choice.for_question(SIZE) == chosen
    expected = SELECTS[chosen][0] + (length - 1) * SELECTS[chosen][1]
    assert choice.answer_s(chosen, SIZE) == pytest.approx(expected)


def test_a_short_limit_is_a_short_answer() -> None:
    _, choice = explored(SELECTS, 30)
    assert choice.for_question(SceneSize(1000, 0.4, 3)) == "none"
    assert choice.for_question(SceneSize(1000, 0.4, 30)) == "question"


def test_each_mode_is_tried_twice_and_then_the_faster_one_is_taken() -> None:
    model, chosen = LatencyModel(), list[str]()
    choice = PruneChoice(model)
    for _ in range(10):
        mode = choice.for_question(SIZE)
        answer(model, SELECTS, mode, 30)
        chosen.append(mode)
    assert chosen == ["none"] * 2 + ["question"] * 8


def test_a_mode_that_answers_nothing_is_given_up() -> None:
    """Its questions fail or are stopped: no time is ever measured."""
    model = LatencyModel()
    choice = PruneChoice(model)
    for _ in range(EXPLORED):
        answer(model, SELECTS, choice.for_question(SIZE), 30)
    assert [choice.for_question(SIZE) for _ in range(MAX_TRIES + 2)] == [
        *["question"] * MAX_TRIES,
        "none",
        "none",
    ]
    assert choice.answer_s("question", SIZE) == math.inf


@pytest.mark.parametrize("fastest", ["none", "question", "build"])
@pytest.mark.parametrize("length", [1, 3, 30])
def test_never_slower_than_the_fastest_that_was_measured(fastest: str, length: int) -> None:
    """A run of scenes with twenty questions each: after what was tried, the fastest alone."""
    times = {mode: (first + 0.1, step + 0.01) for mode, (first, step) in SELECTS.items()}
    times[fastest] = (0.03, 0.02)
    model = LatencyModel()
    choice, spent = PruneChoice(model), list[float]()
    for _ in range(5):
        kind = choice.for_scene(SIZE)
        choice.record_build(kind, SIZE.total, 1.0)
        for _ in range(20):
            mode = "build" if kind == "build" else choice.for_question(SIZE)
            spent.append(answer(model, times, mode, length))
    best = 0.03 + (length - 1) * 0.02
    assert spent[40:] == [pytest.approx(best)] * 60


def test_an_unknown_kind_of_scene_is_tried_when_one_has_to_be_built() -> None:
    model = LatencyModel()
    choice = PruneChoice(model)
    assert choice.for_scene(SIZE) == "build"
    assert choice.for_scene(SIZE) == "build"  # nobody asked yet
    for _ in range(EXPLORED):
        answer(model, SELECTS, "build", 30)
    assert choice.for_scene(SIZE) == "whole"
    for _ in range(EXPLORED):
        answer(model, SELECTS, choice.for_question(SIZE), 30)
    assert choice.for_scene(SIZE) == "build"  # faster at 30 tokens than `none`, all that is known


def test_without_questions_both_kinds_are_tried_a_few_times_only() -> None:
    choice = PruneChoice(LatencyModel())
    kinds = [choice.for_scene(SIZE) for _ in range(2 * MAX_TRIES + 3)]
    assert kinds == ["build"] * MAX_TRIES + ["whole"] * MAX_TRIES + ["build"] * 3


def test_building_counts_by_the_questions_a_scene_answers() -> None:
    """Whole scenes answer 30 ms sooner here and take a second longer to build: 34 questions."""
    times = {"build": (0.080, 0.0), "none": (0.050, 0.0), "question": (0.060, 0.0)}
    for questions, chosen in ((10, "build"), (33, "build"), (34, "whole"), (60, "whole")):
        model, choice = explored(times, 1)
        assert choice.for_scene(SIZE) == "whole"  # not measured: by answers alone
        for n in range(6):  # scenes that each answered so many
            kind = "build" if n % 2 else "whole"
            choice.record_build(kind, 1000, 1.0 if kind == "build" else 2.0)
            for _ in range(questions):
                answer(model, times, "build" if kind == "build" else "none", 1)
        costs = choice.scene_costs(SIZE)
        assert costs["build"] == pytest.approx(1.0 + questions * 0.08)
        assert costs["whole"] == pytest.approx(2.0 + questions * 0.05)
        assert choice.for_scene(SIZE) == chosen


def test_build_times_grow_with_the_scene() -> None:
    times = {"build": (0.080, 0.0), "none": (0.050, 0.0), "question": (0.060, 0.0)}
    _, choice = explored(times, 1)
    for total in (500, 1000, 2000):
        choice.record_build("build", total, total / 1000)
        choice.record_build("whole", total, total / 500)
    for total in (300, 4000):
        costs = choice.scene_costs(SceneSize(total, 0.4, 256))
        assert costs["build"] == pytest.approx(total / 1000 + 0.08)
        assert costs["whole"] == pytest.approx(total / 500 + 0.05)
