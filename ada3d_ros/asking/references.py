"""What a typed request names: a, b and c of ~/measure."""

from __future__ import annotations

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import Reference
from ada3d_ros.model.prompt import parse_coordinates

ARTICLES = ("a", "an", "the")
LARGEST = "largest "


def parse_reference(text: str) -> Reference:
    """`[x, y, z]` (metres, world frame), `robot`, or else a phrase; `the largest table` is the
    largest that "table" fits. The label keeps the article: `a chair` may be any.

    Raises InvalidRequestError for brackets that are no place, and for a place beside other words.
    """
    words = " ".join(text.split())
    rest, places = parse_coordinates(words)
    if places and (len(places) > 1 or rest.strip() != "<boxes>"):
        raise InvalidRequestError(
            f"{text!r} is a place with other words beside it: give [x, y, z] alone, or a phrase."
        )
    if places:
        return Reference(point_m=places[0], label=words)
    first, _, others = words.partition(" ")
    phrase = others if others and first.casefold() in ARTICLES else words
    if phrase.casefold() == "robot":
        return Reference(robot=True, label=words)
    if phrase.casefold().startswith(LARGEST):
        return Reference(phrase=phrase[len(LARGEST) :], label=words, largest=True)
    return Reference(phrase=phrase, label=words)
