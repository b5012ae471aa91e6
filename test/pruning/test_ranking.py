"""Rankings inside the decoder, and the mutual information behind `logistic`, against numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.errors import ModelError
from ada3d_ros.pruning.baselines.logistic import LogisticPruner, mutual_information
from ada3d_ros.pruning.ranking import (
    PruneContext,
    keep_best,
    question_relevance,
    random_scores,
    rank_scores,
)
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner
from test.support.decoders import generator

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)
START, SPATIAL, TEXT = 3, 20, 4
TOTAL = START + SPATIAL + TEXT


def context_of(q: torch.Tensor, k: torch.Tensor, layer: int = 1, rows: int = TEXT) -> PruneContext:
    """A context whose unroped queries and keys are others, so that a mix-up shows."""
    return PruneContext(
        layer,
        q,
        q.flip(1) * 0.5,
        k,
        k.flip(1) * 0.7,
        torch.arange(TOTAL - rows, TOTAL),
        torch.arange(TOTAL),
        (START, START + SPATIAL),
        torch.arange(SPATIAL),
    )


def random_context(
    seed: int = 0, heads: int = 4, groups: int = 2, scale: float = 2.0
) -> PruneContext:
    made = generator(seed)
    q = scale * torch.randn(heads, TEXT, 8, generator=made)
    return context_of(q, torch.randn(groups, TOTAL, 8, generator=made))


def attention_rows(q: torch.Tensor, k: torch.Tensor, softmax: bool = True) -> np.ndarray:
    """(H, R, T) float64 of the last R rows: logits, or their softmax over the keys before each.

    0 after the row.
    """
    heads, count, width = q.shape
    found = np.zeros((heads, count, TOTAL))
    for head in range(heads):
        for at in range(count):
            num_keys = TOTAL - count + at + 1
            keys = k[head * k.shape[0] // heads, :num_keys].double().numpy()
            logits = keys @ q[head, at].double().numpy() / math.sqrt(width)
            weights = np.exp(logits - logits.max())
            found[head, at, :num_keys] = weights / weights.sum() if softmax else logits
    return found


# -- ranking


@pytest.mark.parametrize("query", ["last", "all"])
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("score", ["softmax_mean", "logit_mean", "head_max"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (4, 4), (3, 1)])
def test_scores_against_numpy(score: str, rope: bool, query: str, heads: int, groups: int) -> None:
    context = random_context(1, heads, groups)
    q, k = (context.q, context.k) if rope else (context.q_unroped, context.k_unroped)
    rows = attention_rows(q, k, softmax=score != "logit_mean")[..., START : START + SPATIAL]
    per_query = rows.max(axis=0) if score == "head_max" else rows.mean(axis=0)
    expected = per_query[-1] if query == "last" else per_query.max(axis=0)
    found = rank_scores(context, score, query, rope)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_softmax_runs_over_all_keys_not_the_spatial_ones() -> None:
    """A token that a text key outshines in one head counts less there.

    The softmax is over everything alive.
    """
    q = torch.zeros(2, 1, 8)
    q[:, 0, 0] = 8.0
    k = torch.zeros(2, TOTAL, 8)
    k[0, START, 0], k[0, 0, 0] = 3.0, 20.0  # head 0: the system token takes nearly all
    k[1, START + 1, 0] = 2.5
    found = rank_scores(context_of(q, k, rows=1))
    assert found[1] > found[0]


@SETTINGS
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_p18_the_best_are_kept_and_of_equals_the_lowest_index(
    scores: list[int], data: st.DataObject
) -> None:
    """P13, P18: ascending, unique, the highest scores; ties go to the lowest index, every time."""
    count = data.draw(st.integers(1, len(scores)))
    best = keep_best(torch.tensor(scores, dtype=torch.float32), count).tolist()
    assert best == sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])
    assert best == keep_best(torch.tensor(scores, dtype=torch.float32), count).tolist()


def test_random_scores_depend_on_seed_and_layer_alone() -> None:
    context = random_context(1)
    same, other = random_context(2), context_of(context.q, context.k, layer=2)
    assert torch.equal(random_scores(context, 5), random_scores(same, 5))
    assert not torch.equal(random_scores(context, 5), random_scores(context, 6))
    assert not torch.equal(random_scores(context, 5), random_scores(other, 5))
    pruner = LayerPruner("x", RetentionSchedule((1.0, 0.5)), score="random", seed=5)
    assert torch.equal(pruner.rank(context), random_scores(context, 5))


def test_a_pruner_ranks_with_its_own_settings() -> None:
    context = random_context(3)
    for score, query, rope in (("logit_mean", "all", True), ("head_max", "last", False)):
        pruner = LayerPruner("x", RetentionSchedule((1.0,)), score=score, query=query, rope=rope)
        assert torch.equal(pruner.rank(context), rank_scores(context, score, query, rope))


# -- mutual information


def mutual_information_by_hand(context: PruneContext) -> float:
    """Entropies in float64: (H(rows) + H(columns) - H(joint)) / log(min(R, n))."""
    block = attention_rows(context.q, context.k).mean(axis=0)[:, START : START + SPATIAL]
    joint = block / block.sum()

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    found = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)
    return found / math.log(min(joint.shape))


@SETTINGS
@given(st.integers(0, 10_000), st.floats(0.0, 30.0))
def test_mutual_information_against_entropies(seed: int, scale: float) -> None:
    context = random_context(seed, scale=scale)
    assert float(mutual_information(context)) == pytest.approx(
        mutual_information_by_hand(context), abs=1e-4
    )


def pointed_context(targets: list[int], strength: float = 60.0) -> PruneContext:
    """Prompt token i attends to the spatial token targets[i] alone."""
    q, k = torch.zeros(1, TEXT, 32), torch.zeros(1, TOTAL, 32)
    for token in range(SPATIAL):
        k[0, START + token, token] = 1.0
    for row, target in enumerate(targets):
        q[0, row, target] = strength
    return context_of(q, k)


def test_mutual_information_reaches_its_extremes() -> None:
    """0 where all prompt tokens attend to one place or evenly, 1 where each attends to its own."""
    assert float(mutual_information(pointed_context([2, 9, 11, 19], 300.0))) == pytest.approx(
        1.0, abs=1e-5
    )
    assert float(mutual_information(pointed_context([7, 7, 7, 7], 300.0))) == pytest.approx(
        0.0, abs=1e-5
    )
    assert float(mutual_information(pointed_context([0, 1, 2, 3], 0.0))) == pytest.approx(
        0.0, abs=1e-5
    )
    half = float(mutual_information(pointed_context([2, 2, 11, 11], 300.0)))
    assert half == pytest.approx(math.log(2) / math.log(4), abs=1e-5)


def test_one_prompt_token_has_no_mutual_information() -> None:
    context = random_context()
    one = context_of(context.q[:, -1:], context.k, rows=1)
    assert float(mutual_information(one)) == 0.0


def logistic_pruner(keep_ratio: float = 0.5) -> LogisticPruner:
    return LogisticPruner(
        "logistic", RetentionSchedule((1.0,) * 16), probe_layer=1, keep_ratio=keep_ratio
    )


def test_logistic_is_steeper_where_tokens_attend_to_different_places() -> None:
    """Attention that differs between prompt tokens drops later and faster, at the same mean."""
    even = logistic_pruner().counts(1000, pointed_context([0, 1, 2, 3], 0.0))
    pointed = logistic_pruner().counts(1000, pointed_context([2, 9, 11, 19], 300.0))
    assert abs(sum(even) - sum(pointed)) <= 16
    assert max(-np.diff(pointed)) > 1.5 * max(-np.diff(even))


def test_logistic_without_a_probe_is_an_error() -> None:
    with pytest.raises(ModelError, match="attention of layer 2, which was not measured"):
        logistic_pruner().counts(100, None)


@pytest.mark.parametrize("where", ["q", "k"])
def test_logistic_says_that_the_probe_is_not_finite(where: str) -> None:
    context = random_context()
    getattr(context, where)[0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"attention of layer 2 is not finite"):
        logistic_pruner().counts(100, context)


# -- relevance


def test_question_relevance_is_the_normalised_cosine() -> None:
    made = generator(4)
    tokens, question = torch.randn(12, 16, generator=made), torch.randn(5, 16, generator=made)
    mean = question.double().mean(dim=0).numpy()
    cosine = [
        float(t @ mean / np.linalg.norm(t) / np.linalg.norm(mean)) for t in tokens.double().numpy()
    ]
    expected = (np.array(cosine) - min(cosine)) / (max(cosine) - min(cosine))
    found = question_relevance(tokens, question)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)


def test_question_relevance_of_tokens_all_alike_is_finite() -> None:
    assert torch.isfinite(question_relevance(torch.ones(5, 8), torch.ones(2, 8))).all()
