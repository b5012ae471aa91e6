"""Questions of the tests with what each is to be read as, in a short notation."""

import math
import re
from dataclasses import replace

from ada3d_ros.asking.grammar import ReadQuestion
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from test.support.sources import ROOT

FOLDER = ROOT / "test/data/asking"
FIELD = re.compile(r"(\w+)=(.*?)(?= \w+=| centers|$)")


def expected(kind: str, text: str) -> ReadQuestion:
    """What a line of paraphrases.yaml says."""
    head, _, rest = text.partition(" ")
    fields = dict(FIELD.findall(rest))
    choices = tuple(fields.get("choices", "").split())
    if head.islower():
        return ReadQuestion(head, None, (reference(fields["of"]),), choices)
    request = MeasureRequest(
        MeasureKind[head],
        of=reference(fields["of"]) if "of" in fields else None,
        to=reference(fields["to"]) if "to" in fields else None,
        third=reference(fields["third"]) if "third" in fields else None,
        category=fields.get("category", ""),
        k=int(fields.get("k", 1)),
        radius_m=float(fields.get("radius", "nan")),
        centers=rest.endswith("centers"),
        attribute=fields.get("attribute", ""),
        unit=fields.get("unit", "m"),
    )
    named = tuple(r for r in (request.of, request.to, request.third) if r is not None)
    return ReadQuestion(fields.get("model", kind), request, named, choices)


def reference(text: str) -> Reference:
    if text == "@robot":
        return Reference(robot=True)
    if text.startswith("@"):
        x, y, z = map(float, text[2:-1].split(","))
        return Reference(point_m=(x, y, z))
    return Reference(phrase=text.removeprefix("largest "), largest=text.startswith("largest "))


def without_labels(read: ReadQuestion | None) -> ReadQuestion | None:
    """As expected() has it: the words as they were asked are left out, a radius is rounded."""
    if read is None:
        return None
    bare = [None if r is None else replace(r, label="") for r in read.things]
    request = read.request
    if request is not None:
        of, to, third = (
            None if r is None else replace(r, label="")
            for r in (request.of, request.to, request.third)
        )
        radius_m = -1.0 if math.isnan(request.radius_m) else round(request.radius_m, 9)
        request = replace(request, of=of, to=to, third=third, radius_m=radius_m)
    return replace(read, request=request, things=tuple(r for r in bare if r is not None))
