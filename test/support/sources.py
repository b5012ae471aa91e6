"""The checkout's own Python files, and how a test names what is wrong in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ada3d_ros"


def files_under(*folders: str) -> Iterator[tuple[str, Path]]:
    """Python files by their path in the checkout."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield str(file.relative_to(ROOT)), file


def report(problems: Iterable[str]) -> None:
    """Fail with one line per problem."""
    lines = list(problems)
    assert not lines, "\n" + "\n".join(lines)
