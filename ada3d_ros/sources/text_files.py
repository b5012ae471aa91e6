"""Numbers, stamps and matrices out of text files; every error names file, line and text.

UTF-8 or UTF-16, with or without byte order mark, any line end; `#`, `%` and `//` begin a comment;
numbers stand between blanks, commas or semicolons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import SourceError

Matrix = npt.NDArray[np.float64]

STAMP_UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # name: digits from seconds
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
MAX_STAMP_S = 2**31 - 1  # a ROS stamp holds 32 bits of seconds
MIN_EPOCH_S = 900_000_000  # 1998: a stamp since 1970 that another unit brings to here is in it
COMMENTS = ("#", "%", "//")
COMMENT_BEHIND = re.compile(r"(?<!1\.)#")  # 1.#QNAN is a cell
NOT_A_NUMBER = re.compile(  # as C on Windows, Python and databases write one
    r"[+-]?(nan\(\w*\)?|1\.#\w+)|none|null|na", re.IGNORECASE
)
MAX_SHOWN = 80  # characters of a line that an error shows
MAX_DIGITS = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One line with data: its place, for errors, and its cells."""

    path: Path
    line: int
    text: str
    cells: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.path} line {self.line}"

    def error(self, why: str) -> SourceError:
        return SourceError(f"{self.place}: `{_shown(self.text)}`: {why}")

    def numbers(self, start: int = 0) -> list[float]:
        """The cells from `start` on. Raises SourceError for one that is no number."""
        values = []
        for cell in self.cells[start:]:
            try:
                values.append(float("nan" if NOT_A_NUMBER.fullmatch(cell) else cell))
            except ValueError:
                raise self.error(f"`{_shown(cell)}` is not a number.") from None
        return values


def read_rows(path: Path) -> list[Row]:
    """The lines of a file that hold data, split into cells. Raises SourceError."""
    rows = []
    for line, text in _lines(path):
        row = Row(path, line, text, ())
        cells = _cells(row)
        if cells:
            rows.append(Row(path, line, text, tuple(cells)))
    return rows


def read_named_rows(path: Path) -> list[Row]:
    """Lines of `stamp filename`, two cells each; the name may hold blanks. Raises SourceError."""
    rows = []
    for line, text in _lines(path):
        cells = re.split(r"\s*[,;\t ]\s*", text.strip(), maxsplit=1)
        row = Row(path, line, text, tuple(cells))
        if len(cells) != 2 or not cells[1]:
            raise row.error("every line must be `timestamp filename`.")
        rows.append(row)
    return rows


def is_header(row: Row) -> bool:
    """Whether no cell is a number: a line of column names."""
    return not any(_is_number(cell) for cell in row.cells)


# -- stamps


def stamps_to_ns(
    rows: Sequence[Row], unit: str = "auto", cell: int = 0
) -> tuple[list[int], str | None]:
    """Nanoseconds of the rows' stamps, exact to 1 ns, and a sentence where they are not in seconds.

    unit: s, ms, us, ns, or auto: seconds, unless all are too large for it and one other unit brings
    them to a date. Raises SourceError naming the row.
    """
    # Exact decimals, none absurd.
    values = [_decimal(row, row.cells[cell]) for row in rows]
    if not values:
        return [], None
    largest = max(range(len(values)), key=lambda i: abs(values[i]))

    # Their unit.
    chosen = unit_of(values) if unit == "auto" else unit
    if chosen is None or not fits(values[largest], chosen):
        row = rows[largest]
        raise row.error(
            f"stamp {_shown(row.cells[cell])} is too large for {UNIT_NAMES[chosen or 's']}; is it"
            " in nanoseconds or milliseconds, or damaged? Name the unit of all stamps with"
            f" --stamp-unit {', '.join(STAMP_UNITS)}, or mend the line."
        )
    note = f"{rows[0].path}: stamps are in {UNIT_NAMES[chosen]}." if chosen != "s" else None
    return [to_ns(value, chosen) for value in values], note


def unit_of(values: Sequence[Decimal]) -> str | None:
    """s, or the unit that brings all stamps to a date between 1998 and 2038; None: none does."""
    if fits(max(values, key=abs), "s"):
        return "s"
    for unit in ("ms", "us", "ns"):
        factor = 10 ** STAMP_UNITS[unit]
        if fits(max(values), unit) and min(values) >= MIN_EPOCH_S * factor:
            return unit
    return None


def fits(value: Decimal, unit: str) -> bool:
    """Whether a stamp in this unit has few enough seconds."""
    return abs(value) <= MAX_STAMP_S * 10 ** STAMP_UNITS[unit]


def to_ns(value: Decimal, unit: str = "s") -> int:
    """Nanoseconds of an exact stamp, rounded to the nearest."""
    with localcontext(prec=2 * MAX_DIGITS):
        return int((value * 10 ** (9 - STAMP_UNITS[unit])).to_integral_value())


def _decimal(row: Row, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise row.error(f"`{_shown(text)}` is not a stamp.") from None
    if not value.is_finite():
        raise row.error(f"`{_shown(text)}` is not a stamp: it is not finite.")
    if value and value.adjusted() > MAX_DIGITS:
        raise row.error(f"stamp {_shown(text)} is too large for any unit of time.")
    return value


# -- matrices


def read_matrix(path: Path) -> Matrix:
    """All numbers of a file, (rows, columns) float64. Raises SourceError."""
    rows = read_rows(path)
    for row in rows:
        if len(row.cells) != len(rows[0].cells):
            raise row.error(
                f"{len(row.cells)} columns, the first row has {len(rows[0].cells)}: {path} is not a"
                " matrix of numbers."
            )
    return np.array([row.numbers() for row in rows], dtype=np.float64)


def read_pose_matrix(path: Path) -> Matrix:
    """T (4, 4) of a file of 4x4 or 3x4, in rows or in one line; finite or not, rigid or not."""
    matrix = read_matrix(path)
    if matrix.shape == (1, 16):
        return matrix.reshape(4, 4)
    if matrix.shape in ((3, 4), (1, 12)):
        return np.vstack((matrix.reshape(3, 4), (0.0, 0.0, 0.0, 1.0)))
    if matrix.shape != (4, 4):
        raise SourceError(
            f"{path} holds {_size(matrix)} numbers, expected a 4x4 camera-to-world matrix."
        )
    return matrix


def read_camera_matrix(path: Path) -> Matrix:
    """K (3, 3), px, from a file of 3x3, 3x4, 4x4 (rows or one line) or fx fy cx cy."""
    matrix = read_matrix(path)
    if matrix.size in (9, 12, 16) and 1 in matrix.shape:
        matrix = matrix.reshape({9: 3, 12: 3, 16: 4}[matrix.size], -1)
    if matrix.size == 4:
        return camera_matrix(*matrix.ravel().tolist())
    if matrix.shape not in ((3, 3), (3, 4), (4, 4)):
        raise SourceError(
            f"{path} holds {_size(matrix)} numbers, expected K as 3x3, 4x4 or `fx fy cx cy`."
        )
    return matrix[:3, :3]


def camera_matrix(fx: float, fy: float, cx: float, cy: float) -> Matrix:
    """K (3, 3), px."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _size(matrix: Matrix) -> str:
    return "x".join(map(str, matrix.shape)) if matrix.size else "no"


# -- lines


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of every line that is neither empty nor a comment. Raises SourceError."""
    # Its bytes, as the encoding says.
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}.") from None
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"cannot read {path}: line {line} is not text (byte 0x{raw[error.start]:02x}); save it"
            " as UTF-8."
        ) from None

    # Its lines.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = enumerate(lines, start=1)
    return [(n, t) for n, t in numbered if t.strip() and not t.lstrip().startswith(COMMENTS)]


def _cells(row: Row) -> list[str]:
    """The numbers of a line, as text. Raises SourceError for commas inside numbers."""
    text = COMMENT_BEHIND.split(row.text)[0].strip().strip("[](){}").strip()
    if "," not in text and ";" not in text:
        return text.split()
    cells = [cell.strip() for cell in re.split(";" if ";" in text else ",", text)]
    cells = cells[:-1] if cells and not cells[-1] else cells
    if any(re.search(r"[\s,]", cell) for cell in cells):
        cells = [cell.strip(",;") for cell in text.split()]
        if any("," in cell or ";" in cell for cell in cells):
            raise row.error(
                "commas and blanks are mixed: write decimal points instead of decimal commas, and"
                " one kind of separator."
            )
    return [cell.strip("[](){}") for cell in cells]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return NOT_A_NUMBER.fullmatch(text) is not None
    return True


def _shown(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text.strip())
    return clean if len(clean) <= MAX_SHOWN else f"{clean[:MAX_SHOWN]}..."
