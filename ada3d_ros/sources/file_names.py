"""The number or stamp in a file's name, by which colour, depth and pose belong together."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from ada3d_ros.errors import SourceError
from ada3d_ros.sources.text_files import MIN_EPOCH_S, fits, to_ns, unit_of

Key = tuple[Decimal, ...]

NUMBER = re.compile(r"\d+(?:\.\d+)?")
SECONDS_AND_FRACTION = re.compile(r"(?<!\d)(\d{9,10})[_-](\d{9}|\d{6})(?!\d)")  # as ROS tools do
SIGNED_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """Files of one kind, ascending by key; without keys by name.

    keys: None where the names hold no number; stamps_ns: where the keys are stamps.
    """

    what: str
    paths: tuple[Path, ...]
    keys: tuple[Key, ...] | None
    stamps_ns: tuple[int, ...] | None = None

    def by_key(self) -> dict[Key, Path]:
        return dict(zip(self.keys, self.paths, strict=True)) if self.keys else {}


def name_files(
    groups: Mapping[str, Sequence[Path]], unit: str = "auto"
) -> tuple[dict[str, NamedFiles], list[str]]:
    """Files of every kind (colour, depth, pose) with their keys, and sentences on odd names.

    Numbers that are the same in all names of all kinds (scene0011_00) are no part of the key. One
    number with a decimal point, or since 1970, is a stamp; unit as in text_files.stamps_to_ns.
    Raises SourceError for two files of one kind with the same key.
    """
    # All numbers of every name; names with another count of them than most are set aside.
    notes: list[str] = []
    numbers: dict[str, dict[Path, Key]] = {}
    for what, paths in groups.items():
        found = {path: _numbers(path) for path in paths}
        counts = Counter(len(key) for key in found.values())
        usual = max(counts, key=lambda n: (counts[n], n)) if counts else 0
        odd = sorted(path.name for path, key in found.items() if len(key) != usual)
        if odd:
            notes.append(f"{len(odd)} {what} files named otherwise are left out, first: {odd[0]}.")
        numbers[what] = {path: key for path, key in found.items() if len(key) == usual}

    # The numbers that tell one frame from another.
    places = _telling_places(numbers)
    return {what: _named(what, keys, places[what], unit) for what, keys in numbers.items()}, notes


def _numbers(path: Path) -> Key:
    stem = path.stem
    if SIGNED_NUMBER.fullmatch(stem):
        try:
            return (Decimal(stem),)
        except InvalidOperation:  # an exponent out of all bounds
            return ()
    parts = SECONDS_AND_FRACTION.search(stem)
    if parts and int(parts[1]) >= MIN_EPOCH_S:
        stem = SECONDS_AND_FRACTION.sub(r"\1.\2", stem)
    return tuple(Decimal(number) for number in NUMBER.findall(stem))


def _telling_places(numbers: Mapping[str, Mapping[Path, Key]]) -> dict[str, list[int]]:
    """Per kind the places whose numbers differ, in this kind or in one named alike."""
    # Per kind alone.
    lengths = {what: len(next(iter(keys.values()), ())) for what, keys in numbers.items()}
    varying = {
        what: {i for i in range(lengths[what]) if len({key[i] for key in keys.values()}) > 1}
        for what, keys in numbers.items()
    }

    # Together where the names have as many numbers.
    shared = {
        length: set().union(*(varying[what] for what in numbers if lengths[what] == length))
        for length in set(lengths.values())
    }
    return {
        what: sorted(shared[length]) or list(range(length))[-1:] for what, length in lengths.items()
    }


def _named(what: str, numbers: Mapping[Path, Key], places: Sequence[int], unit: str) -> NamedFiles:
    # Names without a number keep the order of the alphabet.
    if not places:
        return NamedFiles(what, tuple(sorted(numbers)), None)
    keyed = sorted((tuple(key[i] for i in places), path) for path, key in numbers.items())
    for (key, path), (next_key, next_path) in itertools.pairwise(keyed):
        if key == next_key:
            raise SourceError(
                f"{path.name} and {next_path.name} in {path.parent} are both {what} number"
                f" {'_'.join(map(str, key))}; leave one of them there."
            )

    # Stamps, where the numbers are.
    keys, paths = tuple(key for key, _ in keyed), tuple(path for _, path in keyed)
    stamps_ns = _stamps([key[0] for key in keys], unit) if len(places) == 1 else None
    return NamedFiles(what, paths, keys, stamps_ns)


def _stamps(values: Sequence[Decimal], unit: str) -> tuple[int, ...] | None:
    """Nanoseconds of numbers that are stamps; None where they only count frames."""
    has_fraction = any(value != value.to_integral_value() for value in values)
    since_1970 = max(values) >= MIN_EPOCH_S
    if unit == "auto" and not has_fraction and not since_1970:
        return None
    chosen = unit_of(values) if unit == "auto" else unit
    if chosen is None or not fits(max(values, key=abs), chosen):
        return None
    return tuple(to_ns(value, chosen) for value in values)
