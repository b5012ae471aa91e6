"""The checkout's own Python files, and how a test names what is wrong in them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ada3d_ros"


def files_under(*folders: str) -> Iterator[tuple[str, Path]]:
    """Python files by their path in the checkout."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield str(file.relative_to(ROOT)), file


def load(path: Path) -> ModuleType:
    """A tool of the checkout, which is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # dataclasses ask there
    sys.path.insert(0, str(path.parent))  # it may import another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def report(problems: Iterable[str]) -> None:
    """Fail with one line per problem."""
    lines = list(problems)
    assert not lines, "\n" + "\n".join(lines)
