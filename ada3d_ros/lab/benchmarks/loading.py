"""Suite `loading` of `ada3d bench`: a checkpoint in shards, against reading its bytes.

A random checkpoint of the shape's widths, with as many layers as make MEGABYTES, is written to the
temporary folder in each format, loaded in bfloat16 from a warm disk, and deleted. Reading is timed
twice: into one small buffer (no loader is faster), and into memory that is kept, as a model's is.
Peaks are of all pages of the process in memory, those of the mapped file included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from ada3d_ros.config import ModelConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.bench import (
    Rows,
    Save,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
    wall_milliseconds,
)
from ada3d_ros.lab.benchmarks.models import BenchSettings
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_weights, revision_sha256
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.quantize import stored_bytes
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.model.startup import open_model
from ada3d_ros.model.weight_files import INDEX_FILES

MEGABYTES = 2000  # of weights
SHARDS = 4  # about so many
BUFFER_BYTES = 1 << 20
MAX_SHARD_SHARE, MAX_EXTRA_BYTES = 1.2, 10**9  # the aim: peak beyond the weights
# What is stored: format of the file, number format.
SOURCES = (
    ("safetensors", torch.bfloat16),
    ("safetensors", torch.float16),
    ("safetensors", torch.float32),
    ("bin", torch.bfloat16),
)
LOADED = torch.bfloat16
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """One row per source. Raises ConfigError where the temporary folder has no room."""
    settings = BenchSettings.from_options(shape, options, device)
    loaded = str(LOADED).removeprefix("torch.")
    rows = Rows({**settings.head("loading"), "loaded": loaded}, save)
    measure(settings, MEGABYTES * 10**6, rows)
    print(table(rows.rows))
    return rows.results


def measure(settings: BenchSettings, num_bytes: int, rows: Rows) -> None:
    """Adds one row per source of about so many bytes. Raises ConfigError as `run_shape`."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < 2 * num_bytes:
        raise ConfigError(
            f"{folder} has {free / 1e9:.1f} GB free, the suite loading writes {num_bytes / 1e9:.1f}"
            " GB there and once more for .bin: name another folder in TMPDIR."
        )
    for kind, dtype in SOURCES:
        with tempfile.TemporaryDirectory(prefix="ada3d_loading_") as path:
            config = config_of(settings.shape, num_bytes, dtype)
            write_random_checkpoint(path, settings.seed, config, num_bytes // SHARDS, dtype)
            if kind == "bin":
                rewrite_as_bin(Path(path))
            rows.add([_row(_Source(Path(path), settings.device), dtype, settings)])


def config_of(shape: BenchShape, num_bytes: int, dtype: torch.dtype) -> LlavaConfig:
    """The shape's widths with as many layers as make about so many bytes, one at least."""
    one = shape.config
    per_layer = 4 * one.hidden_size**2 + 3 * one.hidden_size * one.intermediate_size
    rest = num_bytes // dtype.itemsize - 2 * one.vocab_size * one.hidden_size
    decoder = replace(one, num_layers=max(1, round(rest / per_layer)))
    return LlavaConfig(decoder, TINY_CONFIG.vision, random_weights=True)


def rewrite_as_bin(folder: Path) -> None:
    """The folder's safetensors as pytorch_model*.bin."""
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), folder / _bin_name(file.name))
        file.unlink()
    index = folder / INDEX_FILES[0]
    if index.is_file():
        data = json.loads(index.read_text(encoding="utf-8"))
        names = {name: _bin_name(file) for name, file in data["weight_map"].items()}
        (folder / INDEX_FILES[1]).write_text(json.dumps({"weight_map": names}), encoding="utf-8")
        index.unlink()


def _bin_name(name: str) -> str:
    return f"pytorch_{name.removesuffix('.safetensors')}.bin"


@dataclass(frozen=True, slots=True)
class _Source:
    """A checkpoint folder, and what is timed on it."""

    folder: Path
    device: torch.device

    @property
    def files(self) -> tuple[Path, ...]:
        return inspect_checkpoint(self.folder).files

    def read(self) -> None:
        """All bytes into one buffer."""
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for file in self.files:
            with file.open("rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass

    def keep(self) -> list[bytes]:
        """All bytes into memory of their own."""
        return [file.read_bytes() for file in self.files]

    def load(self) -> torch.nn.Module:
        model = load_weights(inspect_checkpoint(self.folder), self.device, LOADED)
        return cast(torch.nn.Module, model)

    def digest(self) -> str:
        return revision_sha256(inspect_checkpoint(self.folder))

    def open(self) -> object:
        """As the node does: loaded, and its digest made."""
        config = ModelConfig(path=str(self.folder), device=str(self.device), precision="bf16")
        return open_model(config)


def _row(source: _Source, dtype: torch.dtype, settings: BenchSettings) -> dict[str, Any]:
    device, threads = settings.device, torch.get_num_threads()
    sizes = [file.stat().st_size for file in source.files]
    variants: dict[str, Callable[[], Any]] = {
        "read": source.read,
        "keep": source.keep,
        "load": source.load,
        "digest": source.digest,
    }
    times = interleaved(variants, settings.repetitions, device, label=source.files[0].suffix)
    both = interleaved({"open": source.open}, settings.repetitions, device, label="open")
    torch.set_num_threads(threads)
    peak, weights = host_peak_bytes(source.load)
    beyond = peak - weights if device.type == "cpu" else peak
    return {
        "file": source.files[0].suffix.lstrip("."),
        "stored": str(dtype).removeprefix("torch."),
        "bytes": sum(sizes),
        "shards": len(sizes),
        "largest_shard_bytes": max(sizes),
        "weight_bytes": weights,
        **{f"{name}_ms": milliseconds(taken, device) for name, taken in times.items()},
        "open_wall_ms": wall_milliseconds(both["open"]),
        "digest_wall_ms": wall_milliseconds(times["digest"]),
        "speed_over_read": ratio_of(times["read"], times["load"], device),
        "speed_over_keep": ratio_of(times["keep"], times["load"], device),
        "host_peak_beyond_weights_bytes": beyond,
        "host_peak_limit_bytes": int(MAX_SHARD_SHARE * max(sizes)) + MAX_EXTRA_BYTES,
    }


def host_peak_bytes(load: Callable[[], torch.nn.Module]) -> tuple[int, int]:
    """Most pages of this process in memory while `load` runs, less those before it, in bytes; and
    the bytes of the weights that came of it.
    """
    CLEAR_REFS.write_text("5", encoding="utf-8")  # the peak begins anew
    before = _status("VmRSS")
    weights = stored_bytes(load())
    return _status("VmHWM") - before, weights


def _status(name: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For a terminal."""
    lines = [
        f"{'file':<13}{'stored':<10}{'GB':>6}{'read ms':>9}{'load ms':>9}{'digest ms':>11}"
        f"{'speed / read':>22}{'speed / kept':>22}{'peak MB':>9}{'limit':>7}"
    ]
    lines += [
        f"{r['file']:<13}{r['stored']:<10}{r['bytes'] / 1e9:6.2f}{r['read_ms'].median:9.0f}"
        f"{r['load_ms'].median:9.0f}{r['digest_ms'].median:11.0f}{r['speed_over_read']!s:>22}"
        f"{r['speed_over_keep']!s:>22}{r['host_peak_beyond_weights_bytes'] / 1e6:9.0f}"
        f"{r['host_peak_limit_bytes'] / 1e6:7.0f}"
        for r in rows
    ]
    return "\n".join(lines)
