"""What a generated room is asked, with the true answer as the model would say it.

A model that points before it speaks is fed the places it points at: the embeddings of the true
centres stand before the answer's words, as in training (train/packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.evaluation.scenes import Scene, room_of
from ada3d_ros.lab.evaluation.selection import questions_of
from ada3d_ros.lab.train.packing import MAX_PLACES, egocentric
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.coordinates import Point


@dataclass(frozen=True, eq=False, slots=True)
class AskedScene:
    """One scene's questions and, where they are known, the true answers: (A, D) embeddings each."""

    questions: tuple[str, ...]
    answers: tuple[torch.Tensor, ...] = ()


def own_questions(loaded: LoadedModel, scene: Scene, source: str) -> AskedScene:
    """The questions with a text that `ada3d eval synthetic` asks this generated room.

    Raises ConfigError for a source that is no generated room.
    """
    room = room_of(source)
    if room is None:
        raise ConfigError(
            f"--own-questions: {source} is no generated room (room:SEED, test-room:SEED), and"
            " nobody knows what it is asked; name questions with --questions."
        )
    split, level, seed = room
    graph = graphs(make_rooms(split, torch.tensor([seed]), level))[0]
    asked = [question for question in questions_of(graph, seed) if not question.phrase]
    answers = [true_answer(loaded, graph, question, scene.origin_m) for question in asked]
    return AskedScene(tuple(question.text for question in asked), tuple(answers))


@torch.inference_mode()
def true_answer(
    loaded: LoadedModel,
    graph: Graph,
    question: RoomQuestion,
    origin_m: Origin = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Embeddings (A, D): the places that the answer rests on, where the model points, and its
    words, the end of the sequence left out.
    """
    model = loaded.model
    numbers = question.places[:MAX_PLACES] if model.config.point_id >= 0 else ()
    centers = {thing.number: thing.center_m for thing in graph.things}
    x_m, y_m, z_m = origin_m
    points: list[Point] = [
        (x - x_m, y - y_m, z - z_m) for x, y, z in (centers[number] for number in numbers)
    ]
    if question.egocentric and len(points) == len(question.places) > 2:
        points[-1] = egocentric(points[-3], points[-2], points[-1])
    ids = torch.tensor(loaded.tokenizer.encode_text(question.answer), device=model.device)
    return torch.cat((model.encode_clicks(points), model.decoder.embed(ids)))
