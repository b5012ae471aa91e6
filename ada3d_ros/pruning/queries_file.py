"""Files of questions' queries: safetensors with what they came from in the header.

Written by `ada3d calibrate --queries` and `--held`, read by the node (`cache.queries_file`), or
found beside a checkpoint's weights. They hold mean and covariance of the last tokens' queries per
layer, and what each layer's share of a cached scene is worth.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.question_queries import QueriesFile, QueryStatistics

logger = logging.getLogger(__name__)

QUERIES_FILE = "scene_queries.safetensors"  # its name beside a checkpoint's weights
FORMAT = "ada3d_scene_queries_1"
AGAIN = "write it anew with `ada3d calibrate --queries`, or delete it to do without one"
BY_QUERIES = ("expected", "last_questions")  # values of cache.ranking that learn from questions
WITH_STATISTICS = ("auto", *BY_QUERIES)  # those that rank by a file's
MIN_WORTH, MAX_WORTH = 0.05, 4.0  # of a layer's share, the mean being 1


class HeadSizes(NamedTuple):
    """Layers, heads and head dimension of a decoder."""

    num_layers: int
    num_heads: int
    head_dim: int


def write_queries(path: str | Path, file: QueriesFile, provenance: Mapping[str, Any]) -> Path:
    """Write a file of queries, with its statistics; its folder is made."""
    from safetensors.torch import save_file  # loaded where it is needed

    known = file.statistics
    assert known is not None
    facts = {
        "format": FORMAT,
        "model": file.model,
        "sha256": file.sha256,
        "random_weights": file.random_weights,
        "questions": known.count,
        "sources": list(file.sources),
        "provenance": dict(provenance),
    }
    tensors = {"mean": known.mean, "covariance": known.covariance}
    if file.held is not None:
        tensors["held"] = torch.tensor(file.held)
    stored = {name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, path, {"queries": json.dumps(facts)})
    path.chmod(0o644)  # save_file makes it private
    return path


def find_queries_file(configured: str, checkpoint: Path) -> Path | None:
    """The configured file, else the one beside the checkpoint's weights, else None."""
    if configured:
        return Path(os.path.expanduser(configured))  # without a word on a user who is not there
    beside = checkpoint / QUERIES_FILE
    return beside if beside.is_file() else None


def read_queries(path: Path, sizes: HeadSizes, with_statistics: bool = True) -> QueriesFile:
    """Read and check a file for a decoder of these sizes; without statistics, they are checked and
    not kept.

    Raises ConfigError that names what is wrong, what is allowed, and what to do.
    """
    facts, tensors = _read(path)
    count = facts.get("questions")
    if not isinstance(count, (int, float)) or isinstance(count, bool) or not 1 <= count < math.inf:
        raise ConfigError(
            f"{path} was made of {count!r} questions; allowed: 1 or more. {AGAIN.capitalize()}."
        )

    # Every tensor as this decoder needs it.
    L, H, d = sizes
    shapes = {"mean": (L, H, d), "covariance": (L, H, d, d), "held": (L,)}
    for name in shapes.keys() - {"held"} - tensors.keys():
        raise ConfigError(f"{path} lacks the tensor {name}: {AGAIN}.")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ConfigError(f"{path} holds an unknown tensor {name!r}: {AGAIN}.")
        _check_tensor(path, name, tensor, shapes[name])
    if "held" in tensors:
        _check_worth(path, tensors["held"])
    sources = facts.get("sources")
    statistics = QueryStatistics(float(count), tensors["mean"], tensors["covariance"])
    return QueriesFile(
        statistics if with_statistics else None,
        tuple(tensors["held"].tolist()) if "held" in tensors else None,
        str(facts.get("model", "")),
        str(facts.get("sha256", "")),
        tuple(map(str, sources)) if isinstance(sources, list) else (),
        bool(facts.get("random_weights", False)),
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The facts of the header, and the tensors."""
    from safetensors import SafetensorError, safe_open  # loaded where it is needed

    if not os.path.isfile(path):  # also: not to be read, no name of a file
        raise ConfigError(
            f"cache.queries_file: there is no file at {path}: write one with `ada3d calibrate"
            " --queries`, or leave it empty."
        )
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("queries", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as a file of queries ({error}): {AGAIN}."
        ) from None
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"{path} has format {found!r}, expected {FORMAT!r}: it is not a file of queries;"
            f" {AGAIN}."
        )
    return facts, tensors


def _check_tensor(path: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ConfigError(
            f"{path}: {name} is {tuple(tensor.shape)}, this decoder needs {shape} (layers, heads,"
            f" head dimension): it belongs to another model; {AGAIN}."
        )
    if tensor.dtype != torch.float32:
        raise ConfigError(f"{path}: {name} is in {tensor.dtype}, expected torch.float32: {AGAIN}.")
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigError(f"{path}: {name} holds NaN or infinity: {AGAIN}.")
    if name == "covariance" and bool((tensor.diagonal(dim1=-2, dim2=-1) < 0).any()):
        raise ConfigError(f"{path}: covariance has a variance below 0: {AGAIN}.")


def _check_worth(path: Path, held: torch.Tensor) -> None:
    low, high, mean = float(held.min()), float(held.max()), float(held.mean())
    if low < 0.0 or abs(mean - 1.0) > 1e-3:
        raise ConfigError(
            f"{path}: held has values from {low:g} to {high:g} with mean {mean:g}; allowed: 0 or"
            " more, mean 1. Measure it anew with `ada3d calibrate --held`."
        )


class QueryFiles:
    """The files of queries of one checkpoint: the configured one, or that beside its weights.

    It is read when it is set: by `check`, and for the first who asks under the settings.
    """

    def __init__(self, checkpoint: Path, sizes: HeadSizes) -> None:
        self._checkpoint, self._sizes = checkpoint, sizes
        self._read: tuple[object, QueriesFile | None] | None = None
        self._sha256 = ""

    def check(self, config: CacheConfig) -> QueriesFile | None:
        """The file as it is now, its statistics unread; None where there is none.

        Raises as `read_queries`.
        """
        path = find_queries_file(config.queries_file, self._checkpoint)
        return None if path is None else read_queries(path, self._sizes, False)

    def in_force(self, config: CacheConfig) -> QueriesFile | None:
        """The file in force, with its statistics where `cache.ranking` ranks by them.

        One that cannot be read any more leaves what was read before in force, with a warning.
        """
        key, before = (config.queries_file, config.ranking in WITH_STATISTICS), self._read
        if before is None or before[0] != key:
            try:
                path = find_queries_file(config.queries_file, self._checkpoint)
                file = None if path is None else read_queries(path, self._sizes, key[1])
                self._warn(file)
            except ConfigError as error:
                logger.warning("%s What was read before stays in force.", error)
                file = None if before is None else before[1]
            self._read = before = key, file  # replaced, never changed: other threads ask, too
        return before[1]

    def warn_on_weight_mismatch(self, sha256: str) -> None:
        """From now on warn of a file, when it is read, of other weights than these loaded ones, or
        of random ones.
        """
        self._sha256 = sha256

    def _warn(self, file: QueriesFile | None) -> None:
        sha256 = self._sha256
        if file is None:
            return
        if file.random_weights:
            logger.warning(
                "the file of queries is of random weights: it says nothing about questions."
            )
        # The grounding head, which stands behind the weights and the tower, changes no query.
        if file.sha256 and sha256 and not sha256.startswith(file.sha256):
            logger.warning(
                "the file of queries is of %s (sha256 %s), the loaded weights have sha256 %s: write"
                " one for this model with `ada3d calibrate --queries`.",
                file.model,
                file.sha256[:12],
                sha256[:12],
            )
