"""Rankings of a cached scene without a question, against slow references in float64."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.pruning import scene_ranking as rankings
from ada3d_ros.pruning import scene_rivals as rivals
from ada3d_ros.pruning.question_queries import QueriesFile, QueryStatistics, RecordedQueries
from ada3d_ros.pruning.scene_ranking import (
    ExpectedRanking,
    PromptRanking,
    QueryRanking,
    RidingRows,
    SceneLayer,
    SceneRanking,
    scene_ranking,
)
from ada3d_ros.pruning.scene_rivals import (
    RandomRanking,
    ReadBackRanking,
    SelfAttentionRanking,
    ValueRanking,
)
from test.support.decoders import generator

LAYERS, START, SPATIAL, WIDTH = 3, 3, 17, 8
TOTAL = START + SPATIAL
PROMPTS = ((0, 4), (4, 5), (5, 11))
HEADS = pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 3), (4, 1)])


def rotate(vectors: torch.Tensor) -> torch.Tensor:
    """Dimension i with i + d/2 by its angle at a place behind the scene."""
    angles = (TOTAL + 5) / 10000.0 ** (torch.arange(WIDTH // 2) * 2 / WIDTH)
    low, high = vectors.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def scene_layer(
    heads: int,
    groups: int,
    prompts: tuple[tuple[int, int], ...] = PROMPTS,
    layer: int = 1,
    dtype: torch.dtype = torch.float32,
) -> SceneLayer:
    """A layer with planted random keys, values and rows; some tokens of the scene are gone."""
    made = generator(heads * 10 + groups)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made).to(dtype)

    rows = prompts[-1][1]
    queries, values = 2.0 * draw(heads, TOTAL, WIDTH), draw(groups, TOTAL, WIDTH)
    riding = RidingRows(
        2.0 * draw(heads, rows, WIDTH),
        draw(heads, rows, WIDTH),
        draw(groups, rows, WIDTH),
        prompts,
    )
    return SceneLayer(
        layer,
        draw(groups, TOTAL, WIDTH),
        (START, TOTAL),
        torch.arange(SPATIAL) * 3,
        None,
        riding,
        rotate,
        lambda: queries,
        lambda: values,
    )


# -- the slow references: numpy, float64, head by head and row by row


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits - logits.max())
    return wide / wide.sum()


def attention(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mean over heads of the softmax over all keys of one query per head, (T,)."""
    heads, groups = q.shape[0], k.shape[0]
    shares = [softmax(k[h * groups // heads] @ q[h] / math.sqrt(q.shape[1])) for h in range(heads)]
    return np.mean(shares, axis=0)


def of_prompts(at: SceneLayer) -> np.ndarray:
    """(P, n): each prompt's last token over the scene and its own prompt."""
    assert at.rows is not None
    found = []
    for start, stop in at.rows.prompts:
        keys = np.concatenate((exact(at.keys), exact(at.rows.k)[:, start:stop]), axis=1)
        found.append(attention(exact(at.rows.q)[:, stop - 1], keys)[START:TOTAL])
    return np.array(found)


@HEADS
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_prompts_rank_as_in_prompts_of_their_own(heads: int, groups: int, reduce: str) -> None:
    at = scene_layer(heads, groups)
    found = PromptRanking(reduce).scores(at)
    assert found.dtype == torch.float32
    expected = getattr(np, reduce)(of_prompts(at), axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=1e-8)


@HEADS
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_recorded_queries_rank_as_if_they_stood_behind_the_scene(
    heads: int, groups: int, reduce: str
) -> None:
    at = scene_layer(heads, groups)
    queries = torch.randn(LAYERS, heads, 5, WIDTH, generator=generator(1))
    found = QueryRanking(queries, reduce).scores(at)
    turned = exact(rotate(queries[at.layer]))
    each = [attention(turned[:, p], exact(at.keys))[START:TOTAL] for p in range(5)]
    expected = getattr(np, reduce)(each, axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=1e-8)


def statistics(heads: int, questions: int = 200) -> tuple[torch.Tensor, QueryStatistics]:
    """Correlated queries (L, H, P, d), and their moments."""
    made = generator(5)
    mixing = torch.randn(LAYERS, heads, WIDTH, WIDTH, generator=made) * 0.4
    drawn = torch.randn(LAYERS, heads, questions, WIDTH, generator=made) @ mixing
    queries = drawn + torch.randn(LAYERS, heads, 1, WIDTH, generator=made)
    return queries, QueryStatistics.from_queries(queries)


@HEADS
def test_expected_attention_in_closed_form(heads: int, groups: int) -> None:
    at, (_, known) = scene_layer(heads, groups), statistics(heads)
    found = ExpectedRanking(known.mean.float(), known.covariance.float()).scores(at)
    # The rotation as a matrix, so that R S R' is written out.
    matrix = exact(rotate(torch.eye(WIDTH))).T
    shares = []
    for h in range(heads):
        mean = matrix @ exact(known.mean)[at.layer, h]
        spread = matrix @ exact(known.covariance)[at.layer, h] @ matrix.T
        keys = exact(at.keys)[h * groups // heads]
        squares = np.array([k @ spread @ k for k in keys])
        shares.append(softmax(keys @ mean / math.sqrt(WIDTH) + squares / (2 * WIDTH)))
    expected = np.mean(shares, axis=0)[START:TOTAL]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-8)


def test_expected_attention_is_the_mean_over_many_questions() -> None:
    """The closed form against drawn normal queries: exp(q k) averaged, then normalised."""
    heads, at = 2, scene_layer(2, 1)
    made = generator(9)
    mean = torch.randn(LAYERS, heads, WIDTH, generator=made)
    root = 0.3 * torch.randn(LAYERS, heads, WIDTH, WIDTH, generator=made)
    covariance = root @ root.transpose(2, 3)
    found = ExpectedRanking(mean, covariance).scores(at)
    drawn = torch.randn(heads, 200_000, WIDTH, generator=made)
    queries = rotate(mean[at.layer][:, None] + drawn @ root[at.layer].transpose(1, 2))
    weights = torch.exp(queries @ at.keys[0].T / math.sqrt(WIDTH)).double().mean(dim=1)
    expected = (weights / weights.sum(dim=1, keepdim=True)).mean(dim=0)[START:TOTAL]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0.03)


@HEADS
def test_values_rank_by_their_length(heads: int, groups: int) -> None:
    at = scene_layer(heads, groups)
    expected = np.linalg.norm(exact(at.values()), axis=-1).mean(axis=0)[START:TOTAL]
    np.testing.assert_allclose(ValueRanking().scores(at).numpy(), expected, rtol=2e-6)


@HEADS
@pytest.mark.parametrize("block", [1, 2**22])
def test_reading_back_takes_the_largest_share(
    heads: int, groups: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reading row over the scene and what was read before it, in blocks of any size."""
    monkeypatch.setattr(rivals, "BLOCK_ELEMENTS", block)
    at = scene_layer(heads, groups, ((0, SPATIAL),))
    assert at.rows is not None
    best = np.zeros((groups, SPATIAL))
    for row in range(SPATIAL):
        keys = np.concatenate((exact(at.keys), exact(at.rows.k)[:, : row + 1]), axis=1)
        for h in range(heads):
            g = h * groups // heads
            shares = softmax(keys[g] @ exact(at.rows.q)[h, row] / math.sqrt(WIDTH))
            best[g] = np.maximum(best[g], shares[START:TOTAL])
    found = ReadBackRanking().scores(at).numpy()
    np.testing.assert_allclose(found, best.mean(axis=0), rtol=2e-6, atol=1e-8)


def test_reading_back_keeps_what_one_row_needs_much_over_what_all_need_a_little() -> None:
    """A planted scene: one reading row looks for token 2 alone, every row a little at token 9."""
    at = scene_layer(1, 1, ((0, SPATIAL),))
    assert at.rows is not None
    keys, q = torch.zeros_like(at.keys), torch.zeros_like(at.rows.q)
    keys[0, START + 2, 0], keys[0, START + 9, 1] = 1.0, 1.0
    q[0, :, 1], q[0, 4, 0] = 1.0 * WIDTH**0.5, 8.0 * WIDTH**0.5
    rows = replace(at.rows, q=q, k=torch.zeros_like(at.rows.k))
    scores = ReadBackRanking().scores(replace(at, keys=keys, rows=rows))
    assert scores.argsort(descending=True)[:2].tolist() == [2, 9]
    assert float(scores[2]) > 0.9


@HEADS
@pytest.mark.parametrize("block", [1, 2**22])
def test_self_attention_is_told_in_even_shares(
    heads: int, groups: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "BLOCK_ELEMENTS", block)
    at = scene_layer(heads, groups)
    received, queries = np.zeros(SPATIAL), exact(at.queries())
    for row in range(START, TOTAL):
        shares = attention(queries[:, row], exact(at.keys)[:, : row + 1]) * (row + 1)
        received[: row + 1 - START] += shares[START:]
    expected = received / np.arange(SPATIAL, 0, -1)
    np.testing.assert_allclose(SelfAttentionRanking().scores(at).numpy(), expected, rtol=2e-6)


def test_even_attention_gives_every_place_the_same_score() -> None:
    """The correction: without it, early tokens win because more queries see them."""
    at = scene_layer(2, 1)
    even = replace(at, keys=torch.zeros_like(at.keys))
    np.testing.assert_allclose(SelfAttentionRanking().scores(even).numpy(), 1.0, rtol=1e-6)


def test_random_numbers_hang_on_seed_layer_and_token() -> None:
    at, other = scene_layer(2, 1), scene_layer(2, 1, layer=2)
    found = RandomRanking(3).scores(at)
    assert found.dtype == torch.float32
    assert torch.equal(found, RandomRanking(3).scores(scene_layer(4, 2)))  # nothing else counts
    for another in (RandomRanking(4).scores(at), RandomRanking(3).scores(other)):
        assert not torch.equal(found, another)
    # In plain Python, so that it is the same on every device; a token keeps its number.
    assert (found * 2**24).tolist() == [mixed(3, 1, token) >> 8 for token in at.kept.tolist()]
    fewer = replace(at, kept=at.kept[5:7])
    assert torch.equal(RandomRanking(3).scores(fewer), found[5:7])


def mixed(seed: int, layer: int, token: int) -> int:
    def mix(x: int) -> int:
        x = (x ^ x >> 15) * 0x2C1B3C6D % 2**32
        x = (x ^ x >> 12) * 0x297A2D39 % 2**32
        return x ^ x >> 15

    return mix(mix(token) ^ mix(mix(seed + 1) + layer))


def test_random_numbers_are_spread_evenly() -> None:
    at = scene_layer(2, 1)
    found = RandomRanking(0).scores(replace(at, kept=torch.arange(20_000))).double()
    counts = torch.histc(found, bins=10, min=0, max=1)
    assert (counts - 2000).abs().max() < 200  # 4.7 standard deviations
    neighbours = torch.corrcoef(torch.stack((found[1:], found[:-1])))[0, 1]
    assert abs(float(neighbours)) < 0.03


EVERY: list[Callable[[int], SceneRanking]] = [
    lambda heads: PromptRanking(),
    lambda heads: QueryRanking(statistics(heads)[0]),
    lambda heads: ExpectedRanking(statistics(heads)[1].mean, statistics(heads)[1].covariance),
    lambda heads: ValueRanking(),
    lambda heads: ReadBackRanking(),
    lambda heads: SelfAttentionRanking(),
    lambda heads: RandomRanking(),
]


@pytest.mark.parametrize("make", EVERY)
def test_sums_are_in_float32(make: Callable[[int], SceneRanking]) -> None:
    """In bfloat16 models too: what is rounded is the queries and keys, not the scores."""
    ranking = make(4)
    rounded = scene_layer(4, 2, dtype=torch.bfloat16)
    assert rounded.rows is not None
    rows = RidingRows(
        rounded.rows.q.float(), rounded.rows.q_unroped.float(), rounded.rows.k.float(), PROMPTS
    )
    wide = replace(
        rounded,
        keys=rounded.keys.float(),
        rows=rows,
        queries=lambda: rounded.queries().float(),
        values=lambda: rounded.values().float(),
    )
    found = ranking.scores(rounded)
    assert found.dtype == torch.float32
    assert found.shape == (SPATIAL,)
    np.testing.assert_allclose(found.numpy(), ranking.scores(wide).numpy(), rtol=1e-6)


@pytest.mark.parametrize("make", EVERY)
def test_no_ranking_waits_for_the_device(make: Callable[[int], SceneRanking]) -> None:
    """Tensors without values: whatever the host would have to know raises."""
    ranking, at = make(4), scene_layer(4, 2)
    for name in ("queries", "mean", "covariance"):
        if hasattr(ranking, name):
            ranking = replace(ranking, **{name: getattr(ranking, name).to("meta")})  # type: ignore[type-var]
    assert at.rows is not None
    rows = RidingRows(
        at.rows.q.to("meta"), at.rows.q_unroped.to("meta"), at.rows.k.to("meta"), PROMPTS
    )
    there = replace(
        at,
        keys=at.keys.to("meta"),
        kept=at.kept.to("meta"),
        rows=rows,
        rotate=lambda vectors: vectors,
        queries=lambda: at.queries().to("meta"),
        values=lambda: at.values().to("meta"),
    )
    found = ranking.scores(there)
    assert (found.device.type, found.shape) == ("meta", (SPATIAL,))


# -- which one


@pytest.fixture(autouse=True)
def _not_warned_before() -> None:
    rankings.warn_no_statistics.cache_clear()


def recorded(with_file: bool, asked: int) -> RecordedQueries:
    queries, known = statistics(2)
    found = RecordedQueries(QueriesFile(known) if with_file else None)
    for i in range(asked):
        found.record(queries[:, :, i : i + 1])
    return found


@pytest.mark.parametrize("name", ["prompts", "values", "self_attention", "kvzip", "random"])
def test_rankings_by_name(name: str) -> None:
    found = scene_ranking(CacheConfig(ranking=name, prompts_score="max"), 7, None)
    assert found.name == name
    assert found.rides == {"prompts": "prompts", "kvzip": "scene"}.get(name, "")
    assert getattr(found, "seed", 7) == 7
    assert getattr(found, "reduce", "max") == "max"


@pytest.mark.parametrize(
    ("asked_for", "with_file", "asked", "got"),
    [
        ("auto", True, 0, "expected"),
        ("auto", False, 0, "prompts"),
        ("expected", True, 0, "expected"),
        ("expected", False, 1, "expected"),
        ("expected", False, 0, "prompts"),
        ("last_questions", True, 2, "last_questions"),
        ("last_questions", True, 0, "expected"),
        ("last_questions", False, 0, "prompts"),
    ],
)
def test_what_stands_in(asked_for: str, with_file: bool, asked: int, got: str) -> None:
    config = CacheConfig(ranking=asked_for)
    assert scene_ranking(config, 0, recorded(with_file, asked)).name == got
    if not with_file and not asked:
        assert scene_ranking(config, 0, None).name == got


def test_missing_statistics_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        for _ in range(3):
            scene_ranking(CacheConfig(ranking="expected"), 0, RecordedQueries())
            scene_ranking(CacheConfig(ranking="last_questions"), 0, None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "`ada3d calibrate --queries`" in caplog.text
