"""Suite `batch` of `ada3d bench`: several questions about one cached scene answered together,
against one after the other.

Random weights: times are real, answers mean nothing, but whether both ways give the same ones does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.sampling import greedy
from ada3d_ros.lab.benchmarks.bench import Timing, interleaved, ratio_of
from ada3d_ros.lab.benchmarks.models import (
    QUESTION_TEXT,
    SYSTEM_TEXT,
    BenchScene,
    BenchShape,
    choose_dtype,
    head_of,
    make_model,
    make_scene,
)
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.model.decoder import LlamaDecoder

COUNTS = (1, 4, 8)  # questions at once
ANSWER = 10  # tokens each


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """All scene sizes of one shape."""
    dtype = choose_dtype(shape, options.precision, device)
    repetitions = options.repetitions or (20 if device.type == "cuda" else 5)
    decoder, _ = make_model(shape, device, dtype)
    decoder.config = dataclasses.replace(
        decoder.config, eos_id=-1
    )  # every answer has all its tokens
    rows = []
    for count in shape.spatial:
        scene = make_scene(count, shape.hidden, device, decoder.dtype, options.seed)
        rows += _Asked(decoder, scene, options.seed).rows(
            repetitions, f"shape {shape.name}, N = {count}"
        )
    print(table(rows))
    return {
        **head_of("batch", shape, repetitions, dtype, device),
        "question_tokens": QUESTION_TEXT,
        "answer_tokens": ANSWER,
        "rows": rows,
    }


class _Asked:
    """One cached scene, and the questions about it."""

    def __init__(self, decoder: LlamaDecoder, scene: BenchScene, seed: int) -> None:
        self.decoder, self.device, self.spatial = decoder, decoder.device, len(scene.rows)
        made = torch.Generator().manual_seed(seed)
        embeds = torch.randn(max(COUNTS), QUESTION_TEXT, decoder.config.hidden_size, generator=made)
        self.questions = embeds.to(self.device, decoder.dtype)
        self.prefix = KVCache(decoder.config.num_layers, reserve=QUESTION_TEXT + ANSWER)
        prompt = torch.cat((scene.text[:SYSTEM_TEXT], scene.rows))
        self.next_position = len(prompt)
        self._through(prompt)

    def _through(self, embeds: torch.Tensor) -> torch.Tensor:
        """embeds (T, D) behind what the prefix holds, which they are added to; hidden (1, T, D)."""
        start = self.prefix.length(0)
        positions = torch.arange(start, start + len(embeds), device=self.device)
        return self.decoder.run_layers(
            0, self.decoder.config.num_layers, embeds[None], positions, self.prefix
        )

    def together(self, count: int, first: list[torch.Tensor] | None = None) -> list[DecodeOutput]:
        """Answers of the first `count` questions; `first` gets the logits of each one's first
        token.
        """
        request = GenerationRequest(ANSWER, _Sampler(first))
        waiting = [BatchedQuestion(q, request) for q in self.questions[:count]]
        return answer_batch(self.decoder, self.prefix, self.next_position, waiting).outputs

    def alone(self, first: list[torch.Tensor] | None = None) -> list[DecodeOutput]:
        """Answers of all questions, one after the other on the same cache, which is cut back behind
        each.
        """
        outputs, held, layers = [], self.prefix.lengths, self.decoder.config.num_layers
        for question in self.questions:
            logits = self.decoder.logits(self._through(question)[0, -1])
            filled = PrefillOutput(
                logits, self.prefix, (self.next_position + QUESTION_TEXT,) * layers, ()
            )
            outputs.append(decode(self.decoder, filled, GenerationRequest(ANSWER, _Sampler(first))))
            self.prefix.set_lengths(held)
        return outputs

    def rows(self, repetitions: int, label: str) -> list[dict[str, Any]]:
        """Both ways interleaved, a row per number of questions."""
        variants = {str(count): functools.partial(self.together, count) for count in COUNTS}
        times = interleaved(
            {"alone": self.alone, **variants}, repetitions, self.device, label=label
        )
        one = per_question(times["alone"], len(self.questions))
        first_alone = list[torch.Tensor]()
        alone = self.alone(first_alone)
        rows = []
        for count in COUNTS:
            first = list[torch.Tensor]()
            outputs = self.together(count, first)
            each = per_question(times[str(count)], count)
            expected = torch.stack(first_alone[:count])
            rows.append(
                {
                    "N": self.spatial,
                    "questions": count,
                    "ratio": ratio_of(each, one, self.device),
                    "together_ms": Spread.from_values([t.of(self.device) * 1e3 for t in each]),
                    "alone_ms": Spread.from_values([t.of(self.device) * 1e3 for t in one]),
                    "same_ids": same_ids(outputs, alone[:count]),
                    "logits_error": float(
                        (torch.stack(first) - expected).abs().max() / expected.abs().max()
                    ),
                }
            )
        return rows


class _Sampler:
    """Greedy; the first logits go to a list, if there is one."""

    def __init__(self, first: list[torch.Tensor] | None) -> None:
        self._first = first

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self._first is not None:
            self._first.append(logits.float())
        self._first = None
        return greedy(logits)


def per_question(times: Sequence[Timing], count: int) -> list[Timing]:
    return [Timing(t.wall_s / count, t.cpu_s / count) for t in times]


def same_ids(outputs: Sequence[DecodeOutput], expected: Sequence[DecodeOutput]) -> float:
    """Share of token ids that are the same at the same place."""
    pairs = [
        pair
        for a, b in zip(outputs, expected, strict=True)
        for pair in zip(a.token_ids, b.token_ids, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [
        f"{'N':>5} {'questions':>9} {'time per question, ratio':>25} {'together ms':>11}"
        f" {'alone ms':>9} {'same ids':>8} {'logits off':>10}"
    ]
    for r in rows:
        lines.append(
            f"{r['N']:>5} {r['questions']:>9} {r['ratio']!s:>25} {r['together_ms'].median:>11.1f}"
            f" {r['alone_ms'].median:>9.1f} {r['same_ids']:>8.0%} {r['logits_error']:>10.1e}"
        )
    return "\n".join(lines)
