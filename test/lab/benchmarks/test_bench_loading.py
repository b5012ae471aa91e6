"""Suite `loading` of `ada3d bench`: its checkpoints, its rows, and nothing left behind.

No time is judged here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks import loading
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_weights
from ada3d_ros.model.random_checkpoint import write_random_checkpoint

CPU = torch.device("cpu")
TINY = BenchShape("tiny", 128, 3, 192, (120,), low_precision=False)
MEGABYTES = 24  # the vocabulary alone is 16 MB in bfloat16


def test_a_row_per_source(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "MEGABYTES", MEGABYTES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    results = loading.run_shape(TINY, make_options(), CPU)
    check_head(results, "loading")
    assert [(r["file"], r["stored"]) for r in results["rows"]] == [
        ("safetensors", "bfloat16"),
        ("safetensors", "float16"),
        ("safetensors", "float32"),
        ("bin", "bfloat16"),
    ]
    for r in results["rows"]:
        width = {"bfloat16": 2, "float16": 2, "float32": 4}[r["stored"]]
        assert r["bytes"] == pytest.approx(r["weight_bytes"] * width / 2, rel=0.02)
        assert r["shards"] > 1
        assert r["largest_shard_bytes"] < r["bytes"]
        assert r["load_ms"].n == r["speed_over_read"].n == r["open_wall_ms"].n == 2
        assert r["host_peak_beyond_weights_bytes"] <= r["host_peak_limit_bytes"]
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert "speed / read" in capsys.readouterr().out


def test_bin_holds_the_same_weights(tmp_path: Path) -> None:
    config = loading.config_of(TINY, 20 * 10**6, torch.float16)
    write_random_checkpoint(tmp_path, 0, config, 5 * 10**6, torch.float16)
    mapped = load_weights(inspect_checkpoint(tmp_path)).state_dict()
    loading.rewrite_as_bin(tmp_path)
    pickled = load_weights(inspect_checkpoint(tmp_path)).state_dict()
    assert not list(tmp_path.glob("*safetensors*"))
    assert all(torch.equal(mapped[name], value) for name, value in pickled.items())


def test_layers_make_up_the_bytes() -> None:
    per_layer = 4 * 128**2 + 3 * 128 * 192
    for layers in (1, 7):
        size = 2 * (2 * 32000 * 128 + layers * per_layer)
        config = loading.config_of(TINY, size, torch.bfloat16)
        assert config.decoder.num_layers == layers
    assert loading.config_of(TINY, 10, torch.bfloat16).decoder.num_layers == 1


def test_a_full_disk_is_said_before_anything_is_written(
    make_options: Callable[..., argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEGABYTES", 10**9)
    with pytest.raises(ConfigError, match=r"GB free, the suite loading writes .* TMPDIR"):
        loading.run_shape(TINY, make_options(), CPU)
