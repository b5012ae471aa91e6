"""Asked without a scene: the model's own prompt without a spatial token, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ada3d_ros.lab.evaluation.blind import answer_blindly
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.selection import GROUNDED_KINDS, TEXT_KINDS, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import evaluate
from ada3d_ros.lab.evaluation.words_alone import WordsAlone
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline


@pytest.fixture(scope="module")
def pipeline() -> Ada3DPipeline:
    return open_pipeline(embedded_model_path(), "none", None, {"model.device": "cpu"})


def full_forward(pipeline: Ada3DPipeline, question: str) -> str:
    """Token by token, everything computed anew each time."""
    loaded = pipeline.model
    ids = [i for i in loaded.tokenizer.encode_question(question) if i != IMAGE_ID]
    config, new = loaded.model.config, list[int]()
    points = config.point_id, config.egocentric_point_id
    while len(new) < 12 and loaded.tokenizer.eos_id not in new:
        logits = next_logits(loaded.model.decoder, [*ids, *new]).clone()
        logits[list(points)] = -torch.inf  # there is nothing to point at
        new.append(int(logits.argmax()))
    return loaded.tokenizer.decode(new).strip()


@torch.inference_mode()
def next_logits(decoder: LlamaDecoder, ids: list[int]) -> torch.Tensor:
    from ada3d_ros.engine.prefill import prefill
    from ada3d_ros.types import PromptSequence

    embeds = decoder.embed(torch.tensor(ids))
    prompt = PromptSequence(embeds, torch.arange(len(ids)), (0, 0))
    return prefill(decoder, prompt).logits


def test_the_answer_is_that_of_the_words_alone(pipeline: Ada3DPipeline) -> None:
    for question in ("Is there a chair?", "What color is the table?", "How many lamps are there?"):
        assert answer_blindly(pipeline.model, question, 12) == full_forward(pipeline, question)


def test_all_rooms_get_the_same_answer_and_texts_alone_are_asked_for(
    pipeline: Ada3DPipeline,
) -> None:
    selection = RoomSelection(scenes=3)
    questions = [q for room in rooms_of(selection, None) for q in room.questions]
    learner = WordsAlone(q for q in questions if not q.phrase)
    results = evaluate(pipeline, selection, blind=learner)
    asked = [question for question in questions if question.kind not in GROUNDED_KINDS]
    assert results["n"] == len(asked)
    assert results["blind"]
    for kind in TEXT_KINDS:
        of_kind = [question for question in asked if question.kind == kind]
        answers = [answer_blindly(pipeline.model, q.text, 12) for q in of_kind]
        right = [
            text.removeprefix("a ") == q.answer.removeprefix("a ")
            for text, q in zip(answers, of_kind, strict=True)
        ]
        assert results["details"][kind]["n"] == len(of_kind)
        if of_kind:
            assert results["metrics"][kind] == pytest.approx(sum(right) / len(right)), kind
            learned = [learner.answer(q) == q.answer for q in of_kind]
            assert results["words_alone"][kind]["value"] == pytest.approx(np.mean(learned))
    assert results["details"]["grounding_unique_acc25"]["n"] == 0
    assert pipeline.scene_state().num_keyframes == 0


def asked(text: str, answer: str, kind: str = "color") -> RoomQuestion:
    return RoomQuestion(kind, text, answer)


def test_a_learner_of_words_finds_what_words_give_away_and_nothing_else() -> None:
    leak = [
        asked(f"What color is the {c}?", "red" if c == "bed" else "blue") for c in ("bed", "ball")
    ]
    learner = WordsAlone(leak * 5)
    assert learner.answer(asked("What color is the bed?", "")) == "red"
    assert learner.answer(asked("what color is the ball", "")) == "blue"
    assert learner.answer(asked("What color is the bed?", "", "caption")) == ""

    # Where words say nothing it is the most frequent answer.
    answers = ["yes"] * 3 + ["no"] * 4
    learner = WordsAlone(asked("Is there a bed?", answer, "existence") for answer in answers)
    assert learner.answer(asked("Is there a bed?", "", "existence")) == "no"


def test_the_learner_is_naive_bayes_as_counted_by_hand() -> None:
    """P(red) = 2/3; the word bed in 1 of 2 red and in 1 of 1 blue: (1 + 1) / (2 + 2), 2 / 3."""
    learner = WordsAlone([asked("the bed", "red"), asked("the ball", "red"), asked("bed", "blue")])
    question = asked("bed", "")
    scores = {a: learner.log_score("color", a, {"bed"}) for a in ("red", "blue")}
    assert scores["red"] == pytest.approx(np.log(2) + np.log(2 / 4))
    assert scores["blue"] == pytest.approx(np.log(1) + np.log(2 / 3))
    assert learner.answer(question) == "red"
