"""The objects of a scene as rows of its index, and back: nothing that was known is lost."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.scene.object_detections import Detection
from ada3d_ros.scene.object_evidence import Evidence
from ada3d_ros.scene.objects import KeptObject, KeptObjects
from ada3d_ros.store.object_rows import ObjectRow, memory_of, row_of, told_of
from ada3d_ros.types import Box3D

POINTS = np.arange(12.0).reshape(4, 3)
EVIDENCE = Evidence(POINTS, 10, 20, 3, through_ns=(30,), partly_ns=(25, 40))


def kept(evidence: Evidence = EVIDENCE) -> KeptObject:
    box = Box3D(np.array([1.0, 2.0, 0.5]), np.ones(3), label="red chair", score=0.9)
    return KeptObject(7, Detection(box, ("red stool",)), evidence, key=4, misses=1)


def read(row: ObjectRow) -> Evidence:
    told = told_of(KeptObjects((), 8, 3, ObjectsSnapshot()))
    (again,) = memory_of([row], told).kept
    return again.evidence


def holding(row: ObjectRow, kept: dict[str, object]) -> ObjectRow:
    """The row with this in the place of what it keeps."""
    return ObjectRow(row.epoch, row.number, row.described, json.dumps(kept), row.points)


def test_evidence_comes_back_whole() -> None:
    again = read(row_of(0, kept()))
    assert np.array_equal(again.xyz_m, POINTS)
    names = ("first_ns", "last_ns", "last_index", "through_ns", "partly_ns", "gone_ns")
    assert [getattr(again, n) for n in names] == [getattr(EVIDENCE, n) for n in names]
    assert again.gone_ns == 30


def test_a_row_of_an_earlier_store_says_nothing_of_parts() -> None:
    row = row_of(0, kept())
    said = json.loads(row.kept or "")
    del said["partly_ns"]
    again = read(holding(row, said))
    assert again.partly_ns == ()
    assert again.gone_ns == -1


@pytest.mark.parametrize("damage", [{"through_ns": 3}, {"partly_ns": None}, {"box": {}}])
def test_a_damaged_row_is_refused(damage: dict[str, object]) -> None:
    row = row_of(0, kept(replace(EVIDENCE, partly_ns=())))
    broken = holding(row, json.loads(row.kept or "") | damage)
    with pytest.raises(InvalidRequestError, match=r"cannot be read|lacks"):
        read(broken)
