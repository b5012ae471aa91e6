"""Parity of pruning: recorded runs of FastV and PyramidDrop on tiny LLaMA models, and numbers of
AdaToken-3D's equations.

Every size, index and parameter comes from the case. The runs go through the engine's own prefill
and decode; what each layer was given is read off by wrappers around them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.sampling import greedy
from ada3d_ros.errors import SourceError
from ada3d_ros.lab.benchmarks.comparison import Row, compare, exact
from ada3d_ros.lab.parity.golden_case import read_json, read_tensors
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.fit import closed_form, fit_endpoint, fit_mean
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.information import (
    InformationSettings,
    attention_masses,
    information_of,
    layer_masses,
)
from ada3d_ros.pruning.ranking import PruneContext
from ada3d_ros.pruning.schedule import RetentionSchedule, Staircase, stages
from ada3d_ros.types import PromptSequence

METHODS = ("fastv", "pyramiddrop")
LOGITS, SCORES, SUMS, INFORMATION, CURVES, LOSSES = 1e-3, 1e-4, 1e-4, 1e-6, 1e-3, 1e-6


def is_pruned(folder: Path) -> bool:
    """Whether the folder is a recorded run of FastV or PyramidDrop."""
    return (folder / "inputs.json").is_file() and (folder / "expected.json").is_file()


def is_adatoken(folder: Path) -> bool:
    """Whether the folder holds `case_*_expected.json` files of AdaToken-3D."""
    return any(folder.glob("case_*_expected.json"))


@dataclass(frozen=True, slots=True)
class _Recording(LayerPruner):
    """Keeps the scores of every ranking."""

    scores: list[torch.Tensor] = field(default_factory=list)

    def rank(self, context: PruneContext) -> torch.Tensor:
        self.scores.append(LayerPruner.rank(self, context))
        return self.scores[-1]


class _Observed:
    """A decoder whose calls are written down while observed: positions of every layer per pass, and
    the last layer's output.
    """

    def __init__(self, decoder: LlamaDecoder) -> None:
        self.decoder = decoder
        self.positions: list[dict[int, list[int]]] = []
        self.last_hidden = torch.empty(0)

    def note(self, layer: int, positions: torch.Tensor, hidden: torch.Tensor) -> None:
        if layer == 0:
            self.positions.append({})
        self.positions[-1][layer] = positions.tolist()
        self.last_hidden = hidden

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Prefill walks layer by layer, a decode step runs ranges of layers: both are observed."""
        walk_layer, run_layers = LayerWalk.run_layer, self.decoder.run_layers

        def observe_walk(walk: LayerWalk) -> None:
            layer, positions = walk.layer, walk.positions
            walk_layer(walk)
            self.note(layer, positions, walk.hidden)

        def observe_step(
            start: int, stop: int, hidden: torch.Tensor, positions: torch.Tensor, *rest: Any
        ) -> torch.Tensor:
            out = run_layers(start, stop, hidden, positions, *rest)
            for layer in range(start, stop):
                self.note(layer, positions, out)
            return out

        with (
            patch.object(LayerWalk, "run_layer", observe_walk),
            patch.object(self.decoder, "run_layers", observe_step),
        ):
            yield


def _pruner(case: dict[str, Any], num_layers: int) -> _Recording:
    if case["method"] == "fastv":
        schedule = stages(num_layers, [case["fastv_k"]], [1.0 - case["fastv_r"]])
        return _Recording(
            "fastv", RetentionSchedule(tuple(map(float, schedule)), "round"), rank_lag=1
        )
    if case["method"] == "pyramiddrop":
        schedule = stages(num_layers, case["layer_list"], case["image_token_ratio_list"])
        held = RetentionSchedule(tuple(map(float, schedule)), "truncate")
        return _Recording("pdrop", held, positions="compact")
    raise SourceError(f"method {case['method']!r} is none of {', '.join(METHODS)}.")


def _load_decoder(folder: Path) -> LlamaDecoder:
    c = read_json(folder / "config.json")
    eos = c.get("eos_token_id")
    config = DecoderConfig(
        c["vocab_size"],
        c["hidden_size"],
        c["intermediate_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"],
        c["num_key_value_heads"],
        c["rms_norm_eps"],
        c.get("rope_theta", 10000.0),
        c["max_position_embeddings"],
        c["bos_token_id"],
        -1 if eos is None else eos,
    )
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    weights = read_tensors(folder / "weights.safetensors")
    decoder.load_state_dict(
        {
            name.removeprefix("model."): tensor
            for name, tensor in weights.items()
            if not name.endswith("inv_freq")
        }
    )
    return decoder


def check_pruned(folder: Path) -> Iterator[Row]:
    """All rows of one FastV or PyramidDrop case: kept indices, positions, lengths, scores, logits,
    tokens.
    """
    case, expected = read_json(folder / "inputs.json"), read_json(folder / "expected.json")
    arrays = read_tensors(folder / "expected.safetensors")
    label, decoder = f"{folder.parent.name}/{folder.name}", _load_decoder(folder)
    embeds = read_tensors(folder / "inputs.safetensors")["inputs_embeds"][0]
    start = case["image_token_start_index"]
    prompt = PromptSequence(
        embeds, torch.arange(len(embeds)), (start, start + case["image_token_length"])
    )
    seen, pruner = _Observed(decoder), _pruner(case, decoder.config.num_layers)
    with seen.watch():
        filled = prefill(decoder, prompt, pruner=pruner)
    yield from _check_stages(label, expected, arrays, filled, pruner, start)
    yield from _check_layers(label, expected, filled, seen)
    with torch.inference_mode():
        logits = decoder.logits(seen.last_hidden[0])
    yield _close(label, "prefill_logits", logits, arrays["prefill_logits"], LOGITS)
    yield from _check_decode(label, expected, arrays, filled, seen)
    if "no_cache_variant" in expected:
        yield from _check_uncached(
            label, expected["no_cache_variant"], arrays, prompt, decoder, pruner, start
        )


def _close(case: str, name: str, ours: torch.Tensor, golden: torch.Tensor, tolerance: float) -> Row:
    row = compare(case, name, ours, golden)
    return Row(case, name, row.max_error, tolerance, row.note)


def _check_stages(
    label: str,
    expected: dict[str, Any],
    arrays: dict[str, torch.Tensor],
    filled: PrefillOutput,
    pruner: _Recording,
    start: int,
) -> Iterator[Row]:
    text_behind = list(range(start + len(filled.kept[0]), filled.next_positions[0]))
    for number, stage in enumerate(expected["stages"]):
        layer = stage.get("prune_before_layer_index", stage.get("after_layer_count"))
        kept = [int(i) + start for i in filled.kept[layer]]
        yield exact(
            label,
            f"stage{number}.kept_spatial",
            kept,
            stage["kept_spatial_original_indices"],
            f"{len(kept)} kept",
        )
        everything = [*range(start), *kept, *text_behind]
        yield exact(label, f"stage{number}.kept", everything, stage["kept_original_indices"])
        if f"stage{number}_scores" in arrays:
            golden = arrays[f"stage{number}_scores"]
            yield _close(label, f"stage{number}.scores", pruner.scores[number], golden, SCORES)


def _check_layers(
    label: str, expected: dict[str, Any], filled: PrefillOutput, seen: _Observed
) -> Iterator[Row]:
    text = len(seen.positions[0][0]) - len(filled.kept[0])
    tokens = [count + text for count in filled.counts]
    yield exact(
        label, "tokens_per_layer", tokens, expected["tokens_per_layer_prefill"], str(tokens)[:60]
    )
    lengths = list(filled.cache.lengths)
    yield exact(
        label, "kv_length_per_layer", lengths, expected["kv_cache_length_per_layer_after_prefill"]
    )
    for layer, positions in sorted(
        expected["position_ids_per_layer_prefill"].items(), key=lambda item: int(item[0])
    ):
        yield exact(label, f"positions[{layer}]", seen.positions[0][int(layer)], positions)


def _check_decode(
    label: str,
    expected: dict[str, Any],
    arrays: dict[str, torch.Tensor],
    filled: PrefillOutput,
    seen: _Observed,
) -> Iterator[Row]:
    golden, steps = expected["greedy_tokens"], list[torch.Tensor]()

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    with seen.watch():
        output = decode(seen.decoder, filled, GenerationRequest(len(golden), recording))
    yield exact(label, "greedy_tokens", list(output.token_ids), golden)
    yield _close(label, "step_logits", torch.stack(steps), arrays["step_logits"], LOGITS)
    positions = [[call[layer][0] for layer in sorted(call)] for call in seen.positions[1:]]
    yield exact(
        label, "decode_positions", positions, expected["decode_position_id_per_step_per_layer"]
    )
    if "kv_cache_length_per_layer_after_generate" in expected:
        after = expected["kv_cache_length_per_layer_after_generate"]
        yield exact(label, "kv_length_after_generate", list(filled.cache.lengths), after)


def _check_uncached(
    label: str,
    expected: dict[str, Any],
    arrays: dict[str, torch.Tensor],
    prompt: PromptSequence,
    decoder: LlamaDecoder,
    pruner: LayerPruner,
    start: int,
) -> Iterator[Row]:
    """FastV without a cache: every token is a new prefill, ranked and pruned anew."""
    golden, embeds = expected["greedy_tokens"], prompt.embeds
    kept, steps, tokens = [], list[torch.Tensor](), list[int]()
    for _ in golden:
        longer = PromptSequence(embeds, torch.arange(len(embeds)), prompt.spatial_span)
        filled = prefill(decoder, longer, pruner=pruner)
        kept.append([int(i) + start for i in filled.kept[-1]])
        steps.append(filled.logits)
        tokens.append(int(greedy(filled.logits)))
        embeds = torch.cat((embeds, decoder.embed(torch.tensor([tokens[-1]]))))
    yield exact(
        label, "no_cache.kept_per_step", kept, expected["kept_spatial_original_indices_per_step"]
    )
    yield exact(label, "no_cache.greedy_tokens", tokens, golden)
    if "no_cache_step_logits" in arrays:
        yield _close(
            label,
            "no_cache.step_logits",
            torch.stack(steps),
            arrays["no_cache_step_logits"],
            LOGITS,
        )


# -- AdaToken-3D


def check_adatoken(folder: Path) -> Iterator[Row]:
    """All rows of every case in an adatoken folder: those of the paper's reading; the authors' own
    functions are listed.
    """
    for path in sorted(folder.glob("case_*_expected.json")):
        name = path.name.removesuffix("_expected.json")
        label, data = f"{folder.name}/{name}", read_json(path)
        inputs = read_json(folder / f"{name}_inputs.json")
        attention = read_tensors(folder / f"{name}_inputs.safetensors")["attentions"]
        for block in sorted(data):
            if block == "derived_paper_reading":
                yield from _check_reading(label, data[block], attention, inputs)
            else:
                note = (
                    "the authors' functions index the transposed matrix and leave eq. 4 out; see"
                    " docs/pruning.md"
                )
                yield Row(label, block, math.nan, 0.0, note, compared=False)


def _check_reading(
    label: str, golden: dict[str, Any], attention: torch.Tensor, inputs: dict[str, Any]
) -> Iterator[Row]:
    span = inputs["image_token_start"], inputs["prompt_start"]
    whole = [attention_masses(layer, span) for layer in attention]
    blockwise = [_masses_by_log_sum_exp(layer, span) for layer in attention]
    for name in ("S_self", "S_sp", "S_ss"):
        yield _numbers(label, name, [getattr(m, name) for m in whole], golden[name], SUMS)
        yield _numbers(
            label,
            f"{name} (log-sum-exp)",
            [getattr(m, name) for m in blockwise],
            golden[name],
            SUMS,
        )
    p = golden["params"]
    settings = InformationSettings(p["a1"], p["a2"], p["sigma"], p["gamma"], p["eps"], p["alpha_i"])
    found = information_of(whole, settings)
    for name, ours in (
        ("F", found.F),
        ("S_cross", found.S_cross),
        ("INF", found.INF),
        ("I_norm", found.I),
    ):
        yield _numbers(label, name, list(ours), golden[name], INFORMATION)
    for key, schedule in golden["schedules"].items():
        yield from _check_schedule(label, key, schedule, np.array(golden["I_norm"]))


def _masses_by_log_sum_exp(attention: torch.Tensor, span: tuple[int, int]) -> Any:
    """The production path on recorded attention: queries log(A) and keys that pick one column each
    have these scores.
    """
    tokens = attention.shape[-1]
    q = attention.clamp(min=1e-30).log()
    k = torch.eye(tokens)[None].expand(attention.shape[0], -1, -1) * tokens**0.5
    rows = torch.arange(span[0], tokens)
    return layer_masses(q[:, rows], k, rows, span)


def _numbers(case: str, name: str, ours: Any, golden: Any, tolerance: float) -> Row:
    return _close(
        case,
        name,
        torch.tensor(np.asarray(ours)),
        torch.tensor(golden, dtype=torch.float64),
        tolerance,
    )


def _check_schedule(
    label: str, key: str, golden: dict[str, Any], information: Any
) -> Iterator[Row]:
    mode, _, value = key.partition("_")
    if mode not in ("mean", "endpoint"):
        yield Row(label, key, math.nan, 0.0, "no rule for a budget of this name", compared=False)
        return
    fit = (
        fit_mean(information, float(value))
        if mode == "mean"
        else fit_endpoint(information, float(value))
    )
    yield _numbers(label, f"{key}.O", fit.curve, golden["O"], CURVES)
    yield _numbers(label, f"{key}.loss", [fit.loss], [golden["loss"]], LOSSES)
    if "oracle_loss" in golden and mode == "mean":
        oracle = closed_form(information, float(value))
        yield _numbers(label, f"{key}.oracle_loss", [oracle.loss], [golden["oracle_loss"]], LOSSES)
    held = RetentionSchedule(tuple(map(float, Staircase(len(fit.curve)).hold(fit.curve))))
    for name in golden:
        match = re.fullmatch(r"counts_N(\d+)", name)
        if match:
            ours = list(held.counts(int(match[1])))
            yield exact(label, f"{key}.{name}", ours, golden[name], str(ours)[:60])
