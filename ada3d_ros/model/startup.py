"""From the model settings to a model: check early without reading weights, then load.

Also what `auto` means for device and number format, and what the device's memory holds.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ada3d_ros.config import SETTINGS, ModelConfig
from ada3d_ros.errors import Ada3DError, CheckpointError, ConfigError, OutOfMemoryError
from ada3d_ros.model.checkpoint import (
    CheckpointInfo,
    LoadedModel,
    inspect_checkpoint,
    load_inspected,
    revision_sha256,
)
from ada3d_ros.model.checkpoint_tokenizer import open_tokenizer
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.grounding_head import HEAD_FILE, inspect_grounding_head
from ada3d_ros.model.memory import DEFAULT_VIEWS, Workload, predict_memory
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.types import NAN, ModelInfo

logger = logging.getLogger(__name__)

TEXT_TOKENS = 512  # of system text, question and answer, when memory is planned
LONGEST_ANSWER = int(SETTINGS["generation.max_new_tokens"].high or 0)  # a request may ask for it
DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")
EMBEDDED = "embedded"  # model.path of the model that the package brings
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Parameters from which on a CPU's bfloat16 is the faster one (docs/benchmarks.md, shapes A and B).
LARGE = 100_000_000


def whole_scenes(config: BackboneConfig, device: torch.device) -> Workload:
    """The largest prompt: two copies of its scene, and one that the longest answer takes."""
    length = largest_prompt(config, DEFAULT_VIEWS)
    longest = min(config.max_length, length + LONGEST_ANSWER)
    return Workload(length, scene_copies=2, own_tokens=longest)


def check_model(
    settings: ModelConfig,
    workload: Callable[[BackboneConfig, torch.device], Workload] = whole_scenes,
) -> tuple[ModelInfo, BackboneConfig]:
    """Looks at the checkpoint's config, headers and tokenizer; reads no weights.

    workload: what is asked of a model of this config on this device, for which memory is planned
    (engine/memory_plan.py). Raises ConfigError (no path, device absent, no kernel for
    model.weights), CheckpointError, or OutOfMemoryError with the bytes of every part.
    """
    folder, vision_folder = _paths(settings)
    try:
        # The checkpoint, and what the settings make of it.
        checkpoint = inspect_checkpoint(folder, vision_folder)
        for note in checkpoint.notes:
            logger.warning(note)
        device, form = _placement(settings, checkpoint)
        if settings.weights != "full":  # torchao is loaded where it is needed
            from ada3d_ros.model.quantize import require_kernel

            require_kernel(settings.weights, device)
        info = _describe(settings, checkpoint)
        open_tokenizer(checkpoint.path, checkpoint.config)

        # The memory that it will take.
        load = workload(checkpoint.config, device)
        plan = predict_memory(checkpoint.config, form, load, _head_width(checkpoint))
    except Ada3DError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        # Nonsense among the sizes: a negative width, a fraction of a layer.
        raise CheckpointError(
            f"{folder}/config.json does not describe a model ({error}): copy the file again."
        ) from error

    # Against what there is.
    free = free_bytes(device)
    if plan.total > free:
        raise OutOfMemoryError(
            f"{info.name} and prompts of {load.tokens} tokens need {plan.total / 2**20:.0f} MiB in"
            f" {info.precision}, {info.device} has {free / 2**20:.0f} MiB free. Of it: {plan}. Ways"
            f" out: {_ways_out(settings, info.precision)}{_ways_out_of(load)}another device, a"
            " smaller model."
        )
    return info, checkpoint.config


def largest_prompt(config: BackboneConfig, max_views: int) -> int:
    """Tokens that memory is planned for: the largest scene of so many views and its text, at most
    the model's.
    """
    return min(config.max_length, config.max_spatial_tokens(max_views) + TEXT_TOKENS)


def resolve_device(name: str) -> torch.device:
    """`auto`: cuda where there is one. Raises ConfigError for what is no device of ours, and for a
    cuda device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not DEVICE.fullmatch(name):
        raise ConfigError(f"model.device = {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...")

    # The index as it is written: torch.device takes cuda:1000 for another one.
    index, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if name != "cpu" and index >= count:
        found = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0" if count else "none"
        raise ConfigError(
            f"model.device = {name!r}: torch sees {count} CUDA device(s) ({found}); use one of"
            " them, cpu or auto."
        )
    return torch.device(name)


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_dtype(precision: str, device: torch.device, num_parameters: int = 0) -> torch.dtype:
    """The number format of `model.precision`. Raises ConfigError for an unknown one.

    `auto`: bfloat16 on cuda, and for a model of LARGE parameters on a CPU that has it; else
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


def open_model(settings: ModelConfig) -> tuple[LoadedModel, ModelInfo]:
    """Loads the weights; call it on the thread that will use them. Raises ConfigError, ModelError.

    Leaves one core to ROS: torch gets the others. The digest is made meanwhile, on a thread of its
    own and from the pages that loading reads too.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))

    checkpoint = inspect_checkpoint(*_paths(settings))
    device, form = _placement(settings, checkpoint)
    with ThreadPoolExecutor(1, "sha256") as pool:
        reading = pool.submit(revision_sha256, checkpoint)
        loaded = load_inspected(checkpoint, device, form.dtype, settings.compat, settings.weights)
        digest = reading.result()

    # The files must be the ones meant: else nobody gets the model.
    if settings.revision_sha256 and digest != settings.revision_sha256:
        raise CheckpointError(
            f"the weights in {checkpoint.path} have sha256 {digest}, model.revision_sha256"
            f" expects {settings.revision_sha256}: the files are not the ones meant, or a copy"
            " was cut short. (tower: a vision tower in files of its own; head: the grounding head.)"
        )

    # A head from other weights still runs: say so.
    weights = digest.split()[0]
    if loaded.head is not None and loaded.head.model_sha256 not in ("", weights):
        logger.warning(
            "%s was trained with weights of sha256 %s..., these are %s...: its boxes may be wrong."
            " Train it anew, or delete it.",
            checkpoint.path / HEAD_FILE,
            loaded.head.model_sha256[:12],
            weights[:12],
        )
    return loaded, _describe(settings, loaded.info, digest)


def embedded_model_path() -> Path:
    """The folder of the model that the package brings. Raises ConfigError where it is missing."""
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


def checkpoint_folder(settings: ModelConfig) -> Path:
    """The checkpoint's folder. Raises ConfigError where none is named."""
    return Path(_paths(settings)[0])


def _paths(settings: ModelConfig) -> tuple[str, str | None]:
    if not settings.path:
        raise ConfigError(
            "model.path is empty: name the folder of a LLaVA-3D checkpoint (config.json,"
            " tokenizer.model, weights). To try things out: model.path `embedded` is the small"
            " model that comes with the package."
        )
    vision = str(Path(settings.vision_path).expanduser()) if settings.vision_path else None
    if settings.path == EMBEDDED:
        return str(embedded_model_path()), vision
    return str(Path(settings.path).expanduser()), vision


def _placement(
    settings: ModelConfig, checkpoint: CheckpointInfo
) -> tuple[torch.device, WeightFormat]:
    """Where the model will run, and how its weights are stored there."""
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.precision, device, checkpoint.num_parameters)
    return device, WeightFormat(dtype, settings.weights, device.type)


def _describe(settings: ModelConfig, checkpoint: CheckpointInfo, sha256: str = "") -> ModelInfo:
    # In the words of the answer message: the format, and the quantisation if any.
    device, form = _placement(settings, checkpoint)
    precision = str(form.dtype).removeprefix("torch.")
    quantized = f" with {form.weights} weights" if form.weights != "full" else ""
    return ModelInfo(
        name=checkpoint.path.resolve().name,
        revision=sha256[:12] or "unread",
        sha256=sha256,
        device=str(device),
        precision=precision + quantized,
        parameters=checkpoint.num_parameters,
        memory_bytes=checkpoint.weight_bytes(form),
        max_input_tokens=checkpoint.config.max_length,
        random_weights=checkpoint.config.random_weights,
        has_3d=checkpoint.config.has_video_tower,
        has_grounding_head=_head_width(checkpoint) > 0,
        backbone=checkpoint.config.backbone,
    )


def _head_width(checkpoint: CheckpointInfo) -> int:
    """Of the grounding head beside the checkpoint; 0 where there is none."""
    facts = inspect_grounding_head(checkpoint.path, checkpoint.config.decoder.hidden_size)
    return 0 if facts is None else int(str(facts["head_width"]))


def _ways_out(settings: ModelConfig, precision: str) -> str:
    """The settings that would take less, as the start of a list."""
    smaller = {"full": "model.weights int8 or int4, ", "int8": "model.weights int4, ", "int4": ""}
    narrower = "model.precision bf16, " if precision == "float32" else ""
    return smaller[settings.weights] + narrower


def _ways_out_of(load: Workload) -> str:
    """The same of what is asked of the model."""
    int8 = "" if load.kv_int8 else "cache.kv int8, "
    is_pruned = load.copy_tokens < load.tokens
    pruned = "a smaller pruning.keep_ratio, " if is_pruned else "cache.prune build, "
    of_cache = int8 + pruned if load.scene_copies else ""
    return f"{of_cache}keyframe.max_views below {load.max_views}, "


def free_bytes(device: torch.device) -> float:
    """Memory of the device that a model can have. An integrated GPU (Jetson) shares the host's,
    whose kernel gives back what its page cache holds; CUDA's own count leaves that out.
    """
    if device.type == "cpu":
        return _available_bytes()
    # What torch keeps reserved without using it is ours to use again.
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if torch.cuda.get_device_properties(device).is_integrated:
        return _available_bytes() + reserved
    return float(torch.cuda.mem_get_info(device)[0] + reserved)


def _available_bytes() -> float:
    """MemAvailable: of the host's memory."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":") for line in lines)
    return float(fields["MemAvailable"].split()[0]) * 1024
