"""Parity of one LLaVA-3D case: every recorded array against the production code, one row each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ada3d_ros.lab.parity.comparison import Row, compare, exact, not_compared
from ada3d_ros.lab.parity.forward import (
    EncodedInput,
    build_prompts,
    encode_inputs,
    run_batch,
    run_greedy,
    sample_reference_frames,
)
from ada3d_ros.lab.parity.golden_case import GoldenCase, Tensors
from ada3d_ros.model.prompt import SYSTEM_PROMPTS, render_question

NO_RULE = "no rule for an array of this name"
AFTER_SCENE = "after_scene.logits"  # (1, R, vocab): of the rows after the scene tokens alone


def check_case(folder: Path) -> Iterator[Row]:
    """All rows of one case: its texts, then every array of every recorded aspect."""
    case = GoldenCase(folder)
    yield from _check_text(case)
    for aspect in case.aspects:
        prefix = f"{aspect}." if aspect else ""
        ours = _run(case, aspect, prefix)

        # Arrays without an aspect in their name are checked with the first one.
        others = tuple(f"{a}." for a in case.aspects if a)
        plain = aspect == case.aspects[0]
        for key in sorted(case.expected):
            if key.startswith(prefix) or (plain and not key.startswith(others)):
                yield _check_array(case, key, ours, prefix)

        # The engine's own prefill keeps the last row alone: compared with that of the full pass.
        full = case.expected.get(prefix + "logits", case.expected.get(prefix + AFTER_SCENE))
        if "greedy_logits" in ours and full is not None:
            name, first = prefix + "prefill.logits", ours["greedy_logits"][0]
            yield compare(folder.name, name, first, full[0, -1], "engine prefill, last row")


def _run(case: GoldenCase, aspect: str, prefix: str) -> Tensors:
    """Everything of ours that the case may have recorded, by its name there without the prefix."""
    # Images and scenes, then the prompts they stand in.
    encoded = encode_inputs(case, aspect)
    prompts, taken = build_prompts(case, encoded, prefix)

    # One padded pass through the decoder.
    ours = _by_name(case, encoded, taken, prefix) | run_batch(case, prompts)
    ours["prompt_features"] = case.model.encode_clicks(case.clicks)
    if len(prompts) == 1:
        ours[AFTER_SCENE] = ours["logits"][:, prompts[0].spatial_span[1] :]

    # Greedy tokens step by step, as many as were recorded.
    golden_ids = case.expected.get(prefix + "greedy_ids")
    if len(prompts) == 1 and golden_ids is not None:
        ours |= run_greedy(case, prompts[0], len(golden_ids))
    return ours


def _by_name(
    case: GoldenCase, encoded: list[EncodedInput], taken: list[EncodedInput | None], prefix: str
) -> Tensors:
    """Arrays by recorded name.

    `s0.depth_m` of one scene or image, and without a prefix those of all scenes in batch order.
    """
    named = {
        f"{item.name}.{name}": array
        for item in encoded
        for name, array in item.arrays.items()
        if item.name
    }
    used = [item for item in taken if item is not None]
    parts = [item for item in used if item.is_scene] or used
    if not parts:
        return named

    # A batch stacks arrays of one size a scene; tokens, of which each has its own number, follow
    # each other.
    for name in parts[0].arrays:
        arrays, golden = [item.arrays[name] for item in parts], case.expected.get(prefix + name)
        stacked = golden is not None and golden.ndim == arrays[0].ndim + 1
        named[name] = torch.stack(arrays) if stacked else torch.cat(arrays)
    if parts[0].is_scene:
        counts = torch.tensor([len(item.arrays["pooled_features"]) for item in parts])
        named["batch_offset"] = counts.cumsum(0)
    return named


def _check_array(case: GoldenCase, key: str, ours: Tensors, prefix: str) -> Row:
    """One recorded array against ours of the same name."""
    label, name, golden = case.folder.name, key.removeprefix(prefix), case.expected[key]
    if name not in ours:
        return not_compared(label, key, NO_RULE)
    if name == "hidden_mid" and "hidden_mid_index" not in case.data.get("capture", {}):
        reason = "config.json does not say which layer (capture.hidden_mid_index)"
        return not_compared(label, key, reason)
    value = ours[name]
    if value.ndim == golden.ndim + 1 and value.shape[0] == 1:
        value = value[0]

    # What the decoder makes of padding means nothing, in the reference as here.
    mask = case.expected.get(prefix + "attention_mask")
    per_row = name in ("logits", "hidden_mid", "hidden_last")
    if mask is not None and per_row and value.shape == golden.shape:
        keep = mask.bool()
        note = f"{int(keep.sum())} of {keep.numel()} rows: the rest is padding"
        return compare(label, key, value[keep], golden[keep], note)
    return compare(label, key, value, golden)


def _check_text(case: GoldenCase) -> Iterator[Row]:
    """Frame choice, prompt text and prompt ids, where the case records them."""
    label = case.folder.name
    for prefix, inputs in case.groups.items():
        total = case.scene_settings(prefix).get("n_total_frames")
        if "sample_ids" in inputs and total is not None:
            chosen = sample_reference_frames(total, case.data["mm"]["num_frames"])
            name = (prefix + "." if prefix else "") + "sample_ids"
            yield exact(label, name, chosen, inputs["sample_ids"].tolist())

    # From the question to the prompt, from the prompt to ids, and from greedy ids back to text.
    for row, (prompt, ids) in enumerate(zip(case.prompts, case.prompt_ids, strict=False)):
        yield exact(label, f"input_ids[{row}]", case.tokenizer.encode(prompt), ids, "prompt -> ids")
    for row, (question, prompt) in enumerate(zip(case.questions, case.prompts, strict=False)):
        begins = (name for name, t in SYSTEM_PROMPTS.items() if prompt.startswith(t))
        template = next(begins, "llava_v1")
        rendered = render_question(question, template)
        yield exact(label, f"prompt[{row}]", rendered, prompt, f"{template} template")
    if "greedy_text" in case.text and "greedy_ids" in case.expected:
        text = case.tokenizer.decode(case.expected["greedy_ids"].tolist())
        yield exact(label, "greedy_text", text.strip(), case.text["greedy_text"], "ids -> text")
