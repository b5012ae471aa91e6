"""`ada3d parity CASE --record DIR`: one scene of a recorded LLaVA-3D case as a small case.

Every array written is a part of the recorded one; nothing is computed anew but the first greedy
token, the largest of the recorded logits. Left out is what no output depends on or what another
array shows as well: other samples, vision layers after the selected one, logits before the end of
the scene tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.parity.forward import EncodedInput, build_prompts, encode_inputs
from ada3d_ros.lab.parity.golden_case import GoldenCase, Tensors, read_tensors
from ada3d_ros.lab.parity.llava3d import AFTER_SCENE
from ada3d_ros.model.prompt import CLICK_ID

CONFIG = ("reference_commit", "clip", "llama", "mm", "capture")
PER_SAMPLE = ("inputs_embeds", "hidden_mid", "hidden_last")  # (B, T, D)


def record_sample(source: Path, target: Path, sample: int) -> None:
    """Writes sample number `sample` of the case `source` to the folder `target`.

    Raises SourceError where the case has no such sample or that has no scene, and for a `target`
    that exists.
    """
    case = GoldenCase(source)
    if "logits" not in case.expected:
        raise SourceError(f"{source} has no logits of whole prompts; is it such a part itself?")
    if target.exists():
        raise SourceError(f"{target} exists already; name another folder.")
    if not 0 <= sample < len(case.prompt_ids):
        raise SourceError(f"--sample {sample}: {source} has {len(case.prompt_ids)}, from 0 on.")

    # Which of the case's scenes this sample asks about, and where its tokens end in the prompt.
    prompts, taken = build_prompts(case, encode_inputs(case))
    scenes = [item for item in taken if item is not None and item.is_scene]
    scene = taken[sample]
    if scene is None or not scene.is_scene:
        raise SourceError(f"--sample {sample} of {source} has no scene.")

    expected = _scene_arrays(case, scenes, scene)
    expected |= _sample_arrays(case, sample, prompts[sample].spatial_span[1])
    used = {name for name, _ in case.checkpoint.sources.values()}
    weights = read_tensors(source / "weights.safetensors")
    target.mkdir(parents=True)
    _save(target / "inputs.safetensors", _inputs(case, scene, sample))
    _save(target / "expected.safetensors", expected)
    _save(target / "weights.safetensors", {n: t for n, t in weights.items() if n in used})
    _save_json(target / "config.json", _config(case, scene, sample))
    _save_json(target / "text.json", _text(case, sample))


def _inputs(case: GoldenCase, scene: EncodedInput, sample: int) -> Tensors:
    """The scene's raw frames, the sample's ids and its clicks."""
    ids = case.prompt_ids[sample]
    first = sum(other.count(CLICK_ID) for other in case.prompt_ids[:sample])
    clicks = torch.tensor(case.clicks[first : first + ids.count(CLICK_ID)])
    return case.groups[scene.name] | {
        "input_ids": torch.tensor([ids]),
        "clicks": clicks.reshape(-1, 3),
    }


def _scene_arrays(case: GoldenCase, scenes: list[EncodedInput], scene: EncodedInput) -> Tensors:
    """What the case recorded of one scene, by the names of a case with one scene."""
    found, number = {}, scenes.index(scene)
    for name, ours in scene.arrays.items():
        own = case.expected.get(f"{scene.name}.{name}")
        golden = case.expected.get(name)
        if own is not None:
            found[name] = own
        elif golden is not None and golden.ndim == ours.ndim + 1:
            found[name] = golden[number]
        elif golden is not None:
            found[name] = golden.split([len(item.arrays[name]) for item in scenes])[number]
    return found


def _sample_arrays(case: GoldenCase, sample: int, scene_stop: int) -> Tensors:
    """What the case recorded of one sample's run; scene_stop: row after the last scene token."""
    length = case.expected["inputs_embeds"].shape[1]
    mask = case.expected.get("attention_mask", torch.ones(sample + 1, length))[sample].bool()
    found = {
        name: case.expected[name][sample, mask][None]
        for name in PER_SAMPLE
        if name in case.expected
    }
    logits = case.expected["logits"][sample, mask][None]
    found[AFTER_SCENE] = logits[:, scene_stop:]

    # Greedy tokens are recorded of single samples; else the first one follows from the logits.
    greedy = {name: t for name, t in case.expected.items() if name.startswith("greedy_")}
    return found | (greedy or {"greedy_ids": logits[0, -1:].argmax(dim=-1)})


def _config(case: GoldenCase, scene: EncodedInput, sample: int) -> dict[str, Any]:
    """The case's own sizes; `part_of` says where the arrays come from."""
    config = {name: case.data[name] for name in CONFIG if name in case.data}
    config["part_of"] = {"case": case.folder.name, "sample": sample}
    return config | {"scene": case.scene_settings(scene.name)}


def _text(case: GoldenCase, sample: int) -> dict[str, str]:
    texts = {"question": case.questions, "prompt": case.prompts}
    return {name: all_of[sample] for name, all_of in texts.items() if all_of}


def _save(path: Path, tensors: Tensors) -> None:
    """A tensor is copied, for a view would bring its whole storage along."""
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


def _save_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
