"""The objects of a scene as rows of its index, and back.

A row has two parts. What everybody may know of an object (label, box, when it was seen) is kept for
ever; what it takes to go on with it (its surface points, what keyframes said) while it is one of
the objects that the scene keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.scene.object_detections import Detection
from ada3d_ros.scene.object_evidence import Evidence
from ada3d_ros.scene.objects import KeptObject, KeptObjects
from ada3d_ros.store.json_form import from_json, to_json
from ada3d_ros.types import Box3D


class ObjectRow(NamedTuple):
    """epoch, number: which object; described: a SceneObject as JSON; kept, points: how it goes on,
    None where it is history; points are (P, 3) float64, little-endian.
    """

    epoch: int
    number: int
    described: str
    kept: str | None
    points: bytes | None


def row_of(epoch: int, item: KeptObject) -> ObjectRow:
    evidence = item.evidence
    kept = {
        "box": to_json(item.detection.box),
        "alternatives": list(item.detection.alternatives),
        "first_ns": evidence.first_ns,
        "last_ns": evidence.last_ns,
        "last_index": evidence.last_index,
        "through_ns": list(evidence.through_ns),
        "partly_ns": list(evidence.partly_ns),
        "key": item.key,
        "misses": item.misses,
    }
    described = json.dumps(to_json(item.described()))
    points = np.ascontiguousarray(evidence.xyz_m, dtype="<f8").tobytes()
    return ObjectRow(epoch, item.number, described, json.dumps(kept), points)


def began_ns(kept: str | None) -> int:
    """The stamp at which a kept object was seen first: with its number it tells whether two rows
    of different epochs are one object. -1 of a row that cannot be read.
    """
    try:
        return int(_loaded(kept or "")["first_ns"])
    except (InvalidRequestError, KeyError, TypeError, ValueError, OverflowError):
        return -1


def described_of(row: ObjectRow) -> SceneObject:
    """Raises InvalidRequestError for a row that is none of ours."""
    return from_json(SceneObject, _loaded(row.described))


def memory_of(rows: Iterable[ObjectRow], told: str) -> KeptObjects:
    """The objects that a scene goes on with; told: of `told_of`. Raises InvalidRequestError."""
    try:
        said = _loaded(told)
        snapshot = from_json(ObjectsSnapshot, said["snapshot"])
        kept = tuple(map(_kept_of, rows))
        objects = tuple(each.described() for each in kept)
        whole = ObjectsSnapshot(
            objects,
            snapshot.scene_epoch,
            snapshot.scene_version,
            snapshot.complete,
            snapshot.stamp_ns,
            snapshot.frame_id,
        )
        return KeptObjects(kept, int(said["next_number"]), int(said["last_index"]), whole)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"the kept objects cannot be read: {error!r}.") from None


def told_of(known: KeptObjects) -> str:
    """What is said of all objects, their list left out."""
    snapshot = known.snapshot
    bare = ObjectsSnapshot(
        (),
        snapshot.scene_epoch,
        snapshot.scene_version,
        snapshot.complete,
        snapshot.stamp_ns,
        snapshot.frame_id,
    )
    said = {"next_number": known.next_number, "last_index": known.last_index}
    return json.dumps(said | {"snapshot": to_json(bare)})


def _kept_of(row: ObjectRow) -> KeptObject:
    said = _loaded(row.kept or "")
    points = np.frombuffer(row.points or b"", dtype="<f8").astype(np.float64).reshape(-1, 3)
    evidence = Evidence(
        points,
        said["first_ns"],
        said["last_ns"],
        said["last_index"],
        tuple(said["through_ns"]),
        tuple(said.get("partly_ns", ())),  # earlier stores have none
    )
    detection = Detection(from_json(Box3D, said["box"]), tuple(said["alternatives"]))
    return KeptObject(row.number, detection, evidence, said["key"], said["misses"])


def _loaded(text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise InvalidRequestError("a row of the index is no JSON object.")
    return loaded
