"""One training step's forward pass: packed questions behind their rooms, and the losses.

The layers are the decoder's own modules; only the attention is arranged anew: scene rows see scene rows, a question's rows see the scene and
themselves. A test holds the result against the engine's prefill of each question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F

from ada3d_ros.model.decoder import DecoderLayer, LlamaDecoder, apply_rope, rope_tables
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import CLICK_ID
from ada3d_ros.train.packing import PackedQuestions
from ada3d_ros.train.tokens import RoomTokens

POINTER_WEIGHT, PRESENCE_WEIGHT, BOX_WEIGHT = 0.5, 0.3, 1.0
OWNED_SHARE = 0.4  # a token belongs to an object that this share of its patches lie on


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """states: final normed hidden states, scene (B, P, D) with spatial rows (B, N, D) cut out of it, text (B, M, D); mask (B, N) bool;
    xyz_m (B, N, 3); owner (B, N, O)."""

    text: torch.Tensor
    spatial: torch.Tensor
    mask: torch.Tensor
    xyz_m: torch.Tensor
    owner: torch.Tensor


def run_packed(
    model: Llava3D, prefix_ids: Sequence[int], rooms: Sequence[RoomTokens], packed: PackedQuestions
) -> Packed:
    """Final normed states of all rows."""
    decoder, start = model.decoder, len(prefix_ids)
    counts = [r.tokens.features.shape[0] for r in rooms]
    device = decoder.device
    visual = model.project(torch.cat([r.tokens.features for r in rooms])).split(counts)
    before = decoder.embed(torch.tensor(prefix_ids, device=device))
    scene = torch.nn.utils.rnn.pad_sequence(
        [torch.cat((before, rows.to(before.dtype))) for rows in visual], batch_first=True
    )
    length = torch.tensor(counts, device=device) + start
    text = decoder.embed(packed.ids.clamp(min=0))
    if len(packed.clicks):
        text = text.masked_scatter(
            (packed.ids == CLICK_ID)[..., None], model.click_encoder(packed.clicks).to(text.dtype)
        )
    scene_states, text_states = _run_layers(decoder, scene, length, text, packed)
    pad = torch.nn.utils.rnn.pad_sequence
    return Packed(
        text=decoder.norm(text_states),
        spatial=decoder.norm(scene_states[:, start:]),
        mask=torch.arange(max(counts), device=device)[None] < (length - start)[:, None],
        xyz_m=pad([r.tokens.xyz_m for r in rooms], batch_first=True),
        owner=pad([r.owner for r in rooms], batch_first=True),
    )


def _run_layers(
    decoder: LlamaDecoder, scene: torch.Tensor, length: torch.Tensor, text: torch.Tensor, packed: PackedQuestions
) -> tuple[torch.Tensor, torch.Tensor]:
    size, device, config = scene.shape[1], scene.device, decoder.config
    places = torch.cat(
        (torch.arange(size, device=device).expand(len(scene), -1), packed.offset + length[:, None]), dim=1
    )
    rope = rope_tables(places, config.head_dim, config.rope_theta, torch.float32)
    block, count = packed.block, packed.block.shape[1]
    causal = torch.arange(count, device=device)
    own = (block[:, :, None] == block[:, None]) & (causal[None, :, None] >= causal[None, None])
    sees_scene = (torch.arange(size, device=device)[None, None] < length[:, None, None]).expand(-1, count, -1)
    mask = torch.cat((sees_scene, own), dim=-1)[:, None]
    hidden = torch.cat((scene, text), dim=1)
    for layer in decoder.layers:
        hidden = _layer(cast(DecoderLayer, layer), hidden, rope, size, mask)
    return hidden[:, :size], hidden[:, size:]


def _layer(
    layer: DecoderLayer, hidden: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], size: int, mask: torch.Tensor
) -> torch.Tensor:
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    q, k = (
        apply_rope(make(normed).float(), rope) for make in (attention.queries, attention.keys)
    )  # float32: faster on CPUs
    v = attention.split_heads(attention.v_proj(normed)).float()
    out = torch.cat(
        (
            F.scaled_dot_product_attention(q[:, :, :size], k[:, :, :size], v[:, :, :size], is_causal=True),
            F.scaled_dot_product_attention(q[:, :, size:], k, v, attn_mask=mask),
        ),
        dim=2,
    )
    hidden = hidden + attention.o_proj(out.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def losses(
    decoder: LlamaDecoder, head: GroundingHead, states: Packed, packed: PackedQuestions
) -> tuple[torch.Tensor, dict[str, float]]:
    """The sum to minimise, and its parts for the log: answer tokens, pointing, presence, boxes."""
    rows = states.text[packed.row_room, packed.row_place]
    token_loss = F.cross_entropy(decoder.lm_head(rows).float(), packed.row_target, reduction="none")
    answer = (token_loss * packed.row_weight).sum() / len(packed.room)
    query = states.text[packed.room, packed.query].float()[:, None]  # (Q, 1, D)
    tokens, mask = states.spatial.float()[packed.room], states.mask[packed.room]
    logits, presence = head.point(query, tokens, mask)
    logits, presence = logits[:, 0], presence[:, 0]
    owned = (states.owner[packed.room] >= OWNED_SHARE) & mask[..., None]  # (Q, N, O)
    target = (owned & packed.evidence[:, None]).any(-1).float()
    seen = target.sum(-1) > 0
    log_weights = F.log_softmax(logits.masked_fill(~mask, -1e4), dim=-1)
    pointing = -(torch.logsumexp(log_weights + (target + 1e-9).log(), -1))[seen].sum() / len(seen)
    asked = packed.presence >= 0
    there = F.binary_cross_entropy_with_logits(presence[asked].float(), packed.presence[asked])
    want = torch.isfinite(packed.box_m[:, 0]) & seen
    box = _box_loss(
        head,
        query[want],
        tokens[want],
        log_weights[want],
        states.xyz_m[packed.room][want],
        packed.box_m[want],
        target[want],
    )
    total = answer + POINTER_WEIGHT * pointing + PRESENCE_WEIGHT * there + BOX_WEIGHT * box * want.float().mean()
    parts = {"answer": answer, "pointing": pointing, "presence": there, "box": box}
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _box_loss(
    head: GroundingHead, query: torch.Tensor, tokens: torch.Tensor, log_weights: torch.Tensor, xyz_m: torch.Tensor,
    box_m: torch.Tensor, target: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """L1 of centre (metres) and of log size, the weights being those on the object's own tokens, as they are at a clean peak."""
    if not len(query):
        return query.new_zeros(())
    weights = log_weights.detach().exp() * target + 1e-3 * target
    weights = weights / weights.sum(-1, keepdim=True)
    center, size = head.boxes(query, tokens, weights[:, None], xyz_m)
    return (center[:, 0] - box_m[:, :3]).abs().mean() + (size[:, 0].log() - box_m[:, 3:].log()).abs().mean()
