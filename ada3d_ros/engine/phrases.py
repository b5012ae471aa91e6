"""Many phrases at once on the cached scene: the final states that a grounding head points with.

Each phrase is a question after the scene tokens; nothing is decoded. All of a batch attend to the
prefix where it lies, whole or as it was pruned while it was built; nothing is selected from it for
one phrase. So each state is that of the phrase asked alone with a keep ratio of 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.batch import SharedPrefixAttention
from ada3d_ros.engine.prefill import not_finite
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.timing import on_device
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.decoder import attention_mask
from ada3d_ros.model.prompt import IMAGE_ID


@torch.inference_mode()
def question_states(
    loaded: LoadedModel, prefix: ScenePrefix, questions: Sequence[str], conversation: str
) -> torch.Tensor:
    """Normed hidden states (B, D) of the last prompt tokens of `questions` about the scene of a
    prefix that is ready; the prefix stays as it is.

    conversation: of the prompt template. Raises QuestionTooLongError, ModelError where a state is
    not finite.
    """
    # The tokens after the scene, padded on the left: the last column is every question's last.
    decoder = loaded.model.decoder
    tokens = [_tokens_after_scene(loaded, text, conversation) for text in questions]
    ids = pad_sequence(tokens, batch_first=True, padding_side="left").to(decoder.device)
    width = ids.shape[1]
    room = decoder.config.max_positions - prefix.next_position
    if width > room:
        raise QuestionTooLongError(
            f"a question of {width} tokens does not fit after the scene: {room} positions are"
            " left. Use shorter names, or keep fewer views (keyframe.max_views)."
        )

    # Where each token stands, and what is padding.
    lengths = torch.tensor([len(own) for own in tokens], device=decoder.device)
    columns = torch.arange(width, device=decoder.device) - (width - lengths)[:, None]
    positions = (prefix.next_position + columns).clamp(min=0)
    mask = attention_mask(0, width, columns >= 0)

    # Through the layers; nothing is kept of them, since nothing follows.
    prefix.crop()
    with on_device(decoder.device):
        attend = SharedPrefixAttention(prefix.cache, lambda _, k, v: (k, v), mask)
        hidden, rope = decoder.embed(ids), decoder.rope(positions)
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
