"""The latency model on times made by a known line, and the budgets it picks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ada3d_ros.engine.deadline import MARGIN, MODES, WINDOW, LatencyModel
from ada3d_ros.usage import TokenUsage
from test.support.pipelines import timed_answer

RATIOS = (0.8, 0.6, 0.4, 0.2)
WARM = [(ratio, "none") for ratio in RATIOS]


# Spatial tokens, seconds to the first token, per further one and beside both, tokens generated.
Measured = tuple[float, float, float, float, int]


def measured(tokens: float, generated: int = 11, rest_s: float = 0.1) -> Measured:
    """First token 0.5 s and 1 ms per spatial token, 20 ms and 10 us per step."""
    return tokens, 0.5 + 0.001 * tokens, 0.02 + 1e-5 * tokens, rest_s, generated


def taught(*answers: Measured, mode: str = "none") -> LatencyModel:
    model = LatencyModel()
    for answer in answers:
        model.record(timed_answer(*answer, mode))
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [0.0, 250.0, 1000.0, 3000.0])
def test_lines_are_found_again(mode: str, tokens: float) -> None:
    model = taught(*(measured(n) for n in (100, 400, 800, 1600)), mode=mode)
    expected = 0.5 + 0.001 * tokens + 10 * (0.02 + 1e-5 * tokens) + 0.1
    assert model.predict(mode, tokens, 100) == pytest.approx(expected)
    others = [model.predict(other, tokens, 100) for other in MODES if other != mode]
    assert all(map(math.isnan, others))  # learnt apart


def test_an_answer_stopped_before_its_first_token_teaches_nothing() -> None:
    """One made every prediction NaN for the next 64 answers."""
    known, stopped = [measured(100), measured(400)], (200.0, math.nan, math.nan, math.nan, 0)
    expected = taught(*known).predict("none", 250, 100)
    assert taught(*known, stopped).predict("none", 250, 100) == expected


@pytest.mark.parametrize("mode", MODES)
def test_what_was_prepared_for_later_questions_is_no_time_of_this_one(mode: str) -> None:
    """Views and the cached scene took 0.4 s before a question of 0.03 s: 64 answers were cut."""
    model = LatencyModel()
    for first_token_s, prepared_s in ((0.43, 0.4), (0.03, 0.0), (0.43, 0.4)):
        model.record(timed_answer(400, first_token_s, 0.001, 0.0, 11, mode), prepared_s)
    assert model.predict(mode, 400, 100) == pytest.approx(0.03 + 10 * 0.001)


@pytest.mark.parametrize("slow", [0, 3, 7, 11])
def test_one_question_that_met_a_busy_machine_moves_no_line(slow: int) -> None:
    """Nor a third of them, at one budget or at several."""
    for tokens in ([400.0] * 12, [200.0, 300.0, 400.0] * 4):
        answers = [measured(n) for n in tokens]
        expected = taught(*answers)
        answers[slow] = (tokens[slow], 9.0, 2.0, 3.0, 11)
        moved = taught(*answers)
        for at in (100, 400, 1000):
            assert moved.predict("none", at, 100) == pytest.approx(
                expected.predict("none", at, 100), rel=1e-6
            )
        assert moved.choose(WARM, 1000, 3.0, 100) == expected.choose(WARM, 1000, 3.0, 100)


def test_an_answer_is_of_usual_length_within_the_limit() -> None:
    model = taught(
        measured(100, generated=5), measured(200, generated=11), measured(300, generated=99)
    )
    per_step = 0.02 + 1e-5 * 200
    assert model.predict("none", 200, 100) == pytest.approx(0.7 + 10 * per_step + 0.1)
    assert model.predict("none", 200, 4) == pytest.approx(0.7 + 3 * per_step + 0.1)
    assert model.predict("none", 200, 1) == pytest.approx(0.8)


def test_the_usual_length_is_that_of_all_answers() -> None:
    """However the scene is served; the steps of other modes stand in for none of one's own."""
    model = taught(*[measured(100, generated=31)] * 3)
    model.record(timed_answer(100, 0.4, math.nan, 0.1, 1, "question"))
    step = 0.02 + 1e-5 * 100
    assert model.predict("none", 100, 99) == pytest.approx(0.6 + 30 * step + 0.1)
    assert model.predict("question", 100, 99) == pytest.approx(0.4 + 30 * step + 0.1)
    model.record(timed_answer(100, 0.4, 0.5, 0.1, 31, "question"))
    assert model.predict("question", 100, 99) == pytest.approx(0.4 + 30 * 0.5 + 0.1)
    assert (model.num_measured("question"), model.num_measured("build")) == (2, 0)
    model.record(timed_answer(100, 0.4, 0.5, 0.1, 31, "paper"))
    assert model.answered == 5


def test_one_budget_only() -> None:
    """A line through one x: cold questions through the origin, cached ones flat.

    Most of a cached question's time is its own.
    """
    cold, cached = taught(measured(400), mode="paper"), taught(measured(400), measured(401))
    steps = 10 * (0.02 + 1e-5 * 400)
    assert cold.predict("paper", 200, 100) == pytest.approx(0.45 + steps + 0.1)
    assert cold.predict("paper", 800, 100) == pytest.approx(1.8 + steps + 0.1)
    assert cached.predict("none", 100, 100) == pytest.approx(cached.predict("none", 800, 100))


def test_a_line_never_falls() -> None:
    """Noise may say that more tokens take less: then they take as long."""
    fast, slow = (1000, 0.1, 0.01, 0.0, 2), (100, 0.5, 0.03, 0.0, 2)
    model = taught(fast, slow)
    assert (
        model.predict("none", 50, 10)
        == model.predict("none", 2000, 10)
        == pytest.approx(0.3 + 0.02)
    )


def test_what_was_not_measured() -> None:
    """Answers of one token have no step time, and do not spoil that of others."""
    alone = taught((100, 0.5, math.nan, 0.1, 1))
    assert alone.predict("none", 100, 50) == pytest.approx(0.6)
    mixed = taught((100, 0.5, math.nan, 0.1, 1), measured(100), measured(100))
    assert math.isfinite(mixed.predict("none", 100, 50))
    assert math.isnan(LatencyModel().predict("none", 100, 50))
    zero = taught((0.0, 0.5, math.nan, 0.1, 1), mode="paper")
    assert zero.predict("paper", 100, 50) == pytest.approx(0.6)


def test_the_newest_answers_count() -> None:
    slow = (100, 9.0, 1.0, 0.0, 2)
    model = taught(*[slow] * WINDOW, *[(100, 0.1, 0.0, 0.0, 2)] * WINDOW)
    assert model.predict("none", 100, 2) == pytest.approx(0.1)


def test_an_answer_gives_its_mean_of_tokens_and_its_time_per_step() -> None:
    """75 tokens a layer on average; 0.4 s to the first of 10, 0.9 s for the others, 0.2 s more."""
    answer = timed_answer(0, 0.4, 0.1, 0.2, 10, "none")
    usage = TokenUsage(per_layer=(100, 100, 50, 50), generated=10)
    model = LatencyModel()
    model.record(replace(answer, tokens=usage))
    model.record(timed_answer(150.0, 0.8, 0.2, 0.2, 10, "none"))
    assert model.predict("none", 75, 100) == pytest.approx(0.4 + 9 * 0.1 + 0.2)
    assert model.predict("none", 75, 5) == pytest.approx(0.4 + 4 * 0.1 + 0.2)
    assert model.predict("none", 150, 100) == pytest.approx(0.8 + 9 * 0.2 + 0.2)


@pytest.mark.parametrize("wanted", range(len(RATIOS)))
def test_the_largest_budget_that_fits(wanted: int) -> None:
    model = taught(*(measured(n) for n in (100, 400, 800, 1600)))
    just = model.predict("none", RATIOS[wanted] * 1000, 100) / MARGIN
    assert model.choose(WARM, 1000, just + 1e-9, 100) == RATIOS[wanted]
    assert model.choose(WARM, 1000, just - 1e-6, 100) == RATIOS[min(wanted + 1, len(RATIOS) - 1)]


def test_out_of_reach_and_unknown() -> None:
    model = taught(measured(100), measured(900))
    assert model.choose(WARM, 1000, 1e-3, 100) == 0.2
    assert LatencyModel().choose(WARM, 1000, 1e-3, 100) == 0.8
    flat = taught(measured(400))
    assert flat.choose(WARM, 1000, 1e-3, 100) == 0.2  # as fast as the others, for all that is known
    with pytest.raises(IndexError):
        model.choose([], 1000, 1.0, 100)


def test_a_smaller_budget_may_be_slower() -> None:
    """A budget with a choice of its own passes the layers again: no way to meet a deadline."""
    model, mixed = (
        taught(measured(100), measured(900)),
        [(0.8, "none"), (0.6, "paper"), (0.2, "paper")],
    )
    assert model.choose(mixed, 1000, 1e-3, 100) == 0.8  # nothing is known of the others
    for tokens in (100, 900):
        model.record(timed_answer(tokens, 3.0 + 0.01 * tokens, 0.02, 0.1, 11, "paper"))
    assert model.choose(mixed, 1000, 1e-3, 100) == 0.8
    assert model.choose(mixed, 1000, 100.0, 100) == 0.8
    assert model.choose([(0.8, "paper"), (0.6, "paper"), (0.2, "none")], 1000, 2.0, 100) == 0.2
