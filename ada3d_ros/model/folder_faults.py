"""Why a folder is no checkpoint that can be run, and the way out: adapters, pointer files, caches.

Loaded only where something is wrong; each function gives the text of a CheckpointError, or none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ada3d_ros.model.weight_files import INDEX_FILES, POINTER, WHOLE_FILES

WEB_PAGES = (b"<!doctype html", b"<html")
HEAD_BYTES = 64
MAX_NAMED = 4
SEARCH_DEPTH = 3  # folders below, as in models--X--Y/snapshots/REVISION
MAX_SEARCHED = 200
ADAPTER_FILES = (
    *("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
    "non_lora_trainables.bin",  # LLaVA's
)
PROJECTOR_FILE = "mm_projector.bin"
BESIDE_WEIGHTS = (  # of this package
    *("grounding_head.safetensors", "scene_queries.safetensors"),
    "pooling.safetensors",
)
# What other programs write, and who can turn it into safetensors.
FOREIGN_WEIGHTS = {
    ".gguf": "GGUF is quantised for llama.cpp",
    ".ggml": "GGML is quantised for llama.cpp",
    ".pth": "weights of Meta's own layout or of a training run",
    ".pt": "weights of a training run",
    ".ckpt": "weights of a training run",
    ".h5": "weights for TensorFlow",
    ".msgpack": "weights for Flax",
    ".onnx": "an exported graph",
}
# Endings of tensors' names -> how they are quantised.
QUANTISED = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".SCB": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 or compressed-tensors",
    ".weight_scale_inv": "FP8",
    ".q_weight": "EXL2",
}
FULL_WEIGHTS = "take the checkpoint in float32, float16 or bfloat16 as safetensors"


def not_the_file(file: Path) -> str | None:
    """Where a file is a stand-in for the one meant: a Git LFS pointer, a web page, a dead link."""
    if file.is_symlink() and not file.exists():
        return (
            f"{file} is a link to a file that is not there ({file.readlink()}): copy the folder"
            " with its links followed (cp -rL), or download the file again."
        )
    try:
        with file.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except PermissionError:
        return not_readable(file)
    except OSError:
        return None
    if head.startswith(POINTER):
        return (
            f"{file} is a Git LFS pointer, not the file itself: run `git lfs install` and `git lfs"
            f" pull` in {file.parent}, or download the file."
        )
    if head.lstrip().lower().startswith(WEB_PAGES):
        return (
            f"{file} is a web page: the page about the file was saved in its place. Download the"
            " file itself."
        )
    return None


def not_a_folder(path: Path) -> str:
    """The text for a path that is no folder."""
    if path.is_file():
        what = FOREIGN_WEIGHTS.get(path.suffix)
        if what:
            return f"{path} is not a folder, and {what}: {FULL_WEIGHTS}, and name its folder."
        return (
            f"{path} is not a folder but a file: name the folder that holds config.json, the"
            f" weights and tokenizer.model, perhaps {path.parent}."
        )
    return (
        f"{path} is not a folder: give the path of a checkpoint folder on this machine (nothing is"
        " downloaded); `ada3d random-model FOLDER` makes one with random weights for a try-out."
    )


def no_checkpoint(folder: Path, lacking: str) -> str:
    """The text for a folder without weights or config.json.

    lacking: what was looked for, as a sentence for a folder about which nothing more is known.
    """
    return (
        _adapter(folder)
        or _cache_or_parent(folder)
        or _dead_links(folder)
        or _projector_alone(folder)
        or _training_state(folder)
        or _foreign(folder)
        or lacking
    )


def no_sentencepiece(folder: Path) -> str:
    """The text for a folder with the tokenizer in transformers' form alone."""
    return (
        f"{folder} has tokenizer.json alone: text is read by the sentencepiece file it was made"
        " from. Copy tokenizer.model of the checkpoint, or of its base model (Vicuna 1.5 for"
        " LLaVA-1.5 and LLaVA-NeXT), into the folder."
    )


def other_template(tokenizer: Path) -> str:
    """The text for a tokenizer of a language model that is asked in ChatML."""
    return (
        f"{tokenizer} has the marks of ChatML (<|im_start|>): its language model is asked in"
        " another template, as Yi of LLaVA-NeXT 34B, which is not supported. Take a checkpoint on"
        " Vicuna (llava-v1.6-vicuna-7b or -13b)."
    )


def not_readable(path: Path) -> str:
    """The text for a file or folder that this user may not read."""
    return (
        f"{path} may not be read by the user who runs this: give the right (chmod -R a+rX on the"
        " checkpoint's folder), or run as its owner."
    )


def _adapter(folder: Path) -> str | None:
    """LoRA and other weights that are added to a base model's."""
    is_whole = any((folder / name).exists() for name in (*WHOLE_FILES, *INDEX_FILES))
    if is_whole or not any((folder / name).exists() for name in ADAPTER_FILES):
        return None
    try:
        facts = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    kind = str(facts.get("peft_type") or "LoRA").replace("LORA", "LoRA")
    base = facts.get("base_model_name_or_path")
    of = f"its base model {base}" if base else "its base model"
    return (
        f"{folder} holds an adapter ({kind}), not a whole checkpoint: merge it with {of}"
        " (LLaVA: scripts/merge_lora_weights.py --model-path ADAPTER --model-base BASE"
        " --save-model-path OUT) and name the merged folder."
    )


def _cache_or_parent(folder: Path) -> str | None:
    """A download cache, or a folder above checkpoints: these are named."""
    # Breadth first, so that the nearest are named; of a huge tree the first part.
    level: list[Path] = [folder]
    found: list[Path] = []
    for _ in range(SEARCH_DEPTH):
        level = [sub for above in level for sub in _folders_in(above)][:MAX_SEARCHED]
        found = found or [sub for sub in level if (sub / "config.json").is_file()]
    is_cache = folder.name.startswith("models--") or (folder / "snapshots").is_dir()
    if not found:
        if not is_cache:
            return None
        return (
            f"{folder} is the root of a download cache and holds no finished download: download the"
            " checkpoint again, and name the folder below snapshots/."
        )
    what = "the root of a download cache" if is_cache else "a folder above a checkpoint"
    below = " below snapshots/" if is_cache or (found[0].parent.name == "snapshots") else ""
    names = " or ".join(map(str, found[:MAX_NAMED]))
    return f"{folder} is {what}: name the folder{below}: {names}."


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(sub for sub in folder.iterdir() if sub.is_dir() and sub.name[0] != ".")
    except OSError:
        return []


def _dead_links(folder: Path) -> str | None:
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            return not_the_file(file)
    return None


def _projector_alone(folder: Path) -> str | None:
    if not (folder / PROJECTOR_FILE).exists():
        return None
    return (
        f"{folder} holds the projector apart ({PROJECTOR_FILE}): that is the result of LLaVA's"
        " first training stage, without its language model or not joined with it. Take a finished"
        " checkpoint, or load it with LLaVA (--model-base) and save the whole model."
    )


def _training_state(folder: Path) -> str | None:
    is_zero = (folder / "zero_to_fp32.py").exists() or any(folder.glob("global_step*"))
    if not is_zero and not any(folder.glob("pytorch_model_fsdp*")):
        return None
    tool = "python zero_to_fp32.py . OUT" if is_zero else "accelerate merge-weights"
    return (
        f"{folder} holds a training state, split over processes: gather it into whole weights"
        f" (`{tool}` in that folder) and name the folder with the result."
    )


def _foreign(folder: Path) -> str | None:
    """Weights that are there, under another name or of another program."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        if file.suffix in FOREIGN_WEIGHTS:
            what = FOREIGN_WEIGHTS[file.suffix]
            return f"{folder} holds {file.name}, {what}: that is not read; {FULL_WEIGHTS}."
    others = [file.name for file in files if file.suffix in (".safetensors", ".bin")]
    others = [name for name in others if name not in (*WHOLE_FILES, *BESIDE_WEIGHTS)]
    if not others or any((folder / name).exists() for name in (*WHOLE_FILES, *INDEX_FILES)):
        return None
    return (
        f"{folder} holds no weights under a known name, but {', '.join(others[:MAX_NAMED])}: one"
        f" file is called {WHOLE_FILES[0]}, shards need their index {INDEX_FILES[0]}. Rename the"
        " file, or copy the index into the folder."
    )


def explain_names(folder: Path, missing: Sequence[str], unexpected: Sequence[str]) -> str | None:
    """Why the tensors' names do not fit, where they show it."""
    # An adapter that was not merged, or a wrapper that was saved with the model.
    lora = [name for name in unexpected if re.search(r"\.lora_[AB]\.|\.base_layer\.", name)]
    peft = [name for name in unexpected if name.startswith("base_model.model.")]
    if lora or peft:
        return (
            f"{folder}: the tensors' names are those of a model with an adapter (LoRA) that was not"
            f" merged, as {(peft or lora)[0]} (prefix `base_model.model.`): merge it (peft:"
            " merge_and_unload()) and save the whole model."
        )
    for prefix, wrapper in (("module.", "DataParallel"), ("_orig_mod.", "torch.compile")):
        wrapped = [name for name in unexpected if name.startswith(prefix)]
        if wrapped and missing:
            return (
                f"{folder}: the tensors' names begin with `{prefix}`, as {wrapped[0]}: the wrapper"
                f" ({wrapper}) was saved, not the model. Save the model within it, or take the"
                " prefix off every name."
            )

    # Other formats.
    for ending, how in QUANTISED.items():
        quantised = next((name for name in unexpected if name.endswith(ending)), None)
        if quantised:
            return (
                f"{folder} is quantised ({how}: {quantised}): that is not supported;"
                f" {FULL_WEIGHTS} (model.weights int8 or int4 makes it smaller)."
            )

    # A language model without LLaVA's parts.
    has_projector = not any(name.startswith("model.mm_projector.") for name in missing)
    if has_projector or unexpected or not all(map(_is_of_llava, missing)):
        return None
    return _projector_alone(folder) or (
        f"{folder} holds a language model alone, without vision tower and projector"
        " (model.mm_projector.*): take the LLaVA checkpoint, not its base model."
    )


def _is_of_llava(name: str) -> bool:
    return name.startswith(("model.mm_projector.", "model.vision_tower.", "model.video_tower."))
