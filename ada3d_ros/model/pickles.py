"""Weights in pickles, pytorch_model*.bin: read with weights_only, and refused where they hold code.

Torch's own words about a refused pickle are never passed on: they advise to run its code.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

import torch

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.weight_files import damaged

TENSOR_GLOBALS = re.compile(  # what a pickle of plain tensors names
    r"collections OrderedDict|torch\._utils _rebuild\w+|torch(\.storage)?"
    r" \w*Storage|torch\.nn\.parameter Parameter"
)
SCANNED_BYTES = 1 << 26
LEGACY_PICKLES = 5  # torch's format before zip: magic number, version, system, data, storage keys


def load_pickle(file: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file by name, on `device`. Raises CheckpointError for a damaged or
    unsafe one.
    """
    zipped = zipfile.is_zipfile(file)
    try:
        data = torch.load(file, map_location=device, weights_only=True, mmap=zipped)
    except Exception as error:  # the unpickler of torch raises nearly everything on a damaged file
        # Refused for what it could run, or damaged?
        if _may_hold_code(file, zipped):
            raise CheckpointError(
                f"{file} is unsafe: it is a pickle that holds more than tensors, and loading it"
                " could run code. It was not loaded. Use a safetensors version of this checkpoint."
            ) from None
        # Torch's own words may advise to run the file's code: they are not passed on.
        advice = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        words = f"{type(error).__name__}: {str(error)[:200]}"
        reason = "not a pickle of tensors" if advice else words
        raise damaged(
            file, f"{file} is damaged or cut short ({reason}): copy the file again."
        ) from None

    # A state_dict, and nothing else.
    def is_dense(value: object) -> bool:
        return isinstance(value, torch.Tensor) and value.layout == torch.strided

    if not isinstance(data, dict) or not all(
        isinstance(name, str) and is_dense(value) for name, value in data.items()
    ):
        raise CheckpointError(
            f"{file} does not hold a dictionary of dense tensors by name (a state_dict)."
        )
    return data


def _may_hold_code(file: Path, zipped: bool) -> bool:
    """Whether a file that torch refused names anything but tensors, or hides what it names.

    Parses, never unpickles.
    """
    try:
        if zipped:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                if any(name.endswith("/constants.pkl") for name in names):  # TorchScript: a program
                    return True
                pickles = [name for name in names if name.endswith(".pkl")]
                heads = [archive.open(name).read(SCANNED_BYTES) for name in pickles]
        else:
            with file.open("rb") as handle:
                heads = [handle.read(SCANNED_BYTES)]
    except Exception:  # too damaged to look into
        return False
    return any(_names_code(head) for head in heads)


def _names_code(content: bytes) -> bool:
    """Whether a pickle imports anything but what plain tensors need."""
    stream = io.BytesIO(content)
    try:
        for _ in range(LEGACY_PICKLES):
            for opcode, argument, _ in pickletools.genops(stream):
                # Names that are made while loading could be any.
                if opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                    return True
                is_global = opcode.name in ("GLOBAL", "INST")
                if is_global and not TENSOR_GLOBALS.fullmatch(str(argument)):
                    return True
    except Exception:  # the end of what can be parsed
        return False
    return False
