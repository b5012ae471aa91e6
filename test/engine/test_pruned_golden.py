"""P15: recorded runs of the real FastV and PyramidDrop, by strategies built from settings.

Every size comes from the case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ada3d_ros.config import from_flat
from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence


@dataclass
class Case:
    decoder: LlamaDecoder
    prompt: PromptSequence
    inputs: dict[str, Any]
    expected: dict[str, Any]
    arrays: dict[str, torch.Tensor]


def read(folder: Path) -> Case:
    c = json.loads((folder / "config.json").read_text())
    config = DecoderConfig(
        c["vocab_size"],
        c["hidden_size"],
        c["intermediate_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"],
        c["num_key_value_heads"],
        c["rms_norm_eps"],
        c["rope_theta"],
        c["max_position_embeddings"],
        eos_ids=() if c["eos_token_id"] is None else (c["eos_token_id"],),
    )

    # The recorded weights.
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    weights = load_file(folder / "weights.safetensors")
    decoder.load_state_dict(
        {n.removeprefix("model."): t for n, t in weights.items() if not n.endswith("inv_freq")}
    )

    # The recorded prompt, and what came of it.
    inputs = json.loads((folder / "inputs.json").read_text())
    embeds = load_file(folder / "inputs.safetensors")["inputs_embeds"][0]
    start = inputs["image_token_start_index"]
    span = start, start + inputs["image_token_length"]
    prompt = PromptSequence(embeds, torch.arange(len(embeds)), span)
    expected = json.loads((folder / "expected.json").read_text())
    return Case(decoder, prompt, inputs, expected, load_file(folder / "expected.safetensors"))


def cases(shared_dir: Path, name: str) -> Iterator[Case]:
    folders = sorted((shared_dir / "golden" / name).glob("case_*"))
    if not folders:
        pytest.skip(f"no recorded runs of {name}")
    yield from map(read, folders)


def pruner_of(case: Case, flat: dict[str, Any]) -> LayerPruner:
    named = {f"pruning.{name}": value for name, value in {"n_min": 1, **flat}.items()}
    policy = Policy.from_config(from_flat(named).pruning)
    spatial = case.prompt.spatial_span[1] - case.prompt.spatial_span[0]
    text = case.prompt.embeds.shape[0] - spatial
    pruner = policy.pruner(DecoderShape.from_config(case.decoder.config), spatial, spatial, text)
    assert pruner is not None
    return pruner


def fastv(case: Case) -> LayerPruner:
    """As a user would set it: k, and the keep ratio as the mean over all layers."""
    k, layers = case.inputs["fastv_k"], case.decoder.config.num_layers
    ratio = (k + (layers - k) * (1.0 - case.inputs["fastv_r"])) / layers
    return pruner_of(case, {"strategy": "fastv", "fastv.k": k, "keep_ratio": ratio})


def stage_lists(case: Case) -> tuple[str, str]:
    ratios = case.inputs["image_token_ratio_list"]
    return ",".join(map(str, case.inputs["layer_list"])), ",".join(map(str, ratios))


def pdrop(case: Case) -> LayerPruner:
    layers, ratios = stage_lists(case)
    return pruner_of(case, {"strategy": "pdrop", "pdrop.layers": layers, "pdrop.ratios": ratios})


def adatoken_with_stages(case: Case) -> LayerPruner:
    """The same lists in adatoken3d's schedule `stages`: its ranking is PyramidDrop's.

    With compact positions.
    """
    layers, ratios = stage_lists(case)
    return pruner_of(
        case,
        {
            "strategy": "adatoken3d",
            "adatoken3d.schedule": "stages",
            "adatoken3d.stage_layers": layers,
            "adatoken3d.stage_ratios": ratios,
            "adatoken3d.budget.mode": "parameters",
            "adatoken3d.positions": "compact",
        },
    )


def check(case: Case, pruner: LayerPruner) -> None:
    """Indices exact, KV lengths exact, logits 1e-3, greedy tokens exact."""
    expected, (start, _) = case.expected, case.prompt.spatial_span

    # Prefill: what is kept in every stage, what the cache holds, where decoding goes on.
    filled = prefill(case.decoder, case.prompt, pruner=pruner)
    for stage in expected["stages"]:
        layer = stage.get("prune_before_layer_index", stage.get("after_layer_count"))
        assert (filled.kept[layer] + start).tolist() == stage["kept_spatial_original_indices"]
        assert filled.counts[layer] == stage["keep_spatial"]
    text = case.prompt.embeds.shape[0] - filled.counts[0]
    assert [n + text for n in filled.counts] == expected["tokens_per_layer_prefill"]
    assert list(filled.cache.lengths) == expected["kv_cache_length_per_layer_after_prefill"]
    assert (filled.logits - case.arrays["prefill_logits"][-1]).abs().max() < 1e-3
    assert list(filled.next_positions) == expected["decode_position_id_per_step_per_layer"][0]

    # Decode, with the logits of each step.
    steps: list[torch.Tensor] = []

    def recording(logits: torch.Tensor) -> torch.Tensor:
        steps.append(logits)
        return greedy(logits)

    output = decode(
        case.decoder, filled, GenerationRequest(len(expected["greedy_tokens"]), recording)
    )
    assert list(output.token_ids) == expected["greedy_tokens"]
    assert (torch.stack(steps) - case.arrays["step_logits"]).abs().max() < 1e-3


def test_p15_fastv(shared_dir: Path) -> None:
    """P15: a single drop behind layer K, original positions, scores of layer K - 1's row."""
    for case in cases(shared_dir, "fastv"):
        check(case, fastv(case))


def test_p15_fastv_ranked_anew_at_every_token(shared_dir: Path) -> None:
    """P15: FastV without a cache, as its paper has it: a new pruned prefill for each token."""
    for case in cases(shared_dir, "fastv"):
        golden = case.expected["no_cache_variant"]["greedy_tokens"]
        embeds, tokens = case.prompt.embeds, list[int]()
        for _ in golden:
            longer = PromptSequence(embeds, torch.arange(len(embeds)), case.prompt.spatial_span)
            tokens.append(int(prefill(case.decoder, longer, pruner=fastv(case)).logits.argmax()))
            embeds = torch.cat((embeds, case.decoder.embed(torch.tensor(tokens[-1:]))))
        assert tokens == golden


def test_p15_pyramid_drop(shared_dir: Path) -> None:
    """P15: stage lists, scores of the next layer's queries and keys, compact positions."""
    for case in cases(shared_dir, "pdrop"):
        check(case, pdrop(case))


def test_p15_adatoken3d_with_stages_is_pyramid_drop(shared_dir: Path) -> None:
    """P15: the module's own ranking reproduces PyramidDrop's recorded run."""
    for case in cases(shared_dir, "pdrop"):
        check(case, adatoken_with_stages(case))


def test_p15_another_reading_does_not_pass(shared_dir: Path) -> None:
    """The recorded runs tell the readings apart.

    Original positions, or ranking by the layer before, fail.
    """
    for case in cases(shared_dir, "pdrop"):
        layers, ratios = stage_lists(case)
        flat = {
            "strategy": "pdrop",
            "pdrop.layers": layers,
            "pdrop.ratios": ratios,
            "pdrop.positions": "original",
        }
        with pytest.raises(AssertionError):
            check(case, pruner_of(case, flat))
