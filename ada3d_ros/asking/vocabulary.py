"""The names that are looked for in every scene: a text file with one a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ada3d_ros.errors import RequestError
from ada3d_ros.model.prompt import check_question, parse_coordinates

VOCABULARY_FILE = "vocabulary.txt"  # beside a model's weights
MAX_NAME_CHARS = 80
MAX_NAMES = 20_000
MAX_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """names: without repetitions, in the order of the file; why_not: a sentence where there are
    none; is_fault: the file is at fault; notes: sentences about lines that were left out.
    """

    names: tuple[str, ...] = ()
    why_not: str = ""
    is_fault: bool = False
    notes: tuple[str, ...] = ()


def find_vocabulary(setting: str, model_folder: Path) -> Vocabulary:
    """The names of `objects.vocabulary`, or where that is empty those beside the model."""
    path = Path(setting) if setting else model_folder / VOCABULARY_FILE
    if not setting and not path.exists():
        return Vocabulary(
            why_not=f"the model brings no {VOCABULARY_FILE}: name a text file with one name a line"
            " (objects.vocabulary) to have its objects kept."
        )
    return read_vocabulary(path)


def read_vocabulary(path: Path) -> Vocabulary:
    """The names in a file; what cannot be read says why."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            return _faulty(path, f"it has {size} bytes, at most {MAX_BYTES} are read")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        return _faulty(path, str(error))

    # Each name once; what cannot be asked for is left out.
    names: dict[str, str] = {}
    refused: list[str] = []
    for number, line in enumerate(lines, start=1):
        name = " ".join(line.split())
        if not name or name.startswith("#"):
            continue
        if not _can_be_asked(name):
            refused.append(f"{number} ({name[:40]!r})")
            continue
        names.setdefault(name.lower(), name)
    if not names:
        return _faulty(path, "it holds no name")
    if len(names) > MAX_NAMES:
        return _faulty(path, f"it holds {len(names)} names, at most {MAX_NAMES} are looked for")
    return Vocabulary(tuple(names.values()), notes=_notes(path, refused))


def _can_be_asked(name: str) -> bool:
    try:
        return not parse_coordinates(check_question(name, MAX_NAME_CHARS))[1]
    except RequestError:
        return False


def _notes(path: Path, refused: list[str]) -> tuple[str, ...]:
    if not refused:
        return ()
    shown = ", ".join(refused[:3]) + (", ..." if len(refused) > 3 else "")
    return (
        f"{path}: {len(refused)} lines are no names and are left out, line {shown}: a name has at"
        f" most {MAX_NAME_CHARS} characters, no brackets, no control characters.",
    )


def _faulty(path: Path, problem: str) -> Vocabulary:
    return Vocabulary(
        why_not=f"no objects are kept: {path} cannot be used as a vocabulary ({problem}). Write one"
        " name a line in UTF-8.",
        is_fault=True,
    )
