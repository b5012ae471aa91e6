"""What of a model's text goes out: without what steers a model, coordinates in the world frame."""

from __future__ import annotations

import re

from ada3d_ros.model.coordinates import LENGTHS
from ada3d_ros.model.prompt import CONTROL_TOKENS, NO_CONTROLS, ROLES

# A role steers at the beginning of a word.
_STEERS = re.compile("|".join([*map(re.escape, CONTROL_TOKENS), rf"(?<!\w)(?:{'|'.join(ROLES)})"]))
# What may still become one of them, also one inside the other, at the end of a text.
_BEGINNINGS = {re.escape(t[:n]) for t in (*CONTROL_TOKENS, *ROLES) for n in range(1, len(t))}
_OPEN = re.compile(rf"(?:{'|'.join(sorted(_BEGINNINGS, key=len, reverse=True))})+\Z")

_GROUP = re.compile(r"\[([^\[\]]{5,200})\]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?(\d*)|\.(\d+))([eE][+-]?\d+)?\s*")


def clean_text(text: str, up_m: float) -> str:
    """`text` as it may be read: without control characters, and control tokens, also where the
    removal of one leaves another behind; its coordinates moved up by `up_m`, from the model's world
    to the world frame.
    """
    text = text.translate(NO_CONTROLS)
    while (cleaned := _STEERS.sub("", text)) != text:
        text = cleaned
    return raise_coordinates(text, up_m) if up_m else text


def end_of_settled(text: str, start: int, up_m: float) -> int:
    """How much of a cleaned text that goes on stays as it is; from `start` on nothing is out."""
    held = _OPEN.search(text, start)
    stop = held.start() if held else len(text)
    return min(stop, end_before_open_group(text)) if up_m else stop


def raise_coordinates(text: str, by_m: float) -> str:
    """The text with its points and boxes, [x, y, z] and longer groups of numbers, moved up."""

    def moved(match: re.Match[str]) -> str:
        parts = match.group(1).split(",")
        numbers = [_NUMBER.fullmatch(part) for part in parts]
        if len(parts) not in LENGTHS or numbers[2] is None or not all(numbers):
            return match.group(0)
        decimals = max(3, len(numbers[2][2] or numbers[2][3] or ""))
        z_m = round(float(parts[2]) + by_m, decimals) + 0.0  # no -0.000
        parts[2] = f" {z_m:.{decimals}f}"
        return "[" + ",".join(parts) + "]"

    return _GROUP.sub(moved, text)


def end_before_open_group(text: str) -> int:
    """Where a text's last group begins, if it may yet become coordinates; else the text's end."""
    start = text.rfind("[")
    return start if start >= 0 and re.fullmatch(r"\[[^\]]{0,200}", text[start:]) else len(text)
