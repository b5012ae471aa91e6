"""Pointing before speaking written out, in float64: each step anew from the first layer, without a
cache, the head, the click encoder and the egocentric frame by their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.types import PromptSequence
from test.support.decoders import rotated
from test.support.slow_engine import normed

Kept = Sequence[Sequence[int]]  # spatial tokens of each layer
RADIUS_M, MOST = 0.8, 8


@dataclass
class SlowAnswer:
    """token_ids without the end; of each token that points: what is fed, whether that is
    egocentric, and centre and size of the head's box, in the model's world.
    """

    token_ids: list[int] = field(default_factory=list)
    fed_m: list[list[float]] = field(default_factory=list)
    egocentric: list[bool] = field(default_factory=list)
    center_m: list[list[float]] = field(default_factory=list)
    size_m: list[list[float]] = field(default_factory=list)
    placed_at: list[int] = field(default_factory=list)  # indices of their tokens

    def cut(self, limit: int) -> None:
        """As if it had ended after so many tokens."""
        del self.token_ids[limit:]
        places = sum(at < limit for at in self.placed_at)
        for values in (self.fed_m, self.egocentric, self.center_m, self.size_m):
            del values[places:]


def slow_answer(
    loaded: LoadedModel,
    prompt: PromptSequence,
    seen: Kept,
    alive: Kept,
    limit: int,
    eight_bits: bool = False,
) -> SlowAnswer:
    """seen: what the question sees of the scene in each layer, of those `alive` there; eight_bits:
    keys and values of the prompt are rounded.
    """
    model, answer = loaded.model, SlowAnswer()
    config, decoder = model.config, model.decoder
    assert loaded.head is not None
    assert prompt.xyz_m is not None
    xyz_m = prompt.xyz_m.double()[list(seen[-1])]
    rows, centers = prompt.embeds.double(), list[torch.Tensor]()
    while len(answer.token_ids) < limit:
        states = final_states(decoder, prompt, rows, (seen, alive), eight_bits)
        logits = states[-1] @ decoder.lm_head.weight.double().T

        # Which tokens may point now.
        if len(centers) >= MOST:
            logits[config.point_id] = -math.inf
        if not 2 <= len(centers) < MOST:
            logits[config.egocentric_point_id] = -math.inf
        token = int(logits.argmax())
        if token in config.decoder.eos_ids:
            break
        answer.token_ids.append(token)

        # The token, or the place in its stead.
        row = decoder.embed_tokens.weight.double()[token]
        if token in (config.point_id, config.egocentric_point_id):
            center, size = first_box(loaded.head.head, states[-1], states[:-1], xyz_m)
            egocentric = token == config.egocentric_point_id
            fed = egocentric_point(center, *centers[-2:]) if egocentric else center
            centers.append(center)
            answer.placed_at.append(len(answer.token_ids) - 1)
            answer.fed_m.append(fed.tolist())
            answer.egocentric.append(egocentric)
            answer.center_m.append(center.tolist())
            answer.size_m.append(size.tolist())
            row = click(model.click_encoder, fed)
        rows = torch.cat((rows, row[None]))
    return answer


def final_states(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    rows: torch.Tensor,
    kept: tuple[Kept, Kept],
    eight_bits: bool,
) -> torch.Tensor:
    """Final normed states (n + 1, D): of the spatial tokens that the last layer shows, and of the
    last row.
    """
    (start, stop), config = prompt.spatial_span, decoder.config
    first = int(prompt.positions[stop])
    positions = torch.cat((prompt.positions[:stop], first + torch.arange(len(rows) - stop)))
    text = len(prompt.embeds)
    here, hidden = list(range(len(rows))), rows
    for index, block in enumerate(decoder.layers):
        seen, alive = (set(range(start)) | {start + i for i in one[index]} for one in kept)
        stay = [i for i, row in enumerate(here) if row >= stop or row in alive]
        here, hidden = [here[i] for i in stay], hidden[stay]
        x = normed(decoder, hidden) * block.input_layernorm.weight.double()

        # Queries, keys and values (heads, T, d).
        q, k, v = (
            (x @ getattr(block.self_attn, f"{name}_proj").weight.double().T)
            .unflatten(1, (-1, config.head_dim))
            .transpose(0, 1)
            for name in "qkv"
        )
        at = positions[here]
        q, k = rotated(q, at, config.rope_theta), rotated(k, at, config.rope_theta)
        if eight_bits:
            old = torch.tensor([row < text for row in here])[:, None]
            k, v = (torch.where(old, rounded(vectors), vectors) for vectors in (k, v))
        k, v = (t.repeat_interleave(config.num_heads // config.num_kv_heads, dim=0) for t in (k, v))

        # The scene looks back at what is alive, the question at what it may see, and at itself.
        place, visible = torch.tensor(here), torch.tensor([b in seen or b >= stop for b in here])
        sees = (place <= place[:, None]) & (visible | (place < stop)[:, None])
        scores = (q @ k.transpose(1, 2) / math.sqrt(config.head_dim)).masked_fill(~sees, -math.inf)
        mixed = (torch.softmax(scores, dim=-1) @ v).transpose(0, 1).flatten(1)
        hidden = hidden + mixed @ block.self_attn.o_proj.weight.double().T

        # The gated MLP.
        y = normed(decoder, hidden) * block.post_attention_layernorm.weight.double()
        gate, up = (y @ getattr(block.mlp, f"{n}_proj").weight.double().T for n in ("gate", "up"))
        activated = gate / (1 + torch.exp(-gate)) * up
        hidden = hidden + activated @ block.mlp.down_proj.weight.double().T
    shown = [here.index(start + i) for i in kept[0][-1]]
    return (normed(decoder, hidden) * decoder.norm.weight.double())[[*shown, -1]]


def rounded(vectors: torch.Tensor) -> torch.Tensor:
    """Each vector (..., d) to 127 steps of its largest element each way."""
    scale = vectors.abs().amax(dim=-1, keepdim=True) / 127
    return (vectors / scale).round() * scale


def first_box(
    head: GroundingHead, query: torch.Tensor, tokens: torch.Tensor, xyz_m: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and size (3,) of the strongest peak of query (D,) over tokens (N, D)."""
    w = {name: value.double() for name, value in head.state_dict().items()}
    asked = w["query_proj.weight"] @ query + w["query_proj.bias"]
    keys = tokens @ w["key_proj.weight"].T + w["key_proj.bias"]
    weights = torch.softmax(keys @ asked / math.sqrt(len(asked)), dim=0)

    # The strongest token and those around it.
    top = int(weights.argmax())
    near = [math.dist(p, xyz_m[top].tolist()) <= RADIUS_M for p in xyz_m.tolist()]
    share = torch.where(torch.tensor(near), weights, 0.0)
    share = share / share.sum()

    # Mean and spread, and what the regression makes of them.
    mean = (share[:, None] * xyz_m).sum(0)
    spread = ((share[:, None] * (xyz_m - mean) ** 2).sum(0) + 1e-8).sqrt()
    x = torch.cat((query, share @ tokens, spread))
    x = w["box.0.weight"] @ x + w["box.0.bias"]
    x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    x = w["box.2.weight"] @ x + w["box.2.bias"]
    return mean + x[:3], x[3:].clamp(-3.0, 1.5).exp()


def egocentric_point(
    place: torch.Tensor, origin: torch.Tensor, faced: torch.Tensor
) -> torch.Tensor:
    """Turned about z, so that the way from origin to faced is ahead."""
    angle = math.atan2(float(faced[1] - origin[1]), float(faced[0] - origin[0]))
    x, y = (place - origin)[:2].tolist()
    turned = complex(x, y) * complex(math.cos(angle), -math.sin(angle))
    return torch.tensor([turned.real, turned.imag, float(place[2])], dtype=torch.float64)


def click(encoder: torch.nn.Module, point: torch.Tensor) -> torch.Tensor:
    """Linear, layer norm, ReLU, linear."""
    w = {name: value.double() for name, value in encoder.state_dict().items()}
    x = w["0.weight"] @ point + w["0.bias"]
    x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * w["1.weight"] + w["1.bias"]
    return w["3.weight"] @ x.clamp(min=0) + w["3.bias"]
