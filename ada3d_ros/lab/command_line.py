"""What the verbs that run a model share: lists with commas, places to write, error sentences."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ada3d_ros.config import as_options
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.results import require_citable

T = TypeVar("T")


def run_verb(verb: str, work: Callable[[], None]) -> int:
    """Exit code of `ada3d <verb>`: 0, or 2 with one sentence on stderr.

    For errors of ours, of the files or of memory; any other is raised.
    """
    try:
        work()
    except torch.cuda.OutOfMemoryError as error:
        problem = str(error).splitlines()[0]
        print(
            f"ada3d {verb}: the GPU's memory does not suffice ({problem}); use --precision bf16.",
            file=sys.stderr,
        )
        return 2
    except (Ada3DError, OSError) as error:
        print(f"ada3d {verb}: {as_options(str(error))}", file=sys.stderr)
        return 2
    return 0


def add_model_folders(
    add: Callable[..., object], default: str = "", required: bool = False
) -> None:
    """--model and --vision-path, of every verb that takes a checkpoint.

    add: of a parser. default: what runs without --model, in words.
    """
    without = f" (default: {default})" if default else ""
    add("--model", type=Path, required=required, help=f"checkpoint folder{without}")
    add(
        "--vision-path",
        type=Path,
        metavar="FOLDER",
        help="CLIP folder, for a checkpoint that holds no vision tower",
    )


def model_folders(options: argparse.Namespace) -> dict[str, str]:
    """The settings that those options give; what was not given is left out."""
    given = {
        "model.path": getattr(options, "model", None),
        "model.vision_path": getattr(options, "vision_path", None),
    }
    return {name: str(path) for name, path in given.items() if path is not None}


def parse_list(text: str, kind: Callable[[str], T], option: str) -> list[T]:
    """The values between commas, each once. Raises ConfigError that names the option."""
    try:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values:
        raise ConfigError(f"{option} {text!r} is not a list of values with commas between them.")
    return list(dict.fromkeys(values))


def check_writable(file: Path, option: str) -> None:
    """Make the file's folder, and see that it takes files, before the long work begins.

    Raises ConfigError, also for docs/results where the tree is not clean.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option} {file.parent} cannot be made ({error.strerror}); name another folder."
        ) from None
    if not os.access(file.parent, os.W_OK) or file.is_dir():
        raise ConfigError(f"{option}: {file} cannot be written; name another place.")
    require_citable(file)
