"""Suite `decode` of `ada3d bench`: time per token after a full and after a pruned prefill.

Beside it stand transformers (`generate`, and its three caches stepped by hand) and the memory's
floor: weights, keys and values read once per token,
at the bandwidth measured between the runs of the same process. Random weights: times are real,
answers mean nothing.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.lab.benchmarks.bench import (
    Rows,
    Save,
    Times,
    Timing,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
    timed,
    wall_milliseconds,
)
from ada3d_ros.lab.benchmarks.models import BenchScene, BenchSettings, make_model, make_policy
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.lab.benchmarks.transformers_baseline import (
    CACHES,
    HeldScene,
    TransformersRival,
    absent_caches,
)
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.model.decoder import LlamaDecoder

TOKENS = 30  # steps timed per run
READ_BYTES = {"cpu": 2**28, "cuda": 2**31}  # far more than any cache holds


def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """All scene sizes of one shape; the first keep ratio asked for."""
    settings = BenchSettings.from_options(shape, options, device)
    keep_ratio = parse_list(options.keep_ratio, float, "--keep-ratio")[0]
    decoder, _ = make_model(shape, device, settings.dtype)
    head = {**settings.head("decode"), "tokens": TOKENS, "absent": absent_caches(device)}
    rival, rows = TransformersRival(decoder), Rows(head, save)
    for count in shape.spatial:
        bench = _DecodeBench(decoder, rival, settings.make_scene(count), keep_ratio)
        rows.add(bench.measure(settings.repetitions, settings.label(count), rows.show))
    print(table(rows.rows))
    return rows.results


@dataclass(eq=False, slots=True)
class _Variant:
    """One way to decode; `decode_once` gives the time of TOKENS steps.

    kv_bytes: read per step, mean over the steps.
    """

    engine: str
    prefill: str
    keep_ratio: float
    kv_bytes: float
    decode_once: Callable[[], Timing]
    times: list[Timing] = field(default_factory=list)

    def run(self) -> None:
        self.times.append(self.decode_once())


class _MemoryProbe:
    """The memory's speed: one large tensor read on a CPU, copied on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._source = torch.ones(READ_BYTES[device.type] // 4, device=device)
        self._target = torch.empty_like(self._source) if device.type == "cuda" else None

    @property
    def num_bytes(self) -> int:
        """Moved per run."""
        return self._source.numel() * 4 * (1 if self._target is None else 2)

    def run(self) -> None:
        if self._target is None:
            self._source.sum()
        else:
            self._target.copy_(self._source)


class _DecodeBench:
    """One scene, decoded in all ways in turn."""

    def __init__(
        self, decoder: LlamaDecoder, rival: TransformersRival, scene: BenchScene, keep_ratio: float
    ) -> None:
        self.decoder, self.device, self.num_spatial = decoder, decoder.device, len(scene)
        self.probe = _MemoryProbe(self.device)
        self.variants: list[_Variant] = []
        pruner = scene.build_pruner(decoder, make_policy("adatoken3d", keep_ratio))
        prompt = scene.prompt()

        # Prefill once each way; decoding starts from its cache again and again.
        full = prefill(decoder, prompt, TOKENS)
        self._add_ours("full", full)
        theirs = {"transformers": functools.partial(rival.decode, prompt, TOKENS)}
        text = torch.cat((scene.system, scene.embeds))
        for cache in CACHES:
            if cache not in absent_caches(self.device):
                held = HeldScene(rival, text, len(scene.question) + TOKENS, cache)
                name = f"transformers {cache}"
                theirs[name] = functools.partial(held.decode, scene.question, TOKENS)
        self.variants += [
            _Variant(name, "full", self._kept(full), self._kv_bytes(full), once)
            for name, once in theirs.items()
        ]
        self._add_ours("pruned", prefill(decoder, prompt, TOKENS, pruner))

    def _add_ours(self, name: str, output: PrefillOutput) -> None:
        """Our engine after this prefill; on a GPU also with the steps in a CUDA graph."""
        engines = {"ordinary": False}
        if self.device.type == "cuda":
            engines["graph"] = True
        for engine, static in engines.items():
            once = functools.partial(self._decode, output, output.cache.lengths, static)
            self.variants.append(
                _Variant(engine, name, self._kept(output), self._kv_bytes(output), once)
            )

    def _kept(self, output: PrefillOutput) -> float:
        """Mean over layers of kept / total."""
        return sum(output.counts) / len(output.counts) / self.num_spatial

    def _kv_bytes(self, output: PrefillOutput) -> float:
        """Keys and values read by a step in the middle of the answer."""
        config = self.decoder.config
        per_token = 2 * config.num_kv_heads * config.head_dim * self.decoder.dtype.itemsize
        return per_token * sum(length + TOKENS / 2 for length in output.cache.lengths)

    def _decode(self, start: PrefillOutput, lengths: tuple[int, ...], static: bool) -> Timing:
        start.cache.set_lengths(lengths)
        return timed(
            lambda: decode(self.decoder, start, GenerationRequest(TOKENS + 1), static=static),
            self.device,
        )

    def measure(
        self, repetitions: int, label: str, show: Callable[[list[dict[str, Any]]], None]
    ) -> list[dict[str, Any]]:
        """A row per engine and prefill; show: gets the rows so far.

        What must be compiled first, for minutes, comes when all others are measured.
        """
        late = [v for v in self.variants if v.engine == "transformers compiled"]
        soon = [v for v in self.variants if v not in late]
        weights = sum(
            p.numel() * p.element_size()
            for name, p in self.decoder.named_parameters()
            if not name.startswith("embed")
        )

        def measured(variants: Sequence[_Variant]) -> list[dict[str, Any]]:
            def rows(times: Times) -> list[dict[str, Any]]:
                # The first time of a variant is the warm-up.
                count = len(times["memory"])
                rival = next(v for v in soon if v.engine == "transformers").times[1 : count + 1]
                return [self._row(v, weights, times["memory"], rival) for v in variants]

            runs = {f"{v.engine}, {v.prefill}": v.run for v in variants}
            times = interleaved(
                {**runs, "memory": self.probe.run},
                repetitions,
                self.device,
                label=label,
                after_round=lambda times: show([*found, *rows(times)]),
            )
            return rows(times)

        found: list[dict[str, Any]] = []
        found = measured(soon)
        return [*found, *measured(late)] if late else found

    def _row(
        self, v: _Variant, weights: int, passes: Sequence[Timing], rival: Sequence[Timing]
    ) -> dict[str, Any]:
        device, moved = self.device, self.probe.num_bytes
        times = v.times[1:]  # without the warm-up
        each = [t / TOKENS for t in times]
        # The floor: all weights and the prompt's keys and values, at the speed of each pass.
        floors = [t * ((weights + v.kv_bytes) / moved) for t in passes]
        return {
            "N": self.num_spatial,
            "engine": v.engine,
            "prefill": v.prefill,
            "keep_ratio_achieved": v.keep_ratio,
            "ms_per_token": milliseconds(each, device),
            "wall_ms_per_token": wall_milliseconds(each),
            "floor_ms": milliseconds(floors, device),
            "floor_ratio": ratio_of(each, floors, device),
            "transformers_ratio": ratio_of(times, rival, device),
            "weight_mib": weights / 2**20,
            "kv_mib": v.kv_bytes / 2**20,
            "bandwidth_gb_s": Spread.from_values([moved / t.seconds(device) / 1e9 for t in passes]),
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'N':>5} {'engine':<21} {'prefill':<7} {'ms per token':>24} {'floor ms':>8}"
        f" {'over floor':>20} {'over transformers':>20}"
    ]
    for r in rows:
        lines.append(
            f"{r['N']:>5} {r['engine']:<21} {r['prefill']:<7} {r['ms_per_token']!s:>24}"
            f" {r['floor_ms'].median:>8.2f} {r['floor_ratio']!s:>20}"
            f" {r['transformers_ratio']!s:>20}"
        )
    return "\n".join(lines)
