"""Checkpoints of every architecture: inspect, load strictly, save in the official layout.

Names, shapes and formats are checked against the config before a value is read; the model is built
without memory (meta device) and filled tensor by tensor in the target format, so that loading needs
the model's size once. No network, no pickle code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ada3d_ros.errors import CheckpointError, ConfigError, OutOfMemoryError
from ada3d_ros.model.architectures import architecture_of
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.checkpoint_tokenizer import (
    TOKENIZER_KEY,
    check_tokenizer_file,
    open_tokenizer,
)
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.config_file import (
    GENERATION_FILE,
    check_settings,
    read_config,
    with_generation,
)
from ada3d_ros.model.config_vision import local_tower, other_tower
from ada3d_ros.model.fused import FusedLinears
from ada3d_ros.model.grounding_head import HEAD_FILE, LoadedHead, load_grounding_head
from ada3d_ros.model.layout import (
    build_meta_model,
    by_official_name,
    check_tower,
    clip_tensors,
    has_tower,
    match,
    official_name,
    without_tower,
)
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.processor_file import with_processor
from ada3d_ros.model.prompt import AnyTokenizer
from ada3d_ros.model.weight_files import (
    TensorInfo,
    check_folder,
    copy_into,
    find_weight_files,
    other_sets_of_weights,
    read_headers,
    read_json,
    read_tensors,
    write_shards,
)
from ada3d_ros.model.weight_format import WeightFormat, target_dtype

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class CheckpointInfo:
    """A checkpoint whose names, shapes and formats are right; no value has been read.

    files: of all weights, those of a vision tower apart (tower_files) at the end. sources: our
    parameter name -> stored tensor (its name in the file, and where). notes: sentences about what
    is there and not used.
    """

    path: Path
    config: BackboneConfig
    files: tuple[Path, ...]
    sources: Mapping[str, tuple[str, TensorInfo]]
    tower_files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(info.shape) for _, info in self.sources.values())

    def weight_bytes(self, form: WeightFormat) -> int:
        """Device memory that the weights will take in this format."""
        return sum(form.num_bytes(name, info.shape) for name, (_, info) in self.sources.items())


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """A model ready to run (eval mode, no gradients), its tokenizer, its grounding head if any."""

    model: Backbone
    tokenizer: AnyTokenizer
    info: CheckpointInfo
    head: LoadedHead | None = None

    @property
    def llava3d(self) -> Llava3D:
        """The model, for what is about LLaVA-3D alone, as training. Raises ConfigError for
        another.
        """
        if not isinstance(self.model, Llava3D):
            raise ConfigError(
                f"{self.info.path} is {self.model.name}; this works on LLaVA-3D and LLaVA-1.5"
                " alone."
            )
        return self.model


def inspect_checkpoint(path: str | Path, vision_path: str | Path | None = None) -> CheckpointInfo:
    """Checks a folder from its config and file headers alone; fast even for 7B.

    vision_path: of a CLIP checkpoint, used where the folder holds no vision tower; without it, the
    folder that config.json names as mm_vision_tower. Raises CheckpointError that names what is
    missing, unexpected, of another shape or format, unsafe or damaged.
    """
    vision_folder = Path(vision_path) if vision_path else None
    try:
        return _inspect(Path(path), vision_folder)
    except PermissionError as error:
        from ada3d_ros.model.folder_faults import not_readable  # loaded where it is needed

        raise CheckpointError(not_readable(Path(error.filename or path))) from None


def _inspect(folder: Path, vision_folder: Path | None) -> CheckpointInfo:
    # What kind of model it is, before anything else is missed in it.
    check_folder(folder)
    if (folder / "config.json").is_file():
        architecture_of(read_json(folder / "config.json"))
    files = find_weight_files(folder)
    data = with_generation(read_json(folder / "config.json"), folder)
    data = with_processor(data, folder)
    architecture = architecture_of(data)
    notes = [note for note in (other_sets_of_weights(folder), *check_settings(data)) if note]
    check_tokenizer_file(folder, data, architecture)

    # The weights by their headers; a vision tower that lies elsewhere, and its sizes.
    stored = by_official_name(read_headers(files))
    data = architecture.complete(data, {name: at[1].shape for name, at in stored.items()})
    notes += architecture.notes(data)
    tower_apart = not has_tower(stored) and not architecture.has_own_tower
    if vision_folder and not tower_apart:
        notes.append(f"{folder} has a vision tower of its own: {vision_folder} is not used.")
    vision_folder = vision_folder or (local_tower(data, folder) if tower_apart else None)
    if vision_folder and not tower_apart and architecture.has_own_tower:
        vision_folder = None
    if vision_folder:
        check_folder(vision_folder)
    vision_data = read_json(vision_folder / "config.json") if vision_folder else None
    tower_apart = tower_apart and vision_folder is not None
    tower_files: list[Path] = []
    if vision_folder and tower_apart:
        tower_files = find_weight_files(vision_folder)
        stored = without_tower(stored)
        stored |= clip_tensors(read_headers(tower_files), vision_folder)

    # All of it together.
    check_tower(stored, folder, data.get("mm_vision_tower"), architecture)
    config = read_config(data, vision_data, tower_apart)
    notes += [note for note in (other_tower(data, config.vision),) if tower_apart and note]
    sources = match(config, stored, folder)
    return CheckpointInfo(
        folder, config, (*files, *tower_files), sources, tuple(tower_files), tuple(notes)
    )


def inspect_files(config: BackboneConfig, files: Sequence[Path]) -> CheckpointInfo:
    """The same for weight files and a config that are already known."""
    folder = files[0].parent
    stored = by_official_name(read_headers(files))
    return CheckpointInfo(folder, config, tuple(files), match(config, stored, folder))


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
    return load_inspected(inspect_checkpoint(path, vision_path), device, dtype, compat, weights)


def load_inspected(
    info: CheckpointInfo,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compat: str = "default",
    weights: str = "full",
) -> LoadedModel:
    """The same for a folder that was inspected."""
    tokenizer = open_tokenizer(info.path, info.config)
    head = load_grounding_head(info.path, info.config.decoder.hidden_size, device)
    return LoadedModel(load_weights(info, device, dtype, compat, weights), tokenizer, info, head)


def load_weights(
    info: CheckpointInfo,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compat: str = "default",
    weights: str = "full",
) -> Backbone:
    """The model of an inspected checkpoint, in eval mode and without gradients.

    weights: of the decoder's linear layers, as `model.weights` says. Raises ConfigError where they
    cannot be quantised so, OutOfMemoryError with the size where the device is too small.
    """
    # Refuse before anything is read.
    device = torch.device(device)
    form = WeightFormat(dtype, weights, device.type)
    if weights != "full":  # torchao is loaded where it is needed
        from ada3d_ros.model.quantize import require_kernel, slower_than_full

        require_kernel(weights, device)
        if reason := slower_than_full(weights, device):
            logger.warning(reason)
    needed = info.weight_bytes(form)

    # Fill a model that takes no memory yet.
    model = build_meta_model(info.config, compat)
    backbone = cast(Backbone, model)
    try:
        _fill(model, info, device, form)
        backbone.decoder.prepare()
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"the weights need {needed / 2**30:.1f} GiB on {device}, which has less free: use"
            " model.weights int8 or int4, model.precision bf16, close other programs, or take a"
            " smaller model."
        ) from None
    if weights != "full":
        logger.info("the decoder's linear layers are in %s, by torchao", weights)
    model.eval()
    return backbone


def _fill(model: nn.Module, info: CheckpointInfo, device: torch.device, form: WeightFormat) -> None:
    """Tensor by tensor, into memory made where it comes; one that is to be quantised is so before
    the next is read.
    """
    for file in info.files:
        ours = {stored: name for name, (stored, t) in info.sources.items() if t.file == file}
        for stored, tensor in read_tensors(file, ours):
            name = ours[stored]
            copy_into(_place_of(model, name, device, form), tensor)
            if form.is_quantized(name):
                from ada3d_ros.model.quantize import quantize_linear

                path = name.removesuffix(".weight")
                linear = cast(nn.Linear, model.get_submodule(path))
                model.set_submodule(path, quantize_linear(linear, form.weights))


@torch.no_grad()
def _place_of(
    model: nn.Module, name: str, device: torch.device, form: WeightFormat
) -> torch.Tensor:
    """Where the values of a parameter go: with those of the layers that multiply the same input in
    one storage, unless they are to be quantised.
    """
    parameter, dtype = model.get_parameter(name), target_dtype(name, form.dtype)
    if not parameter.is_meta:
        return parameter.detach()
    path, layer, _ = name.rsplit(".", 2) if name.count(".") > 1 else ("", "", "")
    owner = model.get_submodule(path)
    is_quantized = form.is_quantized(f"{path}.{layer}.weight")  # its bias is not, and stands alone
    if isinstance(owner, FusedLinears) and layer in owner.names and not is_quantized:
        owner.allocate(device, dtype)
    else:
        set_parameter(model, name, torch.empty(parameter.shape, dtype=dtype, device=device))
    return model.get_parameter(name).detach()


def set_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Puts `value` in the place of parameter `name`, without gradients."""
    module, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))


def weights_sha256(path: str | Path) -> str:
    """SHA-256 over the weight files in name order; for a single file, what `sha256sum` prints."""
    return files_sha256(find_weight_files(Path(path)))


def revision_sha256(info: CheckpointInfo) -> str:
    """What `model.revision_sha256` is compared with.

    That of the weights; behind it ` tower:` and ` head:` with those of a vision tower in files of
    its own and of the grounding head, where there are such.
    """
    own = info.files[: len(info.files) - len(info.tower_files)]
    parts = [files_sha256(own)]
    if info.tower_files:
        parts.append(f"tower:{files_sha256(info.tower_files)}")
    if (info.path / HEAD_FILE).is_file():
        parts.append(f"head:{files_sha256([info.path / HEAD_FILE])}")
    return " ".join(parts)


def files_sha256(files: Sequence[Path]) -> str:
    """SHA-256 over the files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb", buffering=0) as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()


def save_checkpoint(
    model: nn.Module, tokenizer: AnyTokenizer, path: str | Path, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Writes config.json, the tokenizer and safetensors in the official layout to a folder, with
    generation_config.json where the model has a repetition penalty.
    """
    folder, config = Path(path), cast(Backbone, model).config
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.to_bytes()
    data = config.to_json() | {TOKENIZER_KEY: hashlib.sha256(vocabulary).hexdigest()}
    (folder / "config.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    if config.repetition_penalty != 1.0:
        generation = {
            "eos_token_id": list(config.decoder.eos_ids),
            "repetition_penalty": config.repetition_penalty,
        }
        (folder / GENERATION_FILE).write_text(json.dumps(generation, indent=1), encoding="utf-8")
    (folder / tokenizer.file_name).write_bytes(vocabulary)
    tensors = {official_name(name): p for name, p in model.named_parameters()}
    write_shards(tensors, folder, max_shard_bytes)
