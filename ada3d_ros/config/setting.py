"""One setting: default, description, unit and range, and the check of a value against them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

from ada3d_ros.errors import ConfigError

Value = bool | int | float | str | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person needs to know about one setting.

    low, high: inclusive; of a text, a number in this range may stand for a choice. length: of a
    list. pattern: that a text matches; form: the same in words. joined: two groups of choices of
    which one each may be written together, `first+second`.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    joined: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    pattern: str = ""
    form: str = ""
    length: int | None = None
    read_only: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values as one readable phrase."""
        if self.choices:
            first, second = self.joined
            pair = f", or two joined, as '{first[-1]}+{second[0]}'" if first else ""
            number = f", or {self.low:g} to {self.high:g} {self.unit}" if self._takes_number else ""
            return "one of " + ", ".join(map(repr, self.choices)) + pair + number
        if self.pattern:
            return self.form or f"text matching {self.pattern}"
        if self.low is not None or self.high is not None:
            low = "-inf" if self.low is None else f"{self.low:g}"
            high = "inf" if self.high is None else f"{self.high:g}"
            each = f"{self.length} numbers, each " if self.length else ""
            return f"{each}{low} to {high}{' ' + self.unit if self.unit else ''}"
        return {bool: "true or false", str: "text"}.get(type(self.default), "any")

    def check(self, value: Any) -> Value:
        """`value` in the type of the default.

        Raises ConfigError with the value, the allowed range and the default.
        """
        # More than ROS can send, or a float can hold.
        for v in value if isinstance(value, (list, tuple)) else (value,):
            if type(v) is int and abs(v) >= 2**63:
                raise self._error(value, "out of range")

        # The type; integers serve as floats, a list of numbers as a tuple.
        value = self._in_kind(value)
        kind: type = type(self.default)
        if self._takes_number and value not in self.choices:
            return self._number_as_text(value)
        is_kind = type(value) is kind  # True is an int, too
        if not is_kind:
            wanted = "a list of numbers" if kind is tuple else kind.__name__
            raise self._error(value, f"expected {wanted}, got {type(value).__name__}")
        if self.length is not None and len(value) != self.length:
            raise self._error(value, f"expected {self.length} numbers, got {len(value)}")

        # Numbers: finite and in range, those of a list each.
        numbers = value if kind is tuple else (value,) if kind in (bool, int, float) else ()
        for number in numbers:
            if not math.isfinite(number):
                raise self._error(value, "not a finite number")
            too_low = self.low is not None and number < self.low
            if too_low or (self.high is not None and number > self.high):
                raise self._error(value, "out of range")

        # Text: one of the choices, or of the form.
        if self.choices and value not in self.choices:
            self._check_joined(str(value))
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            raise self._error(value, "not of the expected form")
        return value

    @property
    def _takes_number(self) -> bool:
        return isinstance(self.default, str) and self.low is not None

    def _number_as_text(self, value: Any) -> str:
        """A number in the place of a choice, or its text, as text."""
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self._error(value, f"expected a number or text, got {type(value).__name__}")
        try:
            number = float(value)
        except ValueError:
            raise self._error(value, "not a known choice, nor a number") from None
        if not self.low <= number <= self.high:  # NaN, too
            raise self._error(value, "out of range")
        return repr(number)

    def _in_kind(self, value: Any) -> Any:
        """An integer as a float and numbers as a tuple, where the default is one; else itself."""
        kind: type = type(self.default)
        if kind is float and type(value) is int:
            return float(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            numeric = (isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
            return tuple(float(v) for v in value) if all(numeric) else value
        return value

    def _check_joined(self, value: str) -> None:
        """Raises ConfigError unless `value` is two choices joined in the right order."""
        parts = value.split("+")
        first, second = self.joined
        if len(parts) == 2 and parts[0] in first and parts[1] in second:
            return
        if len(parts) == 2 and all(part in self.choices for part in parts):
            raise self._error(
                value,
                f"cannot be joined so; one of {first} comes before the + and one of {second}"
                " behind it",
            )

        # Otherwise the part that no choice is called, and the one that is nearest to it.
        unknown = next((part for part in parts if part not in self.choices), value)
        near = difflib.get_close_matches(unknown, self.choices, 1)
        advice = f", did you mean {near[0]!r}?" if near else ""
        raise self._error(value, "not a known choice" + advice)

    def _error(self, value: Any, why: str) -> ConfigError:
        return ConfigError(
            f"{self.name} = {value!r}: {why}; allowed: {self.allowed} (default {self.default!r})."
        )


def setting(default: Any, description: str, **details: Any) -> Any:
    """A dataclass field that carries a Setting's details."""
    return dataclasses.field(default=default, metadata={"description": description, **details})
