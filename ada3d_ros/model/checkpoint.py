"""Checkpoints in LLaVA-3D's official layout: inspect, load strictly, save.

Names, shapes and formats are checked against the config before a value is read; the model is built
without memory (meta device) and filled tensor by tensor in the target format, so that loading needs
the model's size once. No network, no pickle code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ada3d_ros.errors import CheckpointError, ConfigError, OutOfMemoryError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.grounding_head import LoadedHead, load_grounding_head
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer
from ada3d_ros.model.quantize import is_quantized, kernel_of, linear_bytes, quantize_linear
from ada3d_ros.model.weight_files import (
    TensorInfo,
    find_weight_files,
    read_headers,
    read_json,
    read_tensors,
    write_shards,
)

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VISION_PREFIX = "model.vision_tower.vision_tower."
PREFIXES = (  # our module -> official name; the first that fits
    ("decoder.lm_head.", "lm_head."),
    ("decoder.", "model."),
    ("vision.", VISION_PREFIX + "vision_model."),
    ("projector.", "model.mm_projector."),
    (
        "position_embedding.",
        "model.video_tower.video_tower.positional_embedding.position_embedding_head.",
    ),
    ("click_encoder.", "model.video_tower.prompt_encoder.pos_emb3d.position_embedding_head."),
)
STORED_DTYPES = ("F32", "F16", "BF16")
FLOAT32_MODULES = (
    "position_embedding.",
    "click_encoder.",
)  # geometry stays float32 (model/spatial.py)
MAX_NAMED = 8
TOKENIZER_KEY = "ada3d_tokenizer_sha256"  # in config.json; official checkpoints have none


@dataclass(frozen=True, eq=False, slots=True)
class CheckpointInfo:
    """A checkpoint whose names, shapes and formats are right; no value has been read. sources: our
    parameter name -> stored tensor (its name in the file, and where).
    """

    path: Path
    config: LlavaConfig
    files: tuple[Path, ...]
    sources: Mapping[str, tuple[str, TensorInfo]]

    @property
    def num_parameters(self) -> int:
        return sum(_numel(info.shape) for _, info in self.sources.values())

    def weight_bytes(
        self, dtype: torch.dtype, weights: str = "full", device_type: str = "cpu"
    ) -> int:
        """Device memory that the weights will take in this format and `model.weights`."""
        return sum(
            (
                linear_bytes(info.shape, dtype, weights, device_type)
                if is_quantized(name)
                else _numel(info.shape) * target_dtype(name, dtype).itemsize
            )
            for name, (_, info) in self.sources.items()
        )


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """A model ready to run (eval mode, no gradients), its tokenizer, and its grounding head where
    the folder holds one.
    """

    model: Llava3D
    tokenizer: Tokenizer
    info: CheckpointInfo
    head: LoadedHead | None = None


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def target_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The format that one of our parameters is loaded in, where the model's is `dtype`."""
    return torch.float32 if name.startswith(FLOAT32_MODULES) else dtype


def official_name(name: str) -> str:
    """The official checkpoint's name of one of our parameters."""
    ours, official = next(pair for pair in PREFIXES if name.startswith(pair[0]))
    return official + name.removeprefix(ours)


def build_meta_model(config: LlavaConfig, compat: str = "default") -> Llava3D:
    """The model with names and shapes but without memory."""
    with torch.device("meta"):
        return Llava3D(config, compat)


# parameters from which on a CPU's bfloat16 is the faster one (docs/benchmarks.md, shapes A and B)
LARGE = 100_000_000


def resolve_device(name: str) -> torch.device:
    """`auto`: cuda where there is one. Raises ConfigError for a cuda device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"model.device = {name!r}: torch sees {torch.cuda.device_count()} CUDA device(s); use"
            " cpu or auto."
        )
    return device


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_dtype(precision: str, device: torch.device, num_parameters: int = 0) -> torch.dtype:
    """`auto`: bfloat16 on cuda, and on a CPU that has it for a model of LARGE parameters; else
    float32.
    """
    if precision == "auto":
        fast = device.type == "cuda" or (num_parameters >= LARGE and has_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    if precision not in PRECISIONS:
        raise ConfigError(
            f"model.precision = {precision!r}; allowed: auto, {', '.join(PRECISIONS)}."
        )
    return PRECISIONS[precision]


def inspect_checkpoint(path: str | Path, vision_path: str | Path | None = None) -> CheckpointInfo:
    """Checks a folder from its config and file headers alone; fast even for 7B.

    Raises CheckpointError that names what is missing, unexpected, of another shape or format,
    unsafe or damaged.
    """
    folder, vision_folder = Path(path), Path(vision_path) if vision_path else None
    files = find_weight_files(folder)
    vision_config = read_json(vision_folder / "config.json") if vision_folder else None
    config = LlavaConfig.from_json(read_json(folder / "config.json"), vision_config)
    if not (folder / "tokenizer.model").is_file():
        raise CheckpointError(
            f"{folder} lacks tokenizer.model: copy it from the checkpoint (for LLaVA, that of"
            " Vicuna)."
        )
    expected = read_json(folder / "config.json").get(TOKENIZER_KEY)
    if (
        expected
        and expected != hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()
    ):
        raise CheckpointError(
            f"{folder}/tokenizer.model is not the one that this model was trained with"
            f" (config.json, {TOKENIZER_KEY}): copy the folder again."
        )
    return inspect_files(config, files, find_weight_files(vision_folder) if vision_folder else [])


def inspect_files(
    config: LlavaConfig, files: Sequence[Path], vision_files: Sequence[Path] = ()
) -> CheckpointInfo:
    """The same for weight files and a config that are already known; vision_files (CLIP) are used
    if `files` hold no tower.
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
    """Stored tensors that no output depends on: old buffers, CLIP blocks after the selected layer,
    CLIP's last norm.
    """
    if name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")):
        return True
    if not name.startswith(VISION_PREFIX):
        return False
    layer = re.search(r"encoder\.layers\.(\d+)\.", name)
    return ".post_layernorm." in name or (
        layer is not None and int(layer.group(1)) >= num_run_layers
    )


def _match(
    config: LlavaConfig, stored: Mapping[str, tuple[str, TensorInfo]], folder: Path
) -> dict[str, tuple[str, TensorInfo]]:
    expected = {
        official_name(name): (name, tuple(p.shape))
        for name, p in build_meta_model(config).named_parameters()
    }
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
    missing = [name for name in expected if name not in stored]
    if (
        missing
        and all(name.startswith(VISION_PREFIX) for name in missing)
        and not any(name.startswith(VISION_PREFIX) for name in stored)
    ):
        raise CheckpointError(
            f"{folder} holds no vision tower ({VISION_PREFIX}*): set model.vision_path to a local"
            " folder with the CLIP checkpoint that config.json names as mm_vision_tower."
        )
    unexpected = [
        name
        for name in stored
        if name not in expected and not _is_unused(name, config.vision.num_run_layers)
    ]
    if missing or unexpected:
        parts = [
            f"{len(n)} {w} tensor(s): {_shortened(n)}"
            for w, n in (("missing", missing), ("unexpected", unexpected))
            if n
        ]
        raise CheckpointError(
            f"{folder} does not fit its config.json; {'; '.join(parts)}. Is it a LLaVA-3D"
            " checkpoint?"
        )
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
    """The model and tokenizer of a checkpoint folder; vision_path is used where the folder holds no
    CLIP weights.

    Raises CheckpointError as `inspect_checkpoint` does, OutOfMemoryError with both sizes where the
    device is too small.
    """
    info = inspect_checkpoint(path, vision_path)
    tokenizer = Tokenizer(info.path / "tokenizer.model")
    _check_tokenizer(tokenizer, info)
    head = load_grounding_head(info.path, info.config.decoder.hidden_size, device)
    return LoadedModel(load_weights(info, device, dtype, compat, weights), tokenizer, info, head)


def _check_tokenizer(tokenizer: Tokenizer, info: CheckpointInfo) -> None:
    decoder = info.config.decoder
    if tokenizer.vocab_size > decoder.vocab_size:
        raise CheckpointError(
            f"{info.path}: tokenizer.model has {tokenizer.vocab_size} tokens, the model's embedding"
            f" only {decoder.vocab_size}: they are not of the same checkpoint."
        )
    for name, ours, theirs in (
        ("bos", tokenizer.bos_id, decoder.bos_id),
        ("eos", tokenizer.eos_id, decoder.eos_id),
    ):
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
    """The model of an inspected checkpoint, in eval mode and without gradients; the decoder's
    linear layers as `model.weights` says.

    Raises ConfigError where int4 does not fit their sizes.
    """
    device = torch.device(device)
    needed = info.weight_bytes(dtype, weights, device.type)
    model = build_meta_model(info.config, compat)
    try:
        _fill(model, info, device, dtype, weights)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"the weights need {needed / 2**30:.1f} GiB on {device}, which has less free: use"
            " model.weights int8 or int4, model.precision bf16, close other programs, or take a"
            " smaller model."
        ) from None
    if weights != "full":
        logger.info(
            "the decoder's linear layers are in %s, by %s",
            weights,
            kernel_of(weights, dtype, device.type),
        )
    return model.eval()


def _fill(
    model: Llava3D, info: CheckpointInfo, device: torch.device, dtype: torch.dtype, weights: str
) -> None:
    """Tensor by tensor; one that is to be quantised is so before the next is read."""
    for file in info.files:
        ours = {
            stored: name for name, (stored, tensor) in info.sources.items() if tensor.file == file
        }
        for stored, tensor in read_tensors(file, list(ours)):
            value = tensor.to(
                device, target_dtype(ours[stored], dtype), copy=True
            )  # not a view of the mapped file
            set_parameter(model, ours[stored], value)
            if weights != "full" and is_quantized(ours[stored]):
                path = ours[stored].removesuffix(".weight")
                model.set_submodule(path, quantize_linear(model.get_submodule(path), weights))


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
    """Writes config.json, tokenizer.model and safetensors in the official layout; the folder is
    made.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer.to_bytes()
    config = model.config.to_json() | {TOKENIZER_KEY: hashlib.sha256(words).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(words)
    write_shards(
        {official_name(name): p for name, p in model.named_parameters()}, folder, max_shard_bytes
    )
