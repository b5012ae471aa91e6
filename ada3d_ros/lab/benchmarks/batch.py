"""Suite `batch` of `ada3d bench`: questions answered together against one after the other.

All of them are about one cached scene. Beside them transformers answers one question, the scene
held, on the same weights. Random weights: times are real, answers mean nothing, but whether
both ways give the same ones does.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode, greedy
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.lab.benchmarks.bench import (
    Rows,
    Save,
    Times,
    ignore,
    interleaved,
    milliseconds,
    ratio_of,
)
from ada3d_ros.lab.benchmarks.models import QUESTION_TEXT, BenchScene, BenchSettings, make_model
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.transformers_baseline import HeldScene, TransformersRival
from ada3d_ros.model.decoder import LlamaDecoder

COUNTS = (1, 4, 8)  # questions at once
ANSWER = 10  # tokens each


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """All scene sizes of one shape."""
    settings = BenchSettings.from_options(shape, options, device)
    decoder, _ = make_model(shape, device, settings.dtype)
    rival = TransformersRival(decoder)
    head = {
        **settings.head("batch"),
        "question_tokens": QUESTION_TEXT,
        "answer_tokens": ANSWER,
    }
    rows = Rows(head, save)
    for count in shape.spatial:
        bench = BatchBench(decoder, rival, settings.make_scene(count), settings.seed)
        rows.add(bench.measure(settings.repetitions, settings.label(count), rows.show))
    print(table(rows.rows))
    return rows.results


class BatchBench:
    """One cached scene, and the questions about it: embeds (max(COUNTS), QUESTION_TEXT, D)."""

    def __init__(
        self, decoder: LlamaDecoder, rival: TransformersRival, scene: BenchScene, seed: int
    ) -> None:
        self.decoder, self.device, self.num_spatial = decoder, decoder.device, len(scene)
        generator = torch.Generator().manual_seed(seed)
        size = (max(COUNTS), QUESTION_TEXT, decoder.config.hidden_size)
        self.questions = torch.randn(*size, generator=generator).to(self.device, decoder.dtype)
        self.cache = KVCache(decoder.config.num_layers, reserve=QUESTION_TEXT + ANSWER)
        scene_prompt = torch.cat((scene.system, scene.embeds))
        self.next_position = len(scene_prompt)
        self._run_layers(scene_prompt)
        self.held = HeldScene(rival, scene_prompt, QUESTION_TEXT + ANSWER)

    def _run_layers(self, embeds: torch.Tensor) -> torch.Tensor:
        """Hidden states (1, T, D) of embeds (T, D), which are appended to the cache."""
        start = self.cache.length(0)
        positions = torch.arange(start, start + len(embeds), device=self.device)
        return self.decoder.run_layers(
            0, self.decoder.config.num_layers, embeds[None], positions, self.cache
        )

    def answer_together(
        self, count: int, first: list[torch.Tensor] | None = None
    ) -> list[DecodeOutput]:
        """The first `count` questions; `first` gets the logits (V,) of each one's first token."""
        waiting = [
            BatchedQuestion(question, GenerationRequest(ANSWER, _Sampler(first)))
            for question in self.questions[:count]
        ]
        return answer_batch(self.decoder, self.cache, self.next_position, waiting).outputs

    def answer_alone(self, first: list[torch.Tensor] | None = None) -> list[DecodeOutput]:
        """All questions, one after the other; the cache is cropped to the scene after each."""
        outputs, held, layers = [], self.cache.lengths, self.decoder.config.num_layers
        next_positions = (self.next_position + QUESTION_TEXT,) * layers
        for question in self.questions:
            logits = self.decoder.logits(self._run_layers(question)[0, -1])
            filled = PrefillOutput(logits, self.cache, next_positions, ())
            outputs.append(decode(self.decoder, filled, GenerationRequest(ANSWER, _Sampler(first))))
            self.cache.set_lengths(held)
        return outputs

    def answer_by_transformers(self) -> list[int]:
        """The ids of the first question: one costs it what any other does."""
        return self.held.answer(self.questions[0], ANSWER)

    def measure(
        self, repetitions: int, label: str, show: Callable[[list[dict[str, Any]]], None]
    ) -> list[dict[str, Any]]:
        """All ways interleaved, a row per number of questions; show: gets the rows so far.

        One number after the other: a GPU holds the graphs of two.
        """
        compared, rows = self._compare(), list[dict[str, Any]]()
        for count in COUNTS:
            times = interleaved(
                {
                    "alone": self.answer_alone,
                    "together": functools.partial(self.answer_together, count),
                    "transformers": self.answer_by_transformers,
                },
                repetitions,
                self.device,
                label=f"{label}, {count} at once",
                after_round=lambda times, count=count: show(  # type: ignore[misc]
                    [*rows, self._row(times, count, compared)]
                ),
            )
            rows.append(self._row(times, count, compared))
        return rows

    def _compare(self) -> dict[int, dict[str, float]]:
        """By number of questions, outside the timed runs: how the answers of both ways differ."""
        first_alone, compared = list[torch.Tensor](), {}
        alone = self.answer_alone(first_alone)
        for count in COUNTS:
            first = list[torch.Tensor]()
            outputs = self.answer_together(count, first)
            expected = torch.stack(first_alone[:count])
            error = (torch.stack(first) - expected).abs().max() / expected.abs().max()
            same = same_ids(ids_of(outputs), ids_of(alone[:count]))
            compared[count] = {"same_ids": same, "logits_error": float(error)}
        return compared

    def _row(
        self, times: Times, count: int, compared: dict[int, dict[str, float]]
    ) -> dict[str, Any]:
        one = [t / len(self.questions) for t in times["alone"]]
        each = [t / count for t in times["together"]]
        theirs = times["transformers"]
        return {
            "N": self.num_spatial,
            "questions": count,
            "ratio": ratio_of(each, one, self.device),
            "together_ms": milliseconds(each, self.device),
            "alone_ms": milliseconds(one, self.device),
            "ratio_to_transformers": ratio_of(each, theirs, self.device),
            "transformers_ms": milliseconds(theirs, self.device),
            **compared[count],
        }


class _Sampler:
    """Greedy; the first logits go to a list, if there is one."""

    def __init__(self, first: list[torch.Tensor] | None) -> None:
        self._first = first

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self._first is not None:
            self._first.append(logits.float())
        self._first = None
        return greedy(logits)


def ids_of(outputs: Sequence[DecodeOutput]) -> list[Sequence[int]]:
    return [output.token_ids for output in outputs]


def same_ids(answers: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
    """Share of token ids that are the same at the same place."""
    pairs = [
        pair for a, b in zip(answers, expected, strict=True) for pair in zip(a, b, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'N':>5} {'questions':>9} {'time per question, ratio':>25} {'together ms':>11}"
        f" {'alone ms':>9} {'over transformers':>22} {'same ids':>8} {'logits off':>10}"
    ]
    for r in rows:
        lines.append(
            f"{r['N']:>5} {r['questions']:>9} {r['ratio']!s:>25} {r['together_ms'].median:>11.1f}"
            f" {r['alone_ms'].median:>9.1f} {r['ratio_to_transformers']!s:>22}"
            f" {r['same_ids']:>8.0%} {r['logits_error']:>10.1e}"
        )
    return "\n".join(lines)
