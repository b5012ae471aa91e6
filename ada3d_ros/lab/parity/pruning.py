"""Parity of pruning: recorded runs of the real FastV and PyramidDrop code on tiny LLaMA models.

Every size, index and parameter comes from the case. The runs go through the engine's own prefill
and decode; what each layer was given is read off by wrappers around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.errors import SourceError
from ada3d_ros.lab.parity.comparison import Row, compare, exact
from ada3d_ros.lab.parity.golden_case import Tensors, decoder_config, read_json, read_tensors
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.ranking import PruneContext
from ada3d_ros.pruning.schedule import RetentionSchedule, stages
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence

METHODS = ("fastv", "pyramiddrop")
LOGITS, SCORES = 1e-3, 1e-4


def is_pruned(folder: Path) -> bool:
    """Whether the folder is a recorded run of FastV or PyramidDrop."""
    return (folder / "inputs.json").is_file() and (folder / "expected.json").is_file()


@dataclass(frozen=True, slots=True)
class _Recording(LayerPruner):
    """Keeps the scores of every ranking."""

    scores: list[torch.Tensor] = field(default_factory=list)

    def rank(self, context: PruneContext) -> torch.Tensor:
        self.scores.append(LayerPruner.rank(self, context))
        return self.scores[-1]


class _Observed:
    """A decoder whose calls are written down.

    positions: of every layer per call; last_hidden: the last layer's output.
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

        # Layers run in one of two ways: walked one by one, or as a block.
        with (
            patch.object(LayerWalk, "run_layer", observe_walk),
            patch.object(self.decoder, "run_layers", observe_step),
        ):
            yield


@dataclass(frozen=True, eq=False, slots=True)
class _PrunedRun:
    """One case after its prefill.

    expected, arrays: what was recorded; start: index of the first spatial token in the prompt.
    """

    label: str
    expected: dict[str, Any]
    arrays: Tensors
    prompt: PromptSequence
    start: int
    seen: _Observed
    pruner: _Recording
    filled: PrefillOutput


def check_pruned(folder: Path) -> Iterator[Row]:
    """All rows of one FastV or PyramidDrop case.

    Kept indices, positions, lengths, scores, logits, tokens. Raises SourceError for another method.
    """
    run = _prefill_case(folder)
    yield from _check_stages(run)
    yield from _check_layers(run)
    with torch.inference_mode():
        logits = run.seen.decoder.logits(run.seen.last_hidden[0])
    golden = run.arrays["prefill_logits"]
    yield compare(run.label, "prefill_logits", logits, golden, tolerance=LOGITS)
    yield from _check_decode(run)
    if "no_cache_variant" in run.expected:
        yield from _check_uncached(run, run.expected["no_cache_variant"])


def _prefill_case(folder: Path) -> _PrunedRun:
    """The recorded prompt through the engine's prefill, pruned by the case's own parameters."""
    # The prompt: text, spatial tokens, text.
    case = read_json(folder / "inputs.json")
    embeds = read_tensors(folder / "inputs.safetensors")["inputs_embeds"][0]
    start = case["image_token_start_index"]
    span = start, start + case["image_token_length"]
    prompt = PromptSequence(embeds, torch.arange(len(embeds)), span)

    # Every call of a layer and every ranking is written down on the way.
    decoder = _load_decoder(folder)
    seen, pruner = _Observed(decoder), _pruner(case, decoder.config.num_layers)
    with seen.watch():
        filled = prefill(decoder, prompt, pruner=pruner)
    return _PrunedRun(
        label=f"{folder.parent.name}/{folder.name}",
        expected=read_json(folder / "expected.json"),
        arrays=read_tensors(folder / "expected.safetensors"),
        prompt=prompt,
        start=start,
        seen=seen,
        pruner=pruner,
        filled=filled,
    )


def _load_decoder(folder: Path) -> LlamaDecoder:
    config = decoder_config(read_json(folder / "config.json"))
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    weights = read_tensors(folder / "weights.safetensors")
    stored = {name: tensor for name, tensor in weights.items() if not name.endswith("inv_freq")}
    decoder.load_state_dict({name.removeprefix("model."): t for name, t in stored.items()})
    return decoder


def _pruner(case: dict[str, Any], num_layers: int) -> _Recording:
    """The case's method with its own parameters, each with its own rounding and positions."""
    if case["method"] == "fastv":
        schedule = stages(num_layers, [case["fastv_k"]], [1.0 - case["fastv_r"]])
        held = RetentionSchedule(tuple(map(float, schedule)), "round")
        return _Recording("fastv", held, rank_lag=1)
    if case["method"] == "pyramiddrop":
        schedule = stages(num_layers, case["layer_list"], case["image_token_ratio_list"])
        held = RetentionSchedule(tuple(map(float, schedule)), "truncate")
        return _Recording("pdrop", held, positions="compact")
    raise SourceError(f"method {case['method']!r} is none of {', '.join(METHODS)}.")


def _check_stages(run: _PrunedRun) -> Iterator[Row]:
    """Which tokens each stage kept, and the scores it ranked them by."""
    start, filled = run.start, run.filled
    text_after = list(range(start + len(filled.kept[0]), filled.next_positions[0]))
    for number, stage in enumerate(run.expected["stages"]):
        # Spatial tokens alone, then with the text around them, which always stays.
        layer = stage.get("prune_before_layer_index", stage.get("after_layer_count"))
        kept = [int(i) + start for i in filled.kept[layer]]
        golden, note = stage["kept_spatial_original_indices"], f"{len(kept)} kept"
        yield exact(run.label, f"stage{number}.kept_spatial", kept, golden, note)
        whole = [*range(start), *kept, *text_after]
        yield exact(run.label, f"stage{number}.kept", whole, stage["kept_original_indices"])

        if f"stage{number}_scores" in run.arrays:
            scores, recorded = run.pruner.scores[number], run.arrays[f"stage{number}_scores"]
            name = f"stage{number}.scores"
            yield compare(run.label, name, scores, recorded, tolerance=SCORES)


def _check_layers(run: _PrunedRun) -> Iterator[Row]:
    """Tokens, cache length and position ids of every layer in prefill."""
    expected, seen, filled = run.expected, run.seen, run.filled
    text = len(seen.positions[0][0]) - len(filled.kept[0])
    tokens, golden = [n + text for n in filled.counts], expected["tokens_per_layer_prefill"]
    yield exact(run.label, "tokens_per_layer", tokens, golden, str(tokens)[:60])

    lengths = list(filled.cache.lengths)
    golden = expected["kv_cache_length_per_layer_after_prefill"]
    yield exact(run.label, "kv_length_per_layer", lengths, golden)

    recorded = expected["position_ids_per_layer_prefill"]
    for layer, positions in sorted(recorded.items(), key=lambda item: int(item[0])):
        yield exact(run.label, f"positions[{layer}]", seen.positions[0][int(layer)], positions)


def _check_decode(run: _PrunedRun) -> Iterator[Row]:
    """Greedy decoding on the pruned cache: tokens, logits, and the position id of every layer."""
    expected, steps = run.expected, list[torch.Tensor]()

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    # Tokens, and the logits each was chosen from.
    golden = expected["greedy_tokens"]
    with run.seen.watch():
        output = decode(run.seen.decoder, run.filled, GenerationRequest(len(golden), recording))
    yield exact(run.label, "greedy_tokens", list(output.token_ids), golden)
    logits = torch.stack(steps)
    yield compare(run.label, "step_logits", logits, run.arrays["step_logits"], tolerance=LOGITS)

    # Where each step wrote into the cache.
    positions = [[call[layer][0] for layer in sorted(call)] for call in run.seen.positions[1:]]
    golden = expected["decode_position_id_per_step_per_layer"]
    yield exact(run.label, "decode_positions", positions, golden)
    if "kv_cache_length_per_layer_after_generate" in expected:
        golden = expected["kv_cache_length_per_layer_after_generate"]
        lengths = list(run.filled.cache.lengths)
        yield exact(run.label, "kv_length_after_generate", lengths, golden)


def _check_uncached(run: _PrunedRun, expected: dict[str, Any]) -> Iterator[Row]:
    """FastV without a cache: every token is a new prefill, ranked and pruned anew."""
    # The prompt grows by each token; the kept set may be another every time.
    decoder, embeds = run.seen.decoder, run.prompt.embeds
    kept, steps, tokens = [], list[torch.Tensor](), list[int]()
    for _ in expected["greedy_tokens"]:
        longer = PromptSequence(embeds, torch.arange(len(embeds)), run.prompt.spatial_span)
        filled = prefill(decoder, longer, pruner=run.pruner)
        kept.append([int(i) + run.start for i in filled.kept[-1]])
        steps.append(filled.logits)
        tokens.append(int(greedy(filled.logits)))
        embeds = torch.cat((embeds, decoder.embed(torch.tensor([tokens[-1]]))))

    golden = expected["kept_spatial_original_indices_per_step"]
    yield exact(run.label, "no_cache.kept_per_step", kept, golden)
    yield exact(run.label, "no_cache.greedy_tokens", tokens, expected["greedy_tokens"])
    if "no_cache_step_logits" in run.arrays:
        logits, recorded = torch.stack(steps), run.arrays["no_cache_step_logits"]
        yield compare(run.label, "no_cache.step_logits", logits, recorded, tolerance=LOGITS)
