"""Weight files of a checkpoint folder: find them, read headers, read and write tensor by tensor.

Safetensors or pytorch_model*.bin (pickles.py), whole or sharded with an index. Knows nothing of
the model's names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ada3d_ros.errors import CheckpointError

WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WHOLE_FILES)
# In the order in which transformers takes them.
WEIGHT_SETS = (WHOLE_FILES[0], INDEX_FILES[0], WHOLE_FILES[1], INDEX_FILES[1])
# As safetensors writes them.
DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins
FLOAT32_BYTES = 4
CAST_ELEMENTS = 1 << 18  # cast at a time between 16-bit formats: 1 MB of float32 stays in the cache


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is stored, its shape, and its format.

    dtype: as safetensors spells it (F32, F16, BF16, I8, F8_E4M3, ...).
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where the file is absent or something else."""
    # The same sentence for config.json and an index: what is wrong, and what a folder holds.
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _no_checkpoint(
            path.parent,
            f"{path} is missing: a checkpoint folder holds config.json, weights and"
            " tokenizer.model.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(
            path, f"{path} cannot be read as JSON ({error}): copy the file again."
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected a JSON object.")
    return data


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, sorted; safetensors win over .bin.

    Raises CheckpointError for none or missing shards.
    """
    check_folder(folder)
    for name in _sets_of_weights(folder)[:1]:
        file = folder / name
        return [file] if name in WHOLE_FILES else _shards_of(file)
    raise _no_checkpoint(
        folder,
        f"{folder} holds no weights: expected one of {', '.join(WEIGHT_SETS)} (shards need their"
        " index).",
    )


def check_folder(folder: Path) -> None:
    """Raises CheckpointError where there is no such folder."""
    if not folder.is_dir():
        from ada3d_ros.model.folder_faults import not_a_folder  # loaded where it is needed

        raise CheckpointError(not_a_folder(folder))


def _sets_of_weights(folder: Path) -> list[str]:
    """The whole files and indices in a folder, in the order in which transformers takes them."""
    return [name for name in WEIGHT_SETS if (folder / name).is_file()]


def other_sets_of_weights(folder: Path) -> str:
    """A sentence about weights that are not read, because others in the folder are; else empty."""
    used, *others = _sets_of_weights(folder)
    adapters = [file.name for file in sorted(folder.glob("adapter_model.*"))]
    sentences = []
    if others:
        sentences.append(
            f"{folder} holds several sets of weights: {used} is used, as by transformers, and"
            f" {', '.join(others)} is not read. Move the one that is not meant out of the folder."
        )
    if adapters:
        sentences.append(f"{folder}: {', '.join(adapters)} is not applied, only {used} is read.")
    return " ".join(sentences)


def damaged(file: Path, text: str) -> CheckpointError:
    """The error for a file that cannot be read: where it is a stand-in, what it is; else `text`."""
    from ada3d_ros.model.folder_faults import not_the_file  # loaded where it is needed

    return CheckpointError(not_the_file(file) or text)


def _no_checkpoint(folder: Path, text: str) -> CheckpointError:
    from ada3d_ros.model.folder_faults import no_checkpoint  # loaded where it is needed

    return CheckpointError(no_checkpoint(folder, text) if folder.is_dir() else text)


def _shards_of(index: Path) -> list[Path]:
    """The files that an index names. Raises CheckpointError for none, foreign or missing ones."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map: copy the file again.")

    # Names from a file are not trusted: they must stay in the folder.
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise CheckpointError(
            f"{index} names files outside its folder: {', '.join(outside[:8])}. Shards are read"
            " from the folder only."
        )

    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards that {index.name} names:"
            f" {', '.join(missing[:8])}. Copy them into the folder."
        )
    return files


def read_headers(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """Names, shapes and formats of all tensors, without reading their values."""
    found: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in _header(file).items():
            if name in found:
                raise CheckpointError(
                    f"tensor {name} is in both {found[name].file.name} and {file.name} of"
                    f" {file.parent}."
                )
            found[name] = info
    return found


def _header(file: Path) -> dict[str, TensorInfo]:
    """Name -> tensor of one file."""
    # A pickle has no header: load it without memory.
    if file.suffix == ".bin":
        found = {}
        from ada3d_ros.model.pickles import load_pickle  # loaded where it is needed

        for name, t in load_pickle(file, "meta").items():
            dtype = DTYPE_NAMES.get(t.dtype, str(t.dtype).removeprefix("torch."))
            found[name] = TensorInfo(file, tuple(t.shape), dtype)
        return found

    try:
        with safe_open(file, framework="pt") as handle:
            slices = [(name, handle.get_slice(name)) for name in list(handle.keys())]
            return {n: TensorInfo(file, tuple(s.get_shape()), s.get_dtype()) for n, s in slices}
    except (SafetensorError, OSError) as error:
        raise damaged(
            file, f"{file} is damaged or cut short ({error}): copy the file again."
        ) from None


def read_tensors(file: Path, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of one file on the CPU, one at a time and in the order in which they lie
    there; they may be views of the mapped file.
    """
    if file.suffix == ".bin":
        from ada3d_ros.model.pickles import load_pickle  # loaded where it is needed

        tensors = load_pickle(file, "cpu")
        yield from ((name, tensors[name]) for name in tensors if name in names)
        return
    with safe_open(file, framework="pt") as handle:
        for name in handle.offset_keys():
            if name in names:
                yield name, handle.get_tensor(name)


def copy_into(made: torch.Tensor, tensor: torch.Tensor) -> None:
    """A CPU tensor's values into `made`, contiguous, on any device; they are cast there, so that no
    second copy is made in the host's memory.
    """
    both = tensor.element_size(), made.element_size()
    if made.device.type != "cpu" and tensor.dtype != made.dtype:
        made.copy_(tensor.to(made.device))
    elif tensor.dtype == made.dtype or FLOAT32_BYTES in both:
        made.copy_(tensor)
    else:
        # torch casts float16 to bfloat16 one by one; through float32 it takes a quarter of the time
        pieces = tensor.reshape(-1).split(CAST_ELEMENTS), made.view(-1).split(CAST_ELEMENTS)
        for stored, cast in zip(*pieces, strict=True):
            cast.copy_(stored.float())


def write_shards(tensors: Mapping[str, torch.Tensor], folder: Path, max_shard_bytes: int) -> None:
    """Safetensors in shards of at most max_shard_bytes, with an index if there are two.

    A tensor that is larger gets a shard of its own.
    """
    # Fill shard after shard.
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size

    # Write them under transformers' names.
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = [WHOLE_FILES[0]] if len(shards) == 1 else names
    for file, shard in zip(names, shards, strict=True):
        content = {name: tensors[name].detach().cpu().contiguous() for name in shard}
        save_file(content, folder / file, {"format": "pt"})
        # safetensors makes them private, which a node under another user cannot read.
        (folder / file).chmod(0o644)

    # Where each tensor is.
    if len(shards) > 1:
        pairs = zip(names, shards, strict=True)
        weight_map = {name: file for file, shard in pairs for name in shard}
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILES[0]).write_text(json.dumps(index, indent=1), encoding="utf-8")
