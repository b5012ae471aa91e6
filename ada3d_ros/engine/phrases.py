"""Many phrases at once on the cached scene: the final states that a grounding head points with, and
how likely given words are as answers.

Each phrase is a question after the scene tokens; nothing is decoded. All of a batch attend to the
prefix where it lies, whole or as it was pruned while it was built; nothing is selected from it for
one phrase. So each state is that of the phrase asked alone with a keep ratio of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.batch import SharedPrefixAttention
from ada3d_ros.engine.prefill import not_finite
from ada3d_ros.engine.query_context import in_model
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.timing import on_device
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.decoder import attention_mask
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID, parse_coordinates


@torch.inference_mode()
def question_states(
    loaded: LoadedModel, prefix: ScenePrefix, questions: Sequence[str], conversation: str
) -> torch.Tensor:
    """Normed hidden states (B, D) of the last prompt tokens of `questions` about the scene of a
    prefix that is ready; the prefix stays as it is.

    conversation: of the prompt template. Raises QuestionTooLongError, ModelError where a state is
    not finite.
    """
    decoder = loaded.model.decoder
    tokens = [_tokens_after_scene(loaded, text, conversation) for text in questions]
    return _last_states(loaded, prefix, [decoder.embed(ids.to(decoder.device)) for ids in tokens])


@torch.inference_mode()
def answer_probabilities(
    loaded: LoadedModel,
    prefix: ScenePrefix,
    asked: Sequence[tuple[str, str]],
    conversation: str,
) -> list[float]:
    """Of each (question, words): how likely an answer is that begins with the words, the product
    over their tokens; about the scene of a prefix that is ready, which stays as it is.

    Places in a question are of the world frame. Raises as `question_states`, InvalidRequestError
    for square brackets that hold no place.
    """
    # Each token after those before it, all in one batch.
    origin_m = loaded.model.origin_of(prefix.scene)
    rows, targets, counts = list[torch.Tensor](), list[int](), list[int]()
    for question, words in asked:
        text, clicked = parse_coordinates(question)
        ids = _tokens_after_scene(loaded, text, conversation)
        answer = loaded.tokenizer.encode_text(words)
        clicks = loaded.model.encode_clicks([in_model(point, origin_m) for point in clicked])
        whole = _embeds(loaded, torch.cat((ids, torch.tensor(answer))), clicks)
        rows += [whole[: len(ids) + i] for i in range(len(answer))]
        targets += answer
        counts.append(len(answer))

    # What the model says there.
    states = _last_states(loaded, prefix, rows)
    logits = loaded.model.decoder.lm_head(states).float()
    index = torch.tensor(targets, device=logits.device)[:, None]
    likely = logits.softmax(-1).gather(1, index)[:, 0]
    return [math.prod(part.tolist()) for part in likely.split(counts)]


def _embeds(loaded: LoadedModel, ids: torch.Tensor, clicks: torch.Tensor) -> torch.Tensor:
    """Embeddings (T, D) of ids (T,), each CLICK_ID replaced by the next of clicks (n, D)."""
    decoder = loaded.model.decoder
    ids = ids.to(decoder.device)
    embeds = decoder.embed(ids.clamp(min=0)).clone()
    embeds[ids == CLICK_ID] = clicks
    return embeds


def _last_states(
    loaded: LoadedModel, prefix: ScenePrefix, rows: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Normed states (B, D) of the last of each row (T_i, D) after the scene tokens."""
    # Padded on the left: the last column is every row's last.
    decoder = loaded.model.decoder
    embeds = pad_sequence(list(rows), batch_first=True, padding_side="left")
    width = embeds.shape[1]
    room = decoder.config.max_positions - prefix.next_position
    if width > room:
        raise QuestionTooLongError(
            f"a question of {width} tokens does not fit after the scene: {room} positions are"
            " left. Use shorter names, or keep fewer views (keyframe.max_views)."
        )

    # Where each token stands, and what is padding.
    lengths = torch.tensor([len(own) for own in rows], device=decoder.device)
    columns = torch.arange(width, device=decoder.device) - (width - lengths)[:, None]
    positions = (prefix.next_position + columns).clamp(min=0)
    mask = attention_mask(0, width, columns >= 0)

    # Through the layers; nothing is kept of them, since nothing follows.
    prefix.crop()
    with on_device(decoder.device):
        attend = SharedPrefixAttention(prefix.cache, lambda _, k, v: (k, v), mask)
        hidden, rope = embeds, decoder.rope(positions)
        for layer in range(decoder.config.num_layers):
            hidden = decoder.run_layer(layer, hidden, rope, attend)
        states: torch.Tensor = decoder.norm(hidden[:, -1])
    if not bool(torch.isfinite(states).all()):
        raise not_finite(states.dtype)
    return states


def _tokens_after_scene(loaded: LoadedModel, text: str, conversation: str) -> torch.Tensor:
    """Token ids (T,) int64 of a question's prompt after its scene placeholder."""
    ids = loaded.tokenizer.encode_question(text, conversation)
    return torch.tensor(ids[ids.index(IMAGE_ID) + 1 :], dtype=torch.int64)
