"""Boxes of a free phrase: those that the grounding head points at, or, without a head, what stands
where the phrase is attended to.

Called once the answer's text is there, so a caller who stops it (`hooks.check` raises a
RequestError) loses boxes, never the text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.streaming import generate_text, stop_asked
from ada3d_ros.errors import RequestError
from ada3d_ros.grounding.from_attention import (
    MIN_SHARE,
    NEUTRAL_PHRASE,
    attention_to_scene,
    find_peak,
    guess_at,
)
from ada3d_ros.grounding.from_head import point_at
from ada3d_ros.grounding.from_text import boxes_near, refine_boxes
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.grounding_head import LoadedHead
from ada3d_ros.types import AskHooks, Box3D, PromptSequence, Question, RgbdFrame

logger = logging.getLogger(__name__)

GROUNDING_PROMPT = "Please output the 3D bounding box of {phrase}."
LOCATED_PROMPT = (
    "The related object is located at [{x:.3f}, {y:.3f}, {z:.3f}]. Please output the 3D bounding"
    " box of the object and then describe the object."
)
NOT_SEEN = "I have not seen {phrase}."


def point_at_phrase(
    head: LoadedHead,
    prefilled: PrefillOutput,
    xyz_m: torch.Tensor,
    question: Question,
    config: AgentConfig,
    frames: Sequence[RgbdFrame],
    text: str,
    hooks: AskHooks,
) -> tuple[tuple[Box3D, ...], str]:
    """Boxes of the grounding head at the tokens that pruning kept, refined against depth, and the
    answer's text.

    prefilled: with states; xyz_m (N, 3) float32 of all spatial tokens of its prompt. The text is
    NOT_SEEN where nothing was found, and stays `text` where the search was stopped before it found
    anything. Raises ModelError where the head's output is not finite.
    """
    assert prefilled.states is not None
    limits = config.boxes
    guesses = point_at(
        head,
        prefilled.states,
        xyz_m[prefilled.kept[-1]],
        question.phrase,
        question.max_boxes or limits.max_count,
        question.min_score or limits.min_score,
    )
    boxes = refine_boxes(guesses, frames, limits.min_support_points, hooks.check)
    found_nothing = not boxes and stop_asked(hooks) is None
    return boxes, NOT_SEEN.format(phrase=question.phrase) if found_nothing else text


def find_by_relevance(
    loaded: LoadedModel,
    question: Question,
    asked: PromptSequence,
    xyz_m: torch.Tensor,
    config: AgentConfig,
    max_new_tokens: int,
    frames: Sequence[RgbdFrame],
    build: Callable[[str], PromptSequence],
    run: Callable[[PromptSequence], PrefillOutput],
    read_boxes: Callable[[str], tuple[Box3D, ...]],
    hooks: AskHooks,
) -> tuple[Box3D, ...]:
    """Where the phrase is attended to, a box that the model writes of that place, or the surface
    that depth shows there.

    asked: the prompt with the phrase; xyz_m (N, 3) float32 of its spatial tokens; build makes a
    prompt of other words about the same scene, run is its unpruned prefill; read_boxes finds the
    supported boxes of a text. () where nothing stands out, when stopped, or where a prompt gets too
    long.
    """
    try:
        attended = []
        for phrase, prompt in (
            (question.phrase, asked),
            (NEUTRAL_PHRASE, build(GROUNDING_PROMPT.format(phrase=NEUTRAL_PHRASE))),
        ):
            hooks.check()
            rows = len(loaded.tokenizer.encode(f"{phrase}. ASSISTANT:")) - 1
            attended.append(attention_to_scene(loaded.model.decoder, prompt, rows))
        peak = find_peak(attended[0], attended[1], xyz_m)
        if peak is None or peak.share < (
            question.min_score or max(config.boxes.min_score, MIN_SHARE)
        ):
            return ()
        x, y, z = peak.xyz_m.tolist()
        hooks.check()
        located = run(build(LOCATED_PROMPT.format(x=x, y=y, z=z)))
        _, text = generate_text(
            loaded, located, config.generation, max_new_tokens, AskHooks(check=hooks.check)
        )
        guess = guess_at(peak, xyz_m, question.phrase)
        return boxes_near(
            guess, read_boxes(text), frames, config.boxes.min_support_points, hooks.check
        )
    except RequestError as error:
        logger.info("no box for %r by relevance: %s", question.phrase, error)
        return ()
