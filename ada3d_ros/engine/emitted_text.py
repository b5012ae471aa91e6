"""What of a model's text goes out: without what steers a model, coordinates in the world frame."""

from __future__ import annotations

import re

from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.coordinates import LENGTHS
from ada3d_ros.model.prompt import CONTROL_TOKENS, NO_CONTROLS, ROLES

# A role steers at the beginning of a word.
_STEERS = re.compile("|".join([*map(re.escape, CONTROL_TOKENS), rf"(?<!\w)(?:{'|'.join(ROLES)})"]))
# What may still become one of them, also one inside the other, at the end of a text.
_BEGINNINGS = {re.escape(t[:n]) for t in (*CONTROL_TOKENS, *ROLES) for n in range(1, len(t))}
_OPEN = re.compile(rf"(?:{'|'.join(sorted(_BEGINNINGS, key=len, reverse=True))})+\Z")

_GROUP = re.compile(r"\[([^\[\]]{5,200})\]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?(\d*)|\.(\d+))([eE][+-]?\d+)?\s*")


def clean_text(text: str, origin_m: Origin) -> str:
    """`text` as it may be read: without control characters, and control tokens, also where the
    removal of one leaves another behind; its coordinates moved from the model's world, which begins
    at `origin_m`, to the world frame.
    """
    text = text.translate(NO_CONTROLS)
    while (cleaned := _STEERS.sub("", text)) != text:
        text = cleaned
    return move_coordinates(text, origin_m) if any(origin_m) else text


def end_of_settled(text: str, start: int, origin_m: Origin) -> int:
    """How much of a cleaned text that goes on stays as it is; from `start` on nothing is out."""
    held = _OPEN.search(text, start)
    stop = held.start() if held else len(text)
    return min(stop, end_before_open_group(text)) if any(origin_m) else stop


def move_coordinates(text: str, by_m: Origin) -> str:
    """The text with its points and boxes, [x, y, z] and longer groups of numbers, moved."""

    def moved(match: re.Match[str]) -> str:
        parts = match.group(1).split(",")
        numbers = [_NUMBER.fullmatch(part) for part in parts]
        if len(parts) not in LENGTHS or not all(numbers):
            return match.group(0)
        for axis, by in enumerate(by_m):
            number = numbers[axis]
            if by and number is not None:
                decimals = max(3, len(number[2] or number[3] or ""))
                value_m = round(float(parts[axis]) + by, decimals) + 0.0  # no -0.000
                parts[axis] = f"{' ' if axis else ''}{value_m:.{decimals}f}"
        return "[" + ",".join(parts) + "]"

    return _GROUP.sub(moved, text)


def end_before_open_group(text: str) -> int:
    """Where a text's last group begins, if it may yet become coordinates; else the text's end."""
    start = text.rfind("[")
    return start if start >= 0 and re.fullmatch(r"\[[^\]]{0,200}", text[start:]) else len(text)
