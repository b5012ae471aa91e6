"""The model without the scene: what it answers from the words of a question alone.

Real-3DQA's control for shortcuts. The prompt is the question's own with nothing in the scene's
place: no spatial token, so nothing to attend to and nothing to point at; coordinates that stand in
the question stay.
"""

from __future__ import annotations

import torch

from ada3d_ros.engine.decode import GenerationRequest, Sampler, decode
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import parse_coordinates


@torch.inference_mode()
def answer_blindly(loaded: LoadedModel, question: str, max_new_tokens: int) -> str:
    """The greedy text, "" where it is empty. Raises ModelError, InvalidRequestError."""
    model, (text, points) = loaded.model, parse_coordinates(question)
    nothing = torch.zeros(
        0, model.config.decoder.hidden_size, dtype=model.decoder.dtype, device=model.device
    )
    ids = loaded.tokenizer.encode_question(text)
    prompt = model.build_prompt(ids, nothing, model.encode_clicks(points))
    prefilled = prefill(model.decoder, prompt, max_new_tokens)
    request = GenerationRequest(max_new_tokens, _without_points(loaded))
    return loaded.tokenizer.decode(decode(model.decoder, prefilled, request).token_ids).strip()


def _without_points(loaded: LoadedModel) -> Sampler:
    """The most likely token that points at nothing."""
    config = loaded.model.config
    masked = [i for i in (config.point_id, config.egocentric_point_id) if i >= 0]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(masked, dtype=torch.int64), -torch.inf).argmax(-1)

    return choose
