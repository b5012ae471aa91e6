"""Rooms and questions to one training batch.

A scene prefix per room and, after it, many questions that do not attend to each other. Every
question starts at the position it would have alone, so one room's tokens are paid once for all its
questions.
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
NO_BOX = (float("nan"),) * 6


@dataclass(frozen=True, eq=False, slots=True)
class PackedQuestions:
    """Text of B rooms with Q questions in all, padded to M tokens.

    ids (B, M) int64 (CLICK_ID for a point); block (B, M) int64, number of the question within its
    room, -1 padding; offset (B, M) int64, place after the scene; clicks (n, 3) float32 in order of
    appearance.

    Per token to be predicted: target_room, target_place, target_id (R,), target_weight (R,), which
    sum to 1 per question. Per question: room (Q,), query (Q,) place of its last prompt token;
    evidence (Q, O) bool; presence (Q,) 1, 0 or -1 (not asked); box_m (Q, 6) centre and full
    extents, NaN where none is asked for; questions themselves.
    """

    ids: torch.Tensor
    block: torch.Tensor
    offset: torch.Tensor
    clicks: torch.Tensor
    target_room: torch.Tensor
    target_place: torch.Tensor
    target_id: torch.Tensor
    target_weight: torch.Tensor
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
        """Ids after the scene, up to `ASSISTANT:`; the same as in a prompt of its own."""
        ids = self.tokenizer.encode(render_question(text, self.template))
        return tuple(ids[len(self.prefix_ids) + 1 :])

    def _encode_answer(self, text: str) -> tuple[int, ...]:
        return (*self.tokenizer.encode(text)[1:], self.tokenizer.eos_id)

    def pack(
        self, graphs: Sequence[Graph], questions: Sequence[Sequence[RoomQuestion]], num_objects: int
    ) -> PackedQuestions:
        """One batch; graphs give the true boxes of what is asked for."""
        ids: list[list[int]] = [[] for _ in questions]
        block: list[list[int]] = [[] for _ in questions]
        offset: list[list[int]] = [[] for _ in questions]
        clicks: list[tuple[float, float, float]] = []
        targets: list[tuple[int, int, int, float]] = []
        room, query, presence, evidence, boxes = [], [], [], [], []
        for b, asked in enumerate(questions):
            for number, question in enumerate(asked):
                # Text: the prompt and the answer but for its last token, placed as if alone.
                text, points = parse_coordinates(prompt_text(question))
                clicks += points
                prompt, answer = self._prompt(text), self._answer(question.answer)
                last, size = len(ids[b]) + len(prompt) - 1, len(prompt) + len(answer) - 1
                ids[b] += [*prompt, *answer[:-1]]
                block[b] += [number] * size
                offset[b] += range(size)

                # Each token of the answer is predicted at the place before it.
                weight = 1.0 / len(answer)
                targets += [(b, last + i, token, weight) for i, token in enumerate(answer)]

                # What the grounding head is to learn from it.
                room.append(b)
                query.append(last)
                asks_presence = question.kind in PRESENCE_KINDS
                presence.append(float(bool(question.evidence)) if asks_presence else -1.0)
                evidence.append([o in question.evidence for o in range(num_objects)])
                boxes.append(_true_box(graphs[b], question))

        width = max(map(len, ids))
        rooms, places, tokens, weights = map(torch.tensor, zip(*targets, strict=True))
        return PackedQuestions(
            ids=_padded(ids, width, 0),
            block=_padded(block, width, -1),
            offset=_padded(offset, width, 0),
            clicks=torch.tensor(clicks, dtype=torch.float32).reshape(-1, 3),
            target_room=rooms,
            target_place=places,
            target_id=tokens,
            target_weight=weights,
            room=torch.tensor(room),
            query=torch.tensor(query),
            evidence=torch.tensor(evidence),
            presence=torch.tensor(presence),
            box_m=torch.tensor(boxes),
            questions=tuple(q for asked in questions for q in asked),
        )


def _true_box(graph: Graph, question: RoomQuestion) -> tuple[float, ...]:
    """Centre and full extents of the question's target, NaN without one."""
    if question.target is None:
        return NO_BOX
    thing = next(t for t in graph.things if t.number == question.target)
    return (*thing.center_m, *thing.extents_m)


def _padded(lines: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    padded = [[*line, *[value] * (width - len(line))] for line in lines]
    return torch.tensor(padded, dtype=torch.int64)
