"""Checkpoints in LLaVA-3D's official layout: inspect, load strictly, save.

Names, shapes and formats are checked against the config before a value is read; the model is built
without memory (meta device) and filled tensor by tensor in the target format, so that loading needs
the model's size once. No network, no pickle code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ada3d_ros.errors import CheckpointError, OutOfMemoryError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.grounding_head import LoadedHead, load_grounding_head
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer
from ada3d_ros.model.weight_files import (
    TensorInfo,
    find_weight_files,
    read_headers,
    read_json,
    read_tensors,
    write_shards,
)
from ada3d_ros.model.weight_format import WeightFormat, target_dtype

logger = logging.getLogger(__name__)

VISION_PREFIX = "model.vision_tower.vision_tower."
VIDEO_PREFIX = "model.video_tower."
POSITION_HEAD = "position_embedding_head."
PREFIXES = (  # our module -> official name; the first that fits
    ("decoder.lm_head.", "lm_head."),
    ("decoder.", "model."),
    ("vision.", VISION_PREFIX + "vision_model."),
    ("projector.", "model.mm_projector."),
    ("position_embedding.", VIDEO_PREFIX + "video_tower.positional_embedding." + POSITION_HEAD),
    ("click_encoder.", VIDEO_PREFIX + "prompt_encoder.pos_emb3d." + POSITION_HEAD),
)
STORED_DTYPES = ("F32", "F16", "BF16")
MAX_NAMED = 8
TOKENIZER_KEY = "ada3d_tokenizer_sha256"  # in config.json; official checkpoints have none


@dataclass(frozen=True, eq=False, slots=True)
class CheckpointInfo:
    """A checkpoint whose names, shapes and formats are right; no value has been read.

    sources: our parameter name -> stored tensor (its name in the file, and where).
    """

    path: Path
    config: LlavaConfig
    files: tuple[Path, ...]
    sources: Mapping[str, tuple[str, TensorInfo]]

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(info.shape) for _, info in self.sources.values())

    def weight_bytes(self, form: WeightFormat) -> int:
        """Device memory that the weights will take in this format."""
        return sum(form.num_bytes(name, info.shape) for name, (_, info) in self.sources.items())


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """A model ready to run (eval mode, no gradients), its tokenizer, its grounding head if any."""

    model: Llava3D
    tokenizer: Tokenizer
    info: CheckpointInfo
    head: LoadedHead | None = None


def official_name(name: str) -> str:
    """The official checkpoint's name of one of our parameters."""
    ours, official = next(pair for pair in PREFIXES if name.startswith(pair[0]))
    return official + name.removeprefix(ours)


def build_meta_model(config: LlavaConfig, compat: str = "default") -> Llava3D:
    """The model with names and shapes but without memory."""
    with torch.device("meta"):
        return Llava3D(config, compat)


def inspect_checkpoint(path: str | Path, vision_path: str | Path | None = None) -> CheckpointInfo:
    """Checks a folder from its config and file headers alone; fast even for 7B.

    Raises CheckpointError that names what is missing, unexpected, of another shape or format,
    unsafe or damaged.
    """
    folder = Path(path)
    vision_folder = Path(vision_path) if vision_path else None

    # The sizes, of the model and of a vision tower that lies elsewhere.
    files = find_weight_files(folder)
    data = read_json(folder / "config.json")
    vision_data = read_json(vision_folder / "config.json") if vision_folder else None
    config = LlavaConfig.from_json(data, vision_data)

    # The tokenizer: there, and the one that config.json was written with.
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.is_file():
        raise CheckpointError(
            f"{folder} lacks tokenizer.model: copy it from the checkpoint (for LLaVA, that of"
            " Vicuna)."
        )
    expected = data.get(TOKENIZER_KEY)
    if expected and expected != hashlib.sha256(tokenizer.read_bytes()).hexdigest():
        raise CheckpointError(
            f"{tokenizer} is not the one that this model was trained with"
            f" (config.json, {TOKENIZER_KEY}): copy the folder again."
        )

    # The weight files, by their headers.
    return inspect_files(config, files, find_weight_files(vision_folder) if vision_folder else [])


def inspect_files(
    config: LlavaConfig, files: Sequence[Path], vision_files: Sequence[Path] = ()
) -> CheckpointInfo:
    """The same for weight files and a config that are already known.

    vision_files: of a CLIP checkpoint, used if `files` hold no vision tower.
    """
    stored = {_normalize(name): (name, info) for name, info in read_headers(files).items()}
    if vision_files and not any(name.startswith(VISION_PREFIX) for name in stored):
        files = [*files, *vision_files]
        stored |= _clip_tensors(read_headers(vision_files))
    folder = files[0].parent
    return CheckpointInfo(folder, config, tuple(files), _match(config, stored, folder))


def _normalize(name: str) -> str:
    """transformers 5.23 dropped `vision_model.` from CLIP's names: both spellings are taken."""
    if name.startswith(VISION_PREFIX) and not name.startswith(VISION_PREFIX + "vision_model."):
        return VISION_PREFIX + "vision_model." + name.removeprefix(VISION_PREFIX)
    return name


def _clip_tensors(headers: Mapping[str, TensorInfo]) -> dict[str, tuple[str, TensorInfo]]:
    """The vision part of a CLIP checkpoint under LLaVA's names; the text part is left out."""
    vision = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
    short = {name: name.removeprefix("vision_model.") for name in headers}
    return {
        VISION_PREFIX + "vision_model." + short[name]: (name, info)
        for name, info in headers.items()
        if short[name].startswith(vision)
    }


def _is_unused(name: str, num_run_layers: int) -> bool:
    """Whether no output depends on a stored tensor.

    Such are old buffers, and of CLIP the blocks after the selected layer and the last norm.
    """
    if name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")):
        return True
    if not name.startswith(VISION_PREFIX):
        return False
    if ".post_layernorm." in name:
        return True
    layer = re.search(r"encoder\.layers\.(\d+)\.", name)
    return layer is not None and int(layer.group(1)) >= num_run_layers


def _match(
    config: LlavaConfig, stored: Mapping[str, tuple[str, TensorInfo]], folder: Path
) -> dict[str, tuple[str, TensorInfo]]:
    """Our parameter name -> stored tensor, for a model of this config and what the headers say."""
    expected = {
        official_name(name): (name, tuple(p.shape))
        for name, p in build_meta_model(config).named_parameters()
    }

    # Formats first: a quantised checkpoint has other names too, and its format says why.
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

    # Names: a vision tower that is missing as a whole lies in a folder of its own.
    missing = [name for name in expected if name not in stored]
    has_tower = any(name.startswith(VISION_PREFIX) for name in stored)
    if missing and not has_tower and all(name.startswith(VISION_PREFIX) for name in missing):
        raise CheckpointError(
            f"{folder} holds no vision tower ({VISION_PREFIX}*): set model.vision_path to a local"
            " folder with the CLIP checkpoint that config.json names as mm_vision_tower."
        )
    unused_from = config.vision.num_run_layers
    unexpected = [n for n in stored if n not in expected and not _is_unused(n, unused_from)]
    if missing or unexpected:
        parts = [
            f"{len(names)} {what} tensor(s): {_shortened(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CheckpointError(
            f"{folder} does not fit its config.json; {'; '.join(parts)}. Is it a LLaVA-3D"
            " checkpoint?"
        )

    # Shapes.
    wrong = [
        f"{name} has shape {stored[name][1].shape}, expected {shape}"
        for name, (_, shape) in expected.items()
        if stored[name][1].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{folder} does not fit its config.json: {_shortened(wrong, '; ')}.")
    return {name: stored[official] for official, (name, _) in expected.items()}


def _shortened(names: list[str], separator: str = ", ") -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return separator.join(names[:MAX_NAMED]) + more


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compat: str = "default",
    vision_path: str | Path | None = None,
    weights: str = "full",
) -> LoadedModel:
    """The model, tokenizer and grounding head of a checkpoint folder.

    vision_path: of a CLIP checkpoint, used where the folder holds no vision tower. Raises
    CheckpointError as `inspect_checkpoint` does, ConfigError and OutOfMemoryError as
    `load_weights` does.
    """
    info = inspect_checkpoint(path, vision_path)
    tokenizer = Tokenizer(info.path / "tokenizer.model")
    _check_tokenizer(tokenizer, info)
    head = load_grounding_head(info.path, info.config.decoder.hidden_size, device)
    return LoadedModel(load_weights(info, device, dtype, compat, weights), tokenizer, info, head)


def _check_tokenizer(tokenizer: Tokenizer, info: CheckpointInfo) -> None:
    # An embedding may be larger than the vocabulary, not smaller.
    decoder = info.config.decoder
    if tokenizer.vocab_size > decoder.vocab_size:
        raise CheckpointError(
            f"{info.path}: tokenizer.model has {tokenizer.vocab_size} tokens, the model's embedding"
            f" only {decoder.vocab_size}: they are not of the same checkpoint."
        )

    # Prompts begin and answers end with these.
    bos = ("bos", tokenizer.bos_id, decoder.bos_id)
    eos = ("eos", tokenizer.eos_id, decoder.eos_id)
    for name, ours, theirs in (bos, eos):
        if ours != theirs:
            raise CheckpointError(
                f"{info.path}: tokenizer.model has {name} id {ours}, config.json has"
                f" {name}_token_id {theirs}: they are not of the same checkpoint."
            )


def load_weights(
    info: CheckpointInfo,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compat: str = "default",
    weights: str = "full",
) -> Llava3D:
    """The model of an inspected checkpoint, in eval mode and without gradients.

    weights: of the decoder's linear layers, as `model.weights` says. Raises ConfigError where they
    cannot be quantised so, OutOfMemoryError with the size where the device is too small.
    """
    # Refuse before anything is read.
    device = torch.device(device)
    form = WeightFormat(dtype, weights, device.type)
    if weights != "full":  # torchao is loaded where it is needed
        from ada3d_ros.model.quantize import require_kernel

        require_kernel(weights, device)
    needed = info.weight_bytes(form)

    # Fill a model that takes no memory yet.
    model = build_meta_model(info.config, compat)
    try:
        _fill(model, info, device, form)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"the weights need {needed / 2**30:.1f} GiB on {device}, which has less free: use"
            " model.weights int8 or int4, model.precision bf16, close other programs, or take a"
            " smaller model."
        ) from None
    if weights != "full":
        logger.info("the decoder's linear layers are in %s, by torchao", weights)
    return model.eval()


def _fill(model: Llava3D, info: CheckpointInfo, device: torch.device, form: WeightFormat) -> None:
    """Tensor by tensor; one that is to be quantised is so before the next is read."""
    for file in info.files:
        ours = {stored: name for name, (stored, t) in info.sources.items() if t.file == file}
        for stored, tensor in read_tensors(file, list(ours)):
            name = ours[stored]
            # A copy always: the tensor may be a view of the mapped file.
            value = tensor.to(device, target_dtype(name, form.dtype), copy=True)
            set_parameter(model, name, value)
            if form.is_quantized(name):
                from ada3d_ros.model.quantize import quantize_linear

                path = name.removesuffix(".weight")
                linear = cast(nn.Linear, model.get_submodule(path))
                model.set_submodule(path, quantize_linear(linear, form.weights))


def set_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Puts `value` in the place of parameter `name`, without gradients."""
    module, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))


def weights_sha256(path: str | Path) -> str:
    """SHA-256 over the weight files in name order; for a single file, what `sha256sum` prints."""
    digest = hashlib.sha256()
    for file in find_weight_files(Path(path)):
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def save_checkpoint(
    model: Llava3D, tokenizer: Tokenizer, path: str | Path, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Writes config.json, tokenizer.model and safetensors in the official layout to a folder."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.to_bytes()
    config = model.config.to_json() | {TOKENIZER_KEY: hashlib.sha256(vocabulary).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(vocabulary)
    tensors = {official_name(name): p for name, p in model.named_parameters()}
    write_shards(tensors, folder, max_shard_bytes)
