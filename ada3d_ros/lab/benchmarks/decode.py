"""Suite `decode` of `ada3d bench`: time per token after a full and a pruned prefill, beside the
memory's floor and transformers.

Floor: weights and keys and values read once per token, at the bandwidth measured between the runs
of the same process. Random weights: times are real, answers mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.lab.benchmarks.bench import Timing, interleaved, ratio_of, timed
from ada3d_ros.lab.benchmarks.models import (
    BenchScene,
    BenchShape,
    choose_dtype,
    head_of,
    make_model,
    make_scene,
)
from ada3d_ros.lab.benchmarks.pruning import make_variant
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.lab.benchmarks.transformers_baseline import TransformersRival
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.model.decoder import LlamaDecoder

TOKENS = 30  # steps timed per run
READ_BYTES = {"cpu": 2**28, "cuda": 2**31}  # far more than any cache holds


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """All scene sizes of one shape; the first keep ratio asked for."""
    dtype = choose_dtype(shape, options.precision, device)
    repetitions = options.repetitions or (20 if device.type == "cuda" else 5)
    keep = parse_list(options.keep_ratio, float, "--keep-ratio")[0]
    decoder, _ = make_model(shape, device, dtype)
    decoder.config = dataclasses.replace(
        decoder.config, eos_id=-1
    )  # every answer has all its tokens
    rival, rows = TransformersRival(decoder), []
    for count in shape.spatial:
        scene = make_scene(count, shape.hidden, device, decoder.dtype, options.seed)
        rows += _Bench(decoder, rival, scene, keep, options.seed).rows(
            repetitions, f"shape {shape.name}, N = {count}"
        )
    print(table(rows))
    return {
        **head_of("decode", shape, repetitions, dtype, device),
        "tokens": TOKENS,
        "rows": rows,
    }


@dataclass(eq=False, slots=True)
class _Variant:
    """One way to decode; `once` gives the time of TOKENS steps."""

    engine: str
    prefill: str
    keep_ratio: float
    kv_bytes: float  # read per step, mean over the steps
    once: Callable[[], Timing]
    times: list[Timing] = field(default_factory=list)

    def run(self) -> None:
        self.times.append(self.once())


class _Bench:
    """One scene, decoded in all ways in turn."""

    def __init__(
        self,
        decoder: LlamaDecoder,
        rival: TransformersRival,
        scene: BenchScene,
        keep: float,
        seed: int,
    ) -> None:
        self.decoder, self.device, self.spatial = decoder, decoder.device, len(scene.rows)
        self._read = torch.ones(READ_BYTES[self.device.type] // 4, device=self.device)
        self._copied = torch.empty_like(self._read) if self.device.type == "cuda" else None
        ways = (
            {"ordinary": False, "graph": True}
            if self.device.type == "cuda"
            else {"ordinary": False}
        )
        whole = make_variant(decoder, scene, "none", 1.0, 0, seed)
        pruned = make_variant(decoder, scene, "adatoken3d", keep, 0, seed)
        self.variants = []
        for name, made in (("full", whole), ("pruned", pruned)):
            output = prefill(decoder, made.prompt, TOKENS, made.pruner)
            kept = sum(output.counts) / len(output.counts) / self.spatial
            size = (
                2 * decoder.config.num_kv_heads * decoder.config.head_dim * decoder.dtype.itemsize
            )
            read = size * sum(length + TOKENS / 2 for length in output.cache.lengths)
            for engine, static in ways.items():
                once = functools.partial(self._ours, output, output.cache.lengths, static)
                self.variants.append(_Variant(engine, name, kept, read, once))
            if name == "full":
                theirs = functools.partial(rival.decode, made.prompt, TOKENS)
                self.variants.append(_Variant("transformers", name, kept, read, theirs))

    def _ours(self, start: PrefillOutput, lengths: tuple[int, ...], static: bool) -> Timing:
        start.cache.set_lengths(lengths)
        return timed(
            lambda: decode(self.decoder, start, GenerationRequest(TOKENS + 1), static=static),
            self.device,
        )

    def _pass(self) -> None:
        """The memory's speed: one large tensor read on a CPU, copied on a GPU."""
        if self._copied is None:
            self._read.sum()
        else:
            self._copied.copy_(self._read)

    def rows(self, repetitions: int, label: str) -> list[dict[str, Any]]:
        """A row per engine and prefill."""
        runs = {f"{v.engine}, {v.prefill}": v.run for v in self.variants}
        passes = interleaved(runs | {"memory": self._pass}, repetitions, self.device, label=label)[
            "memory"
        ]
        moved = self._read.numel() * 4 * (1 if self._copied is None else 2)
        weights = sum(
            p.numel() * p.element_size()
            for name, p in self.decoder.named_parameters()
            if not name.startswith("embed")
        )
        rival = next(v for v in self.variants if v.engine == "transformers").times[
            1:
        ]  # without the warm-up
        rows = []
        for v in self.variants:
            share = (weights + v.kv_bytes) / moved
            floors = [Timing(t.wall_s * share, t.cpu_s * share) for t in passes]
            each = [Timing(t.wall_s / TOKENS, t.cpu_s / TOKENS) for t in v.times[1:]]
            rows.append(
                {
                    "N": self.spatial,
                    "engine": v.engine,
                    "prefill": v.prefill,
                    "keep_ratio_achieved": v.keep_ratio,
                    "ms_per_token": Spread.from_values([t.of(self.device) * 1e3 for t in each]),
                    "wall_ms_per_token": Spread.from_values([t.wall_s * 1e3 for t in each]),
                    "floor_ms": Spread.from_values([t.of(self.device) * 1e3 for t in floors]),
                    "floor_ratio": ratio_of(each, floors, self.device),
                    "transformers_ratio": ratio_of(v.times[1:], rival, self.device),
                    "weight_mib": weights / 2**20,
                    "kv_mib": v.kv_bytes / 2**20,
                    "bandwidth_gb_s": Spread.from_values(
                        [moved / t.of(self.device) / 1e9 for t in passes]
                    ),
                }
            )
        return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'N':>5} {'engine':<13} {'prefill':<7} {'ms per token':>24} {'floor ms':>8}"
        f" {'over floor':>20} {'over transformers':>20}"
    ]
    for r in rows:
        lines.append(
            f"{r['N']:>5} {r['engine']:<13} {r['prefill']:<7} {r['ms_per_token']!s:>24}"
            f" {r['floor_ms'].median:>8.2f} {r['floor_ratio']!s:>20}"
            f" {r['transformers_ratio']!s:>20}"
        )
    return "\n".join(lines)
