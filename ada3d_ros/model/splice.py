"""A prompt's embeddings: text, with a scene's tokens and clicked points in their places."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.errors import InvalidRequestError, QuestionTooLongError
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.types import PromptSequence


def splice_prompt(
    decoder: LlamaDecoder,
    ids: Sequence[int],
    visual: torch.Tensor | None,
    clicks: torch.Tensor | None,
    xyz_m: torch.Tensor | None,
    max_length: int,
    truncate: bool,
    click_token: str = "<boxes>",
) -> PromptSequence:
    """The embeddings of a prompt: text, spatial tokens and clicks.

    ids: of the text, each IMAGE_ID replaced by `visual` (N, D), each CLICK_ID by the next of
    `clicks` (n, D). xyz_m (N, 3): where the visual tokens lie, kept for strategies that rank by
    place. truncate: a longer prompt loses its end. click_token: as the model writes CLICK_ID.
    Raises InvalidRequestError where placeholders and embeddings differ in number,
    QuestionTooLongError beyond max_length tokens.
    """
    # As many placeholders as there is to put in.
    ids = list(ids)
    num_clicks = 0 if clicks is None else clicks.shape[0]
    _check_count("<image>", ids.count(IMAGE_ID), int(visual is not None), "image or scene")
    _check_count(click_token, ids.count(CLICK_ID), num_clicks, "coordinate(s)")

    # Text and clicks, one embedding each; placeholder ids are below 0.
    token_ids = torch.tensor(ids, dtype=torch.int64)
    embeds = decoder.embed(to_device(token_ids.clamp(min=0), decoder.device))
    if clicks is not None:
        clicked = torch.nonzero(token_ids == CLICK_ID)[:, 0]
        embeds.index_copy_(0, to_device(clicked, decoder.device), clicks.to(embeds.dtype))

    # The image or scene in the place of its placeholder.
    start = stop = 0
    if visual is not None:
        start = ids.index(IMAGE_ID)
        stop = start + visual.shape[0]
        embeds = torch.cat((embeds[:start], visual.to(embeds.dtype), embeds[start + 1 :]))

    # No longer than the model has positions.
    if embeds.shape[0] > max_length and not truncate:
        raise QuestionTooLongError(
            f"the prompt has {embeds.shape[0]} tokens ({stop - start} of them spatial), the"
            f" model takes {max_length}: ask a shorter question or keep fewer views"
            " (keyframe.max_views)."
        )
    embeds, start, stop = embeds[:max_length], min(start, max_length), min(stop, max_length)
    positions = torch.arange(embeds.shape[0], device=decoder.device)
    places = None if xyz_m is None else xyz_m[: stop - start]
    return PromptSequence(embeds, positions, (start, stop), places)


def _check_count(placeholder: str, wanted: int, given: int, what: str) -> None:
    if wanted != given:
        raise InvalidRequestError(
            f"the prompt has {wanted} {placeholder} placeholder(s), but {given} {what} were given."
        )
