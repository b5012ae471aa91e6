"""From the model settings to a model: check early without reading weights, then load; what the
device's memory holds.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from ada3d_ros.config import ModelConfig
from ada3d_ros.errors import Ada3DError, CheckpointError, ConfigError, OutOfMemoryError
from ada3d_ros.model.checkpoint import (
    CheckpointInfo,
    LoadedModel,
    inspect_checkpoint,
    load_model,
    resolve_device,
    resolve_dtype,
    weights_sha256,
)
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.grounding_head import HEAD_FILE, inspect_grounding_head
from ada3d_ros.model.memory import DEFAULT_VIEWS, MemoryPlan, predict_memory
from ada3d_ros.types import NAN, ModelInfo

logger = logging.getLogger(__name__)

TEXT_TOKENS = 512  # of system text, question and answer, when memory is planned
EMBEDDED = "embedded"  # model.path of the model that the package brings


def check_model(
    settings: ModelConfig,
    max_views: int = DEFAULT_VIEWS,
    tokens: int | None = None,
    scene_copies: int = 2,
    kv_int8: bool = False,
) -> tuple[ModelInfo, LlavaConfig]:
    """Look at the checkpoint's config and headers; reads no weights. Plans memory for prompts of
    `tokens` (default: the largest scene and TEXT_TOKENS), with scene_copies KV caches of so many,
    in int8 or not.

    Raises ConfigError (no path, device absent), CheckpointError, or OutOfMemoryError with the bytes
    of every part.
    """
    folder, vision_folder = _paths(settings)
    try:
        checkpoint = inspect_checkpoint(folder, vision_folder)
        info = _describe(settings, checkpoint)
        length = tokens or largest_prompt(checkpoint.config)
        plan = _plan(settings, checkpoint, length, scene_copies, kv_int8, max_views)
    except Ada3DError:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:  # nonsense among the sizes
        raise CheckpointError(
            f"{folder}/config.json does not describe a model ({error}): copy the file again."
        ) from error
    free = free_bytes(resolve_device(settings.device))
    if plan.total > free:
        raise OutOfMemoryError(
            f"{info.name} and prompts of {length} tokens need {plan.total / 2**20:.0f} MiB in"
            f" {info.precision}, {info.device} has {free / 2**20:.0f} MiB free. Of it: {plan}. Ways"
            f" out: {_ways_out(settings, info.precision)}keyframe.max_views below {max_views},"
            " another device, a smaller model."
        )
    return info, checkpoint.config


def largest_prompt(config: LlavaConfig) -> int:
    """Tokens that memory is planned for: the largest scene with TEXT_TOKENS, as far as the model
    has positions.
    """
    return min(config.max_length, config.token_cap + TEXT_TOKENS)


def _dtype(settings: ModelConfig, checkpoint: CheckpointInfo) -> torch.dtype:
    return resolve_dtype(
        settings.precision, resolve_device(settings.device), checkpoint.num_parameters
    )


def open_model(settings: ModelConfig) -> tuple[LoadedModel, ModelInfo]:
    """Load the weights; call it on the thread that will use them. Raises ConfigError, ModelError.

    Leaves one core to ROS: torch gets the others.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    folder, vision_folder = _paths(settings)
    digest = weights_sha256(folder)
    if settings.revision_sha256 and digest != settings.revision_sha256:
        raise CheckpointError(
            f"the weights in {folder} have sha256 {digest}, model.revision_sha256 expects"
            f" {settings.revision_sha256}: the files are not the ones meant, or a copy was cut"
            " short."
        )
    device = resolve_device(settings.device)
    loaded = load_model(
        folder,
        device,
        _dtype(settings, inspect_checkpoint(folder, vision_folder)),
        settings.compat,
        vision_folder,
        settings.weights,
    )
    if loaded.head is not None and loaded.head.model_sha256 not in ("", digest):
        logger.warning(
            "%s was trained with weights of sha256 %s..., these are %s...: its boxes may be wrong."
            " Train it anew, or delete it.",
            Path(folder) / HEAD_FILE,
            loaded.head.model_sha256[:12],
            digest[:12],
        )
    return loaded, _describe(settings, loaded.info, digest)


def embedded_model_path() -> Path:
    """The folder of the model that the package brings. Raises ConfigError where this installation
    lacks it.
    """
    path = Path(__file__).resolve().parents[1] / "models" / "embedded"
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"the embedded model is not at {path}: name a checkpoint folder (--model or"
            " model.path), or train one (`ada3d train --help`)."
        )
    return path


def device_memory_mib(device: torch.device) -> tuple[float, float]:
    """Used and total memory of a GPU in MiB; NaN for a CPU, or a GPU that does not answer."""
    if device.type != "cuda":
        return NAN, NAN
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # the device is lost; the next question says so
        return NAN, NAN
    return (total - free) / 2**20, total / 2**20


def _paths(settings: ModelConfig) -> tuple[str, str | None]:
    if not settings.path:
        raise ConfigError(
            "model.path is empty: name the folder of a LLaVA-3D checkpoint (config.json,"
            " tokenizer.model, weights). To try things out: model.path `embedded` is the small"
            " model that comes with the package."
        )
    if settings.path == EMBEDDED:
        return str(embedded_model_path()), None
    vision = str(Path(settings.vision_path).expanduser()) if settings.vision_path else None
    return str(Path(settings.path).expanduser()), vision


def _describe(settings: ModelConfig, checkpoint: CheckpointInfo, sha256: str = "") -> ModelInfo:
    device = resolve_device(settings.device)
    dtype = _dtype(settings, checkpoint)
    return ModelInfo(
        name=checkpoint.path.resolve().name,
        revision=sha256[:12] or "unread",
        sha256=sha256,
        device=str(device),
        precision=str(dtype).removeprefix("torch.")
        + (f" with {settings.weights} weights" if settings.weights != "full" else ""),
        parameters=checkpoint.num_parameters,
        memory_bytes=checkpoint.weight_bytes(dtype, settings.weights, device.type),
        max_input_tokens=checkpoint.config.max_length,
        random_weights=checkpoint.config.random_weights,
        has_3d=checkpoint.config.has_video_tower,
        has_grounding_head=inspect_grounding_head(
            checkpoint.path, checkpoint.config.decoder.hidden_size
        )
        is not None,
    )


def _plan(
    settings: ModelConfig,
    checkpoint: CheckpointInfo,
    tokens: int,
    scene_copies: int,
    kv_int8: bool,
    max_views: int,
) -> MemoryPlan:
    device = resolve_device(settings.device)
    facts = inspect_grounding_head(checkpoint.path, checkpoint.config.decoder.hidden_size)
    return predict_memory(
        checkpoint.config,
        _dtype(settings, checkpoint),
        settings.weights,
        tokens,
        scene_copies,
        kv_int8,
        device.type,
        max_views=max_views,
        head_width=0 if facts is None else int(str(facts["head_width"])),
    )


def _ways_out(settings: ModelConfig, precision: str) -> str:
    """The settings that would take less, as the start of a list."""
    smaller = {"full": "model.weights int8 or int4, ", "int8": "model.weights int4, "}.get(
        settings.weights, ""
    )
    return smaller + ("model.precision bf16, " if precision == "float32" else "")


def free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # ours to use again
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    fields = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    )
    return float(fields["MemAvailable"].split()[0]) * 1024
