"""An answer as JSON is the same answer: all that a robot's own model would have told."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest, Reference
from ada3d_ros.store.json_form import from_json, to_json
from ada3d_ros.types import (
    NAN,
    Answer,
    AnswerMethod,
    Box3D,
    GroundingMethod,
    Question,
    Scope,
    StopReason,
)
from ada3d_ros.usage import StageTimings, TokenUsage

BOX = Box3D(
    np.array([1.25, -0.5, 0.3]),
    np.array([0.4, 0.6, 1.1]),
    yaw_rad=0.7,
    label="chair",
    score=0.83,
    support_points=120,
    method=GroundingMethod.HEAD,
    evidence_stamps_ns=(1, 2**62),
    evidence_xyz_m=((1.0, 2.0, 3.0),),
    evidence_weights=(0.5,),
)
ANSWER = Answer(
    question="Where is the chair? \u00e9",
    text='by the "door"\n',
    boxes=(BOX,),
    stamp_ns=1_790_000_000_123_456_789,
    frame_id="map",
    keyframe_stamps_ns=(1_790_000_000_123_456_789, 5),
    stop_reason=StopReason.EOS,
    tokens=TokenUsage(prompt=71, per_layer=(400, 200, 100), prefill_flops=1.5e9),
    timings=StageTimings(prefill_s=0.01, total_s=0.02),
    scene_epoch=3,
    scene_cached=True,
    confidence=0.9,
    method=AnswerMethod.MEASURED,
    places=(dataclasses.replace(BOX, score=NAN),),
    measurement=Measurement(MeasureKind.DISTANCE, (1.5,), "m", (0.05,), boxes=(BOX, BOX)),
    kept_xyz_m=np.array([[0.5, 1.0, -2.0]], dtype=np.float32),
)


def same(a: object, b: object) -> bool:
    """Equal with NaN equal to itself, types and dtypes included."""
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        names = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple):
        assert isinstance(b, tuple)
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def test_an_answer_comes_back_whole() -> None:
    text = json.dumps(to_json(ANSWER), allow_nan=False)
    assert same(from_json(Answer, json.loads(text)), ANSWER)


def test_questions_and_measure_requests_come_back_whole() -> None:
    question = Question("Find it", Scope.LATEST_IMAGE, keep_ratio=0.3, proposals=(BOX,))
    reference = Reference("the table", point_m=(1.0, 2.0, 0.5))
    request = MeasureRequest(MeasureKind.WITHIN, reference, radius_m=1.5)
    for value in (question, request):
        text = json.dumps(to_json(value), allow_nan=False)
        assert same(from_json(type(value), json.loads(text)), value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": 7}, "Question.text = 7: expected str"),
        ({"scope": 9}, "Question.scope = 9: expected one of 0, 1"),
        ({"keep_ratio": "all"}, "Question.keep_ratio = 'all': expected a number or null"),
        ({"keep_ratio": True}, "Question.keep_ratio = True"),
        ({"max_boxes": 1.5}, "Question.max_boxes = 1.5: expected int"),
        ({"proposals": {}}, "Question.proposals = {}: expected a list"),
        ({"proposals": [{}]}, "Question.proposals[0] lacks 'center_m'"),
        ({"shell": "rm"}, "Question has no field 'shell'"),
    ],
)
def test_what_is_no_question_is_named(change: dict[str, object], says: str) -> None:
    data = {**to_json(Question("Hi")), **change}
    with pytest.raises(InvalidRequestError) as raised:
        from_json(Question, data)
    assert says in str(raised.value)


@pytest.mark.parametrize("data", [None, [], "Question", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(InvalidRequestError, match="expected an object"):
        from_json(Question, data)
