"""The embeddings of a prompt: text, spatial tokens and clicks, whatever the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.errors import InvalidRequestError, QuestionTooLongError
from ada3d_ros.geometry.voxel import to_device
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.types import PromptSequence


def prompt_embeds(
    decoder: LlamaDecoder,
    ids: Sequence[int],
    visual: torch.Tensor | None,
    clicks: torch.Tensor | None = None,
    xyz_m: torch.Tensor | None = None,
    limit: int | None = None,
) -> PromptSequence:
    """ids: of the text, each IMAGE_ID replaced by `visual` (N, D), each CLICK_ID by the next of
    `clicks` (n, D). xyz_m (N, 3): where the visual tokens lie, kept for strategies that rank by
    place. Raises InvalidRequestError where placeholders and embeddings differ in number,
    QuestionTooLongError beyond `limit` tokens.
    """
    # As many placeholders as there is to put in.
    ids = list(ids)
    num_clicks = 0 if clicks is None else clicks.shape[0]
    _check_count("<image>", ids.count(IMAGE_ID), int(visual is not None), "image or scene")
    _check_count("<boxes>", ids.count(CLICK_ID), num_clicks, "coordinate(s)")

    # Text and clicks, one embedding each; placeholder ids are below 0.
    token_ids, device = torch.tensor(ids, dtype=torch.int64), decoder.device
    embeds = decoder.embed(to_device(token_ids.clamp(min=0), device))
    if clicks is not None:
        clicked = torch.nonzero(token_ids == CLICK_ID)[:, 0]
        embeds.index_copy_(0, to_device(clicked, device), clicks.to(embeds.dtype))

    # The image or scene in the place of its placeholder.
    start = stop = 0
    if visual is not None:
        start = ids.index(IMAGE_ID)
        stop = start + visual.shape[0]
        embeds = torch.cat((embeds[:start], visual.to(embeds.dtype), embeds[start + 1 :]))

    # No longer than the model has positions.
    if limit is not None and embeds.shape[0] > limit:
        raise QuestionTooLongError(
            f"the prompt has {embeds.shape[0]} tokens ({stop - start} of them spatial), the"
            f" model takes {limit}: ask a shorter question or keep fewer views"
            " (keyframe.max_views)."
        )
    positions = torch.arange(embeds.shape[0], device=device)
    return PromptSequence(embeds, positions, (start, stop), xyz_m)


def truncated(prompt: PromptSequence, limit: int) -> PromptSequence:
    """The first `limit` tokens, as LLaVA's reference cuts a long prompt."""
    start, stop = (min(end, limit) for end in prompt.spatial_span)
    places = None if prompt.xyz_m is None else prompt.xyz_m[: stop - start]
    return PromptSequence(prompt.embeds[:limit], prompt.positions[:limit], (start, stop), places)


def _check_count(placeholder: str, wanted: int, given: int, what: str) -> None:
    if wanted != given:
        raise InvalidRequestError(
            f"the prompt has {wanted} {placeholder} placeholder(s), but {given} {what} were given."
        )
