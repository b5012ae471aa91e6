"""Rooms and questions to one training batch.

A scene prefix per room and, after it, many questions that do not attend to each other. Every
question starts at the position it would have alone, so one room's tokens are paid once for all its
questions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.world.graph import Graph
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.model.coordinates import Point
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID, AnyTokenizer, parse_coordinates

PRESENCE_KINDS = ("grounding", "absent", "existence")
MAX_PLACES = 8  # of one answer, as in the engine
PLACE_NOISE_M = 0.06  # standard deviation per axis of the places that are fed: the head's own
POINT_TOKEN_WEIGHT = 0.2  # more would starve the word (docs/log.md)
NO_BOX = (float("nan"),) * 6


@dataclass(frozen=True, eq=False, slots=True)
class PackedQuestions:
    """Text of B rooms with Q questions in all, padded to M tokens.

    ids (B, M) int64 (CLICK_ID for a point); block (B, M) int64, number of the question within its
    room, -1 padding; offset (B, M) int64, place after the scene; clicks (n, 3) float32 in order of
    appearance; rows (Q, T) int64, places of each question's tokens among the B * M, -1 padding.

    Per token to be predicted: target_room, target_place, target_id (R,), target_weight (R,): words
    weigh 1 in all per question, each token that points POINT_TOKEN_WEIGHT. Per question: room (Q,),
    query (Q,) place of its last prompt token; questions themselves.

    Per query of the grounding head, of which each question has one at its last prompt token and one
    for each further place it points at: head_room, head_place, head_question (H,); evidence (H, O)
    bool, what is to be pointed at; presence (H,) 1, 0 or -1 (not asked); box_m (H, 6) centre and
    full extents, NaN where none is asked for.
    """

    ids: torch.Tensor
    block: torch.Tensor
    offset: torch.Tensor
    clicks: torch.Tensor
    rows: torch.Tensor
    target_room: torch.Tensor
    target_place: torch.Tensor
    target_id: torch.Tensor
    target_weight: torch.Tensor
    room: torch.Tensor
    query: torch.Tensor
    head_room: torch.Tensor
    head_place: torch.Tensor
    head_question: torch.Tensor
    evidence: torch.Tensor
    presence: torch.Tensor
    box_m: torch.Tensor
    questions: tuple[RoomQuestion, ...]

    def to(self, device: torch.device) -> PackedQuestions:
        """The same with all tensors there."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        moved: dict[str, Any] = {n: v.to(device) for n, v in values if isinstance(v, torch.Tensor)}
        return dataclasses.replace(self, **moved)


def prompt_text(question: RoomQuestion) -> str:
    """What the model is asked: a phrase to ground in the words that `Ada3DPipeline.ground` uses."""
    return GROUNDING_PROMPT.format(phrase=question.phrase) if question.phrase else question.text


class Packer:
    """Tokenises with a memory: most questions differ only in their coordinates."""

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        template: str = "llava_v1",
        point_ids: tuple[int, int] = (-1, -1),
    ) -> None:
        """point_ids: of the tokens that point and that point egocentrically, -1: no pointing."""
        self.tokenizer, self.template = tokenizer, template
        self.point_id, self.egocentric_id = point_ids
        ids = tokenizer.encode_question("", template)
        self.prefix_ids = ids[: ids.index(IMAGE_ID)]
        self._prompt = functools.lru_cache(maxsize=100_000)(self._encode_prompt)
        self._answer = functools.lru_cache(maxsize=10_000)(self._encode_answer)

    def _encode_prompt(self, text: str) -> tuple[int, ...]:
        """Ids after the scene, up to `ASSISTANT:`; the same as in a prompt of its own."""
        ids = self.tokenizer.encode_question(text, self.template)
        return tuple(ids[len(self.prefix_ids) + 1 :])

    def _encode_answer(self, text: str) -> tuple[int, ...]:
        return (*self.tokenizer.encode_text(text), self.tokenizer.eos_id)

    def _places(self, question: RoomQuestion) -> Sequence[int]:
        """That its answer points at."""
        return question.places[:MAX_PLACES] if self.point_id >= 0 else ()

    def pack(
        self,
        graphs: Sequence[Graph],
        questions: Sequence[Sequence[RoomQuestion]],
        num_objects: int,
        seed: int = 0,
        share: slice = slice(None),
    ) -> PackedQuestions:
        """One batch; graphs give the true boxes of what is asked for.

        seed: of how far the places that are fed are off; share: which of the rooms are packed, with
        the places that they have in the whole.
        """
        draw = random.Random(seed)
        seen = [
            [_shown(graph, question, self._places(question), draw) for question in asked]
            for graph, asked in zip(graphs, questions, strict=True)
        ][share]
        graphs, questions = graphs[share], questions[share]
        lines = [_Line() for _ in questions]
        room: list[int] = []
        query: list[int] = []
        heads = _Heads(num_objects)
        for b, asked in enumerate(questions):
            line = lines[b]
            for number, question in enumerate(asked):
                # Text: the prompt and the answer but for its last token, placed as if alone.
                text, points = parse_coordinates(prompt_text(question))
                prompt, answer = self._prompt(text), self._answer(question.answer)
                places, shown = self._places(question), seen[b][number]
                answered = [*[CLICK_ID] * len(shown), *answer[:-1]]
                last = line.add([*prompt, *answered], number) - len(answered) - 1
                line.clicks += [*points, *shown]

                # Each token of the answer is predicted at the place before it.
                pointing = [self.point_id] * len(places)
                if question.egocentric and len(places) == len(question.places):
                    pointing[-1:] = [self.egocentric_id]
                line.predict(last, pointing, POINT_TOKEN_WEIGHT)
                line.predict(last + len(places), answer, 1.0 / len(answer))

                # What the grounding head is to learn from it.
                heads.add(b, len(room), last, question, graphs[b])
                room.append(b)
                query.append(last)
        return _packed(lines, torch.tensor(room), torch.tensor(query), heads, questions)


def _shown(
    graph: Graph, question: RoomQuestion, places: Sequence[int], draw: random.Random
) -> list[Point]:
    """What is fed for the places: centres as far off as predicted ones are, the last one of an
    egocentric question as seen from the first towards the second.
    """
    centers = {t.number: t.center_m for t in graph.things}
    points: list[Point] = [
        (
            centers[n][0] + draw.gauss(0.0, PLACE_NOISE_M),
            centers[n][1] + draw.gauss(0.0, PLACE_NOISE_M),
            centers[n][2] + draw.gauss(0.0, PLACE_NOISE_M),
        )
        for n in places
    ]
    if question.egocentric and len(points) == len(question.places) > 2:
        points[-1] = egocentric(points[-3], points[-2], points[-1])
    return points


class _Line:
    """The text of one room: its tokens, and what is to be predicted where."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.block: list[int] = []
        self.offset: list[int] = []
        self.clicks: list[Point] = []
        self.targets: list[tuple[int, int, float]] = []

    def add(self, ids: Sequence[int], number: int) -> int:
        """Append a question's tokens; where the line ends now."""
        self.ids += ids
        self.block += [number] * len(ids)
        self.offset += range(len(ids))
        return len(self.ids)

    def predict(self, place: int, ids: Sequence[int], weight: float) -> None:
        """Have ids predicted from `place` on."""
        self.targets += [(place + i, token, weight) for i, token in enumerate(ids)]


class _Heads:
    """What the grounding head learns: one line per query."""

    def __init__(self, num_objects: int) -> None:
        self._num_objects = num_objects
        self.where: list[tuple[int, int, int]] = []
        self.evidence: list[list[bool]] = []
        self.presence: list[float] = []
        self.boxes: list[tuple[float, ...]] = []

    def add(self, b: int, number: int, last: int, question: RoomQuestion, graph: Graph) -> None:
        """The query at the last prompt token, and those of the places behind the first."""
        places = question.places[:MAX_PLACES]
        asks = question.kind in PRESENCE_KINDS
        wanted = places[:1] or question.evidence
        target = places[0] if places else question.target
        self._add((b, last, number), wanted, float(bool(wanted)) if asks else -1.0)
        self.boxes.append(_true_box(graph, target))
        for i, place in enumerate(places[1:], 1):
            self._add((b, last + i, number), (place,), -1.0)
            self.boxes.append(_true_box(graph, place))

    def _add(self, where: tuple[int, int, int], wanted: Sequence[int], presence: float) -> None:
        self.where.append(where)
        self.evidence.append([o in wanted for o in range(self._num_objects)])
        self.presence.append(presence)


def egocentric(at: Point, facing: Point, place: Point) -> Point:
    """(forward, left, z) of a place for someone who stands at `at` and faces `facing`; metres."""
    dx, dy = facing[0] - at[0], facing[1] - at[1]
    length = math.hypot(dx, dy) or 1.0
    x, y = place[0] - at[0], place[1] - at[1]
    return (x * dx + y * dy) / length, (y * dx - x * dy) / length, place[2]


def _packed(
    lines: Sequence[_Line],
    room: torch.Tensor,
    query: torch.Tensor,
    heads: _Heads,
    questions: Sequence[Sequence[RoomQuestion]],
) -> PackedQuestions:
    """Everything as tensors."""
    # Which of the B * M places are each question's.
    width = max(len(line.ids) for line in lines)
    block = _padded([line.block for line in lines], width, -1)
    rows: list[list[int]] = []
    for b, line in enumerate(lines):
        start = len(rows)
        rows += [[] for _ in questions[b]]
        for place, number in enumerate(line.block):
            rows[start + number].append(b * width + place)

    targets = [(b, *target) for b, line in enumerate(lines) for target in line.targets]
    rooms, places, tokens, weights = map(torch.tensor, zip(*targets, strict=True))
    head_room, head_place, head_question = map(torch.tensor, zip(*heads.where, strict=True))
    clicks = [point for line in lines for point in line.clicks]
    return PackedQuestions(
        ids=_padded([line.ids for line in lines], width, 0),
        block=block,
        offset=_padded([line.offset for line in lines], width, 0),
        clicks=torch.tensor(clicks, dtype=torch.float32).reshape(-1, 3),
        rows=_padded(rows, max(map(len, rows)), -1),
        target_room=rooms,
        target_place=places,
        target_id=tokens,
        target_weight=weights,
        room=room,
        query=query,
        head_room=head_room,
        head_place=head_place,
        head_question=head_question,
        evidence=torch.tensor(heads.evidence),
        presence=torch.tensor(heads.presence),
        box_m=torch.tensor(heads.boxes),
        questions=tuple(q for asked in questions for q in asked),
    )


def _true_box(graph: Graph, number: int | None) -> tuple[float, ...]:
    """Centre and full extents of an object, NaN without one."""
    if number is None:
        return NO_BOX
    thing = next(t for t in graph.things if t.number == number)
    return (*thing.center_m, *thing.extents_m)


def _padded(lines: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    padded = [[*line, *[value] * (width - len(line))] for line in lines]
    return torch.tensor(padded, dtype=torch.int64)
