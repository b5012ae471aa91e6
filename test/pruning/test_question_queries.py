"""Moments of questions' queries as they come, and the file that holds them."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.queries_file import (
    QUERIES_FILE,
    HeadSizes,
    QueryFiles,
    find_queries_file,
    read_queries,
    write_queries,
)
from ada3d_ros.pruning.question_queries import (
    LAST,
    MAX_WEIGHT,
    PENDING,
    QueriesFile,
    QueryStatistics,
    RecordedQueries,
)
from test.support.decoders import generator

SIZES = L, H, D = HeadSizes(3, 2, 4)


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    """Queries (L, H, count, d), far from 0 and correlated."""
    made = generator(seed)
    mixing = torch.randn(L, H, D, D, generator=made)
    return torch.randn(L, H, count, D, generator=made) @ mixing + 100.0


def moments(queries: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance by numpy's, in float64."""
    wide = queries.double().numpy()
    pairs = np.ndindex(L, H)
    spread = [np.cov(wide[at], rowvar=False, bias=True) for at in pairs]
    return wide.mean(axis=2), np.array(spread).reshape(L, H, D, D)


# -- moments


@pytest.mark.parametrize("parts", [(40,), (1, 1, 1, 37), (13, 1, 26)])
def test_moments_do_not_hang_on_how_the_questions_came(parts: tuple[int, ...]) -> None:
    queries = drawn(sum(parts))
    split = queries.split(list(parts), dim=2)
    found = QueryStatistics.from_queries(split[0])
    for part in split[1:]:
        found.update(part[:, :, 0] if part.shape[2] == 1 else part)
    mean, covariance = moments(queries)
    assert found.count == 40
    assert found.mean.dtype == torch.float64
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), covariance, rtol=1e-9, atol=1e-10)


def test_old_questions_weigh_as_many_as_allowed_at_most() -> None:
    """What was asked a thousand times before counts as MAX_WEIGHT questions beside 100 new ones."""
    old, new = drawn(1000, 1), drawn(100, 2) + 5.0
    found = QueryStatistics.from_queries(old)
    found.update(new)
    share = 100 / (MAX_WEIGHT + 100)
    (old_mean, old_spread), (new_mean, new_spread) = moments(old), moments(new)
    step = new_mean - old_mean
    np.testing.assert_allclose(found.mean.numpy(), old_mean + share * step, rtol=1e-12)
    between = share * (1 - share) * step[..., :, None] * step[..., None, :]
    spread = (1 - share) * old_spread + share * new_spread + between
    np.testing.assert_allclose(found.covariance.numpy(), spread, rtol=1e-9)
    assert found.count == MAX_WEIGHT + 100


def test_questions_are_counted_once_and_the_last_ones_kept() -> None:
    count = PENDING + 7
    queries, recorded = drawn(count), RecordedQueries()
    assert recorded.statistics() is None
    assert recorded.last() is None
    for i in range(count):
        # Of a question of three tokens the last one counts.
        recorded.record(torch.cat((torch.zeros(L, H, 2, D), queries[:, :, i : i + 1]), dim=2))
    last = recorded.last()
    assert last is not None
    assert torch.equal(last, queries[:, :, -LAST:])
    for _ in range(2):  # asking changes nothing
        known = recorded.statistics()
        assert known is not None
        assert known.count == count
        np.testing.assert_allclose(known.mean.numpy(), moments(queries)[0], rtol=1e-12)
        np.testing.assert_allclose(known.covariance.numpy(), moments(queries)[1], rtol=1e-9)


def test_questions_asked_count_on_from_the_file() -> None:
    queries = drawn(30)
    recorded = RecordedQueries(QueriesFile(QueryStatistics.from_queries(queries[:, :, :20])))
    for i in range(20, 30):
        recorded.record(queries[:, :, i : i + 1])
    known = recorded.statistics()
    assert known is not None
    assert known.count == 30
    np.testing.assert_allclose(known.covariance.numpy(), moments(queries)[1], rtol=1e-9)


def test_recording_keeps_a_copy_and_asks_nothing_of_the_device() -> None:
    """Tensors without values: a wait would raise. What is recorded outlives its buffer."""
    recorded = RecordedQueries()
    for _ in range(PENDING + 3):
        recorded.record(torch.empty(L, H, 5, D, device="meta"))
    known = recorded.statistics()
    assert known is not None
    assert (known.count, known.mean.dtype) == (PENDING + 3, torch.float32)
    buffer, of_cpu = drawn(1), RecordedQueries()
    of_cpu.record(buffer)
    expected = buffer.clone()
    buffer.zero_()
    last = of_cpu.last()
    assert last is not None
    assert torch.equal(last, expected)


# -- the file


def file_of(held: tuple[float, ...] | None = (0.5, 0.75, 1.75)) -> QueriesFile:
    return QueriesFile(
        QueryStatistics.from_queries(drawn(50)), held, "a model", "ab" * 32, ("room:0", "office")
    )


@pytest.mark.parametrize("held", [None, (0.5, 0.75, 1.75)])
def test_a_file_comes_back_as_it_was_written(
    tmp_path: Path, held: tuple[float, ...] | None
) -> None:
    file = file_of(held)
    path = write_queries(tmp_path / "made" / QUERIES_FILE, file, {"commit": "abc"})
    found = read_queries(path, SIZES)
    assert found.statistics is not None
    assert file.statistics is not None
    assert (found.held, found.model, found.sha256) == (held, "a model", "ab" * 32)
    assert (found.sources, found.random_weights) == (("room:0", "office"), False)
    assert found.statistics.count == 50
    np.testing.assert_allclose(found.statistics.mean, file.statistics.mean, rtol=1e-6)
    np.testing.assert_allclose(
        found.statistics.covariance, file.statistics.covariance, rtol=1e-5, atol=1e-6
    )
    assert path.stat().st_mode & 0o777 == 0o644
    with safe_open(path, "pt") as opened:
        assert json.loads(opened.metadata()["queries"])["provenance"] == {"commit": "abc"}


Change = Callable[[dict[str, torch.Tensor], dict[str, object]], None]


def _nan(tensors: dict[str, torch.Tensor], facts: dict[str, object]) -> None:
    tensors["mean"][1, 0, 2] = math.nan


CHANGES: dict[str, tuple[Change, str]] = {
    "layers": (
        lambda tensors, facts: tensors.update(mean=torch.zeros(4, H, D)),
        "mean is (4, 2, 4), this decoder needs (3, 2, 4)",
    ),
    "heads": (
        lambda tensors, facts: tensors.update(covariance=torch.zeros(L, 5, D, D)),
        "covariance is (3, 5, 4, 4), this decoder needs (3, 2, 4, 4)",
    ),
    "dtype": (
        lambda tensors, facts: tensors.update(mean=tensors["mean"].half()),
        "mean is in torch.float16, expected torch.float32",
    ),
    "nan": (_nan, "mean holds NaN or infinity"),
    "variance": (
        lambda tensors, facts: tensors.update(covariance=-tensors["covariance"]),
        "variance below 0",
    ),
    "missing": (lambda tensors, facts: (tensors.pop("covariance"), None)[1], "lacks the tensor"),
    "unknown": (lambda tensors, facts: tensors.update(other=torch.ones(1)), "unknown tensor"),
    "format": (lambda tensors, facts: facts.update(format="v2"), "has format 'v2'"),
    "count": (lambda tensors, facts: facts.update(questions=0), "made of 0 questions"),
    "worth": (
        lambda tensors, facts: tensors.update(held=torch.tensor([1.0, 1.0, 4.0])),
        "values from 1 to 4 with mean 2; allowed: 0 or more, mean 1",
    ),
    "negative": (
        lambda tensors, facts: tensors.update(held=torch.tensor([-1.0, 2.0, 2.0])),
        "values from -1 to 2",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_is_named_with_a_way_out(tmp_path: Path, name: str) -> None:
    path = write_queries(tmp_path / QUERIES_FILE, file_of(), {})
    with safe_open(path, "pt") as opened:
        facts = json.loads(opened.metadata()["queries"])
        tensors = {key: opened.get_tensor(key) for key in ("mean", "covariance", "held")}
    change, sentence = CHANGES[name]
    change(tensors, facts)
    save_file(tensors, path, {"queries": json.dumps(facts)})
    with pytest.raises(ConfigError) as caught:
        read_queries(path, SIZES)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "ada3d calibrate --" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / QUERIES_FILE
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as a file of queries"):
        read_queries(path, SIZES)
    with pytest.raises(ConfigError, match="there is no file at"):
        read_queries(tmp_path / "none", SIZES)


def test_the_file_beside_the_weights_is_found(tmp_path: Path) -> None:
    assert find_queries_file("", tmp_path) is None
    beside = write_queries(tmp_path / QUERIES_FILE, file_of(), {})
    assert find_queries_file("", tmp_path) == beside
    assert find_queries_file("elsewhere/q", tmp_path) == Path("elsewhere/q")


def test_another_models_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_queries(tmp_path / QUERIES_FILE, file_of(), {})
    for sha256, told in (("ab" * 32 + " head:" + "cd" * 32, False), ("ef" * 32, True)):
        caplog.clear()
        files = QueryFiles(tmp_path, SIZES)
        files.warn_on_weight_mismatch(sha256)
        with caplog.at_level(logging.WARNING, "ada3d_ros"):
            for _ in range(2):  # once, though every build asks
                assert files.in_force(CacheConfig()) is not None
        assert len(caplog.records) == told
    assert "efefefefefef" in caplog.text
    assert "a model (sha256 abababababab)" in caplog.text
    assert "`ada3d calibrate --queries`" in caplog.text


def test_a_file_of_random_weights_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = QueriesFile(file_of().statistics, random_weights=True)
    write_queries(tmp_path / QUERIES_FILE, file, {})
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        QueryFiles(tmp_path, SIZES).in_force(CacheConfig())
    assert "random weights" in caplog.text


def test_the_file_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Read when it is set, with its statistics where they rank; one that went stays in force."""
    files, default = QueryFiles(tmp_path, SIZES), CacheConfig()
    assert files.check(default) is None
    assert files.in_force(default) is None
    other = tmp_path / "other"
    write_queries(other, file_of(), {})
    for ranking, with_statistics in (("prompts", False), ("auto", True), ("expected", True)):
        config = CacheConfig(queries_file=str(other), ranking=ranking)
        found = files.in_force(config)
        assert found is not None
        assert files.in_force(config) is found
        assert (found.statistics is not None) == with_statistics
        assert found.held == (0.5, 0.75, 1.75)
    other.unlink()
    gone = CacheConfig(queries_file=str(other), ranking="last_questions")
    with pytest.raises(ConfigError, match="there is no file at"):
        files.check(gone)
    assert files.in_force(gone) is found  # not asked for anew: the same file, wanted alike
    moved = CacheConfig(queries_file=str(tmp_path / "moved"), ranking="expected")
    with caplog.at_level(logging.WARNING, "ada3d_ros"):
        assert files.in_force(moved) is found
    assert "stays in force" in caplog.text


def test_questions_asked_leave_the_files_statistics_alone() -> None:
    file = file_of()
    assert file.statistics is not None
    before = file.statistics.mean.clone()
    recorded = RecordedQueries(file)
    recorded.record(drawn(1, seed=3))
    known = recorded.statistics()
    assert known is not None
    assert (known.count, file.statistics.count) == (51, 50)
    assert torch.equal(file.statistics.mean, before)
