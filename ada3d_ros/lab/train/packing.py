"""Rooms and questions to one training batch: a scene prefix per room and, behind it, many questions
that do not see each other.

Every question starts at the position it would have alone, so one room's tokens are paid once for
all its questions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.world.graph import Graph
from ada3d_ros.lab.world.questions import RoomQuestion
from ada3d_ros.model.prompt import Tokenizer, parse_coordinates, render_question

PRESENCE_KINDS = ("grounding", "absent", "existence")


@dataclass(frozen=True, eq=False, slots=True)
class PackedQuestions:
    """Text of B rooms with Q questions in all, padded to M tokens.

    ids (B, M) int64 (CLICK_ID for a point); block (B, M) int64, number of the question within its
    room, -1 padding; offset (B, M) int64, place after the scene tokens; clicks (n, 3) float32 in order of
    appearance. Per predicted token: row_room, row_place, row_target (R,), row_weight (R,), which
    sum to 1 per question. Per question: room (Q,), query (Q,) place of its last prompt token;
    evidence (Q, O) bool; presence (Q,) 1, 0 or -1 (not asked); box_m (Q, 6) centre and full
    extents, NaN where none is asked for; questions themselves.
    """

    ids: torch.Tensor
    block: torch.Tensor
    offset: torch.Tensor
    clicks: torch.Tensor
    row_room: torch.Tensor
    row_place: torch.Tensor
    row_target: torch.Tensor
    row_weight: torch.Tensor
    room: torch.Tensor
    query: torch.Tensor
    evidence: torch.Tensor
    presence: torch.Tensor
    box_m: torch.Tensor
    questions: tuple[RoomQuestion, ...]


def prompt_text(question: RoomQuestion) -> str:
    """What the model is asked: a phrase to ground in the words that `Ada3DPipeline.ground` uses."""
    return GROUNDING_PROMPT.format(phrase=question.phrase) if question.phrase else question.text


class Packer:
    """Tokenises with a memory: most questions differ only in their coordinates."""

    def __init__(self, tokenizer: Tokenizer, template: str = "llava_v1") -> None:
        self.tokenizer, self.template = tokenizer, template
        self.prefix_ids = tokenizer.encode(render_question("", template).split("<image>")[0])
        self._prompt = functools.lru_cache(maxsize=100_000)(self._encode_prompt)
        self._answer = functools.lru_cache(maxsize=10_000)(self._encode_answer)

    def _encode_prompt(self, text: str) -> tuple[int, ...]:
        """Ids after the scene tokens, up to `ASSISTANT:`; the same as in a prompt of its own."""
        ids = self.tokenizer.encode(render_question(text, self.template))
        return tuple(ids[len(self.prefix_ids) + 1 :])

    def _encode_answer(self, text: str) -> tuple[int, ...]:
        return (*self.tokenizer.encode(text)[1:], self.tokenizer.eos_id)

    def pack(
        self, graphs: Sequence[Graph], questions: Sequence[Sequence[RoomQuestion]], num_objects: int
    ) -> PackedQuestions:
        """One batch; graphs give the true boxes of what is asked for."""
        ids: list[list[int]] = []
        block: list[list[int]] = []
        offset: list[list[int]] = []
        clicks: list[tuple[float, float, float]] = []
        rows: list[tuple[int, int, int, float]] = []
        room, query, presence, evidence, boxes = [], [], [], [], []
        for b, asked in enumerate(questions):
            things = {t.number: t for t in graphs[b].things}
            line: list[int] = []
            blocks: list[int] = []
            offsets: list[int] = []
            for number, question in enumerate(asked):
                parsed = parse_coordinates(prompt_text(question))
                clicks += parsed.clicks
                prompt, answer = self._prompt(parsed.text), self._answer(question.answer)
                start = len(line)
                line += [*prompt, *answer[:-1]]
                size = len(line) - start
                blocks += [number] * size
                offsets += range(size)
                last = start + len(prompt) - 1
                rows += [(b, last + i, token, 1.0 / len(answer)) for i, token in enumerate(answer)]
                room.append(b)
                query.append(last)
                asked_for = question.kind in PRESENCE_KINDS
                presence.append(float(bool(question.evidence)) if asked_for else -1.0)
                evidence.append([o in question.evidence for o in range(num_objects)])
                box = (
                    (*things[question.target].center_m, *things[question.target].extents_m)
                    if question.target is not None
                    else None
                )
                boxes.append(box or (float("nan"),) * 6)
            ids.append(line)
            block.append(blocks)
            offset.append(offsets)
        width = max(map(len, ids))
        row_room, row_place, row_target, row_weight = (
            torch.tensor(column) for column in zip(*rows, strict=True)
        )
        return PackedQuestions(
            _padded(ids, width, 0),
            _padded(block, width, -1),
            _padded(offset, width, 0),
            torch.tensor(clicks, dtype=torch.float32).reshape(-1, 3),
            row_room,
            row_place,
            row_target,
            row_weight,
            torch.tensor(room),
            torch.tensor(query),
            torch.tensor(evidence),
            torch.tensor(presence),
            torch.tensor(boxes),
            tuple(q for asked in questions for q in asked),
        )


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)
