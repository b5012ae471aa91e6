"""The names of a checkpoint's tensors: the official layout, transformers' two layouts, CLIP's own.

All are brought to the official name; what is stored is matched with what a model of that config
needs, from the headers alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from ada3d_ros.config import VISION_SETTING
from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.architectures import Architecture, architecture_named
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.weight_files import TensorInfo

VISION_PREFIX = "model.vision_tower.vision_tower."
VIDEO_PREFIX = "model.video_tower."
POSITION_HEAD = "position_embedding_head."
PREFIXES = (  # our module -> official name; the first that fits
    ("decoder.lm_head.", "lm_head."),
    ("decoder.", "model."),
    ("vision.", VISION_PREFIX + "vision_model."),
    ("projector.", "model.mm_projector."),
    ("newline", "model.image_newline"),
    ("ground.object.", "ground_head_obj."),
    ("ground.query.", "ground_head_query."),
    ("ground.zero_target", "ground_head_zero_target"),
    ("position_embedding.", VIDEO_PREFIX + "video_tower.positional_embedding." + POSITION_HEAD),
    ("click_encoder.", VIDEO_PREFIX + "prompt_encoder.pos_emb3d." + POSITION_HEAD),
)
# Other spellings of the same: transformers' LLaVA since 4.52 and before, and its CLIP with and
# without `vision_model.` (dropped in 5.23).
SPELLINGS = (
    (re.compile(r"(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?"), PREFIXES[2][1]),
    (re.compile(r"(model\.)?multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"(model\.)?multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
    (re.compile(r"model\.language_model\.|language_model\.model\."), "model."),
    (re.compile(r"language_model\.lm_head\."), "lm_head."),
    (re.compile(r"(model\.)?image_newline"), "model.image_newline"),
)
CLIP_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
STORED_DTYPES = ("F32", "F16", "BF16")
MAX_NAMED = 8

Stored = dict[str, tuple[str, TensorInfo]]  # official name -> name in the file, and where


def official_name(name: str) -> str:
    """The official checkpoint's name of one of our parameters."""
    ours, official = next(pair for pair in PREFIXES if name.startswith(pair[0]))
    return official + name.removeprefix(ours)


def build_meta_model(config: BackboneConfig, compat: str = "default") -> nn.Module:
    """The model of this config's architecture with names and shapes but without memory."""
    with torch.device("meta"):
        model = architecture_named(config.backbone).build(config, compat)
    unfilled = [name for name, _ in model.named_buffers()]
    assert not unfilled, f"no checkpoint has values for the buffers {unfilled}"
    return model


def by_official_name(headers: Mapping[str, TensorInfo]) -> Stored:
    """A checkpoint's tensors under their official names.

    Raises CheckpointError where one is there twice, or one outside the vision tower has no values.
    """
    found: Stored = {}
    for name, info in headers.items():
        official = _respelled(name)
        if official in found:
            raise CheckpointError(
                f"{info.file.parent} holds {official} twice, as {found[official][0]} and as {name}:"
                " take one of the two sets of weights out."
            )
        found[official] = name, info

    # Training frameworks leave tensors without values behind; for a tower there is a way out.
    lost = [name for name, at in found.items() if _is_empty(at) and not _is_tower(name)]
    if lost:
        raise CheckpointError(
            f"{found[lost[0]][1].file.parent}: {len(lost)} tensor(s) hold no values, as"
            f" {lost[0]} of shape {found[lost[0]][1].shape}: they were saved while split over"
            " processes. Gather them (DeepSpeed: zero_to_fp32.py beside the checkpoint) and save"
            " again."
        )
    return found


def _respelled(name: str) -> str:
    for pattern, official in SPELLINGS:
        match = pattern.match(name)
        if match:
            return official + name[match.end() :]
    return name


def _is_tower(name: str) -> bool:
    return name.startswith(VISION_PREFIX)


def _is_empty(at: tuple[str, TensorInfo]) -> bool:
    return 0 in at[1].shape


def has_tower(stored: Stored) -> bool:
    """Whether there is a vision tower among the tensors, and all of it has values."""
    tower = [at for name, at in stored.items() if _is_tower(name)]
    return bool(tower) and not any(map(_is_empty, tower))


def check_tower(stored: Stored, folder: Path, name: object, architecture: Architecture) -> None:
    """Raises CheckpointError for a LLaVA whose vision tower is absent or empty.

    name: of the tower, as config.json has it; None where it has none.
    """
    is_llava = any(name.startswith("model.mm_projector.") for name in stored)
    if has_tower(stored) or not is_llava:  # a language model alone has another cause
        return
    is_absent = not any(map(_is_tower, stored))
    what = "no vision tower" if is_absent else "an empty vision tower: no values in tensors"
    named = f" ({name!r})" if name else ""
    if architecture.has_own_tower:
        raise CheckpointError(
            f"{folder} holds {what} ({VISION_PREFIX}*): it was trained with the model, so that no"
            f" other tower{named} will do. Take the whole checkpoint."
        )
    raise CheckpointError(
        f"{folder} holds {what} ({VISION_PREFIX}*): set {VISION_SETTING} to a local folder with the"
        f" CLIP checkpoint that config.json names as mm_vision_tower{named}."
    )


def without_tower(stored: Stored) -> Stored:
    """The tensors outside the vision tower."""
    return {name: at for name, at in stored.items() if not _is_tower(name)}


def clip_tensors(headers: Mapping[str, TensorInfo], folder: Path) -> Stored:
    """The vision part of a CLIP checkpoint under LLaVA's names; the text part is left out.

    Raises CheckpointError where there is none, or it has no values.
    """
    short = {name: name.removeprefix("vision_model.") for name in headers}
    found = {
        PREFIXES[2][1] + short[name]: (name, info)
        for name, info in headers.items()
        if short[name].startswith(CLIP_PARTS)
    }
    if not found:
        raise CheckpointError(
            f"{folder} holds no CLIP vision tower (vision_model.*): {VISION_SETTING} takes the"
            " folder of the CLIP checkpoint that config.json names as mm_vision_tower."
        )
    empty = [at for at in found.values() if _is_empty(at)]
    if empty:
        raise CheckpointError(
            f"{folder}: {empty[0][0]} has shape {empty[0][1].shape}, it holds no values: take"
            " another copy of that CLIP checkpoint."
        )
    return found


def _is_unused(name: str, num_run_layers: int) -> bool:
    """Whether no output depends on a stored tensor.

    Such are old buffers, and of the tower the blocks after the selected layer, the last norm, and
    SigLIP's pooling head.
    """
    if name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")):
        return True
    if not _is_tower(name):
        return False
    layer = _layer_of(name)
    if name.startswith((PREFIXES[2][1] + "post_layernorm.", PREFIXES[2][1] + "head.")):
        return True
    return layer is not None and layer >= num_run_layers


def _layer_of(name: str) -> int | None:
    """The block of the vision tower that a tensor belongs to."""
    layer = re.search(r"encoder\.layers\.(\d+)\.", name) if _is_tower(name) else None
    return None if layer is None else int(layer.group(1))


def match(config: BackboneConfig, stored: Stored, folder: Path) -> Stored:
    """Our parameter name -> stored tensor, for a model of this config and what the headers say.

    Raises CheckpointError that names what is missing, unexpected, of another shape or format.
    """
    expected = {
        official_name(name): (name, tuple(p.shape))
        for name, p in build_meta_model(config).named_parameters()
    }
    _check_formats(expected, stored, folder)

    # Names.
    missing = [name for name in expected if name not in stored]
    unused_from = config.vision.num_run_layers
    unexpected = [n for n in stored if n not in expected and not _is_unused(n, unused_from)]
    if missing or unexpected:
        from ada3d_ros.model.folder_faults import explain_names  # loaded where it is needed

        parts = [
            f"{len(names)} {what} tensor(s): {_shortened(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        cause = explain_names(folder, missing, unexpected)
        raise CheckpointError(
            cause
            or f"{folder} does not fit its config.json; {'; '.join(parts)}. It is read as"
            f" {config.backbone}, as config.json says: are files of several checkpoints mixed, or"
            " is it another model's?"
        )
    _check_shapes(config, expected, stored, folder)
    return {name: stored[official] for official, (name, _) in expected.items()}


def _check_formats(expected: Iterable[str], stored: Stored, folder: Path) -> None:
    # First of all: a quantised checkpoint has other names too, and its format says why.
    formats = [
        f"{name} is stored as {stored[name][1].dtype}"
        for name in expected
        if name in stored and stored[name][1].dtype not in STORED_DTYPES
    ]
    if formats:
        raise CheckpointError(
            f"{folder}: {_shortened(formats, '; ')}. Only {', '.join(STORED_DTYPES)} are read: take"
            " the checkpoint without quantisation."
        )


def _check_shapes(
    config: BackboneConfig,
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    stored: Stored,
    folder: Path,
) -> None:
    # Blocks beyond the config's would be left out, and another one would be the selected.
    blocks = 1 + max((layer for n in stored if (layer := _layer_of(n)) is not None), default=-1)
    if blocks > config.vision.num_hidden_layers:
        raise CheckpointError(
            f"{folder}: the vision tower has {blocks} blocks, its config.json says"
            f" num_hidden_layers {config.vision.num_hidden_layers} (12 where it is left out): write"
            " the tower's number of blocks into its config.json."
        )

    # Each tensor's shape.
    wrong = [
        f"{name} has shape {stored[name][1].shape}, expected {shape}"
        for name, (_, shape) in expected.items()
        if stored[name][1].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{folder} does not fit its config.json: {_shortened(wrong, '; ')}.")


def _shortened(names: list[str], separator: str = ", ") -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return separator.join(names[:MAX_NAMED]) + more
