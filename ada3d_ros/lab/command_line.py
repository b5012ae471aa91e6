"""What the verbs that run a model share: lists with commas, places to write, error sentences."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ada3d_ros.errors import Ada3DError, ConfigError

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
        print(f"ada3d {verb}: {error}", file=sys.stderr)
        return 2
    return 0


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

    Raises ConfigError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option} {file.parent} cannot be made ({error.strerror}); name another folder."
        ) from None
    if not os.access(file.parent, os.W_OK) or file.is_dir():
        raise ConfigError(f"{option}: {file} cannot be written; name another place.")
