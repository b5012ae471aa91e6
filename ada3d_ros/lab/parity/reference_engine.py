"""The slow, obviously right engine: no cache, attention written out, everything anew per token.

float32 throughout. The fast path (prefill.py, decode.py) must equal it token for token. It shares
only the weights with the decoder's code.
"""

from __future__ import annotations

import math

import torch

from ada3d_ros.engine.decode import Sampler, greedy
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence

Weights = dict[str, torch.Tensor]


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps) * weight


def _rotate(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """x (T, d): the pair (i, i + d/2) turned by position / theta^(2i/d)."""
    half = x.shape[1] // 2
    period = theta ** (torch.arange(half, device=x.device) / half)
    angle = positions[:, None].float() / period  # (T, d/2)
    a, b = x[:, :half], x[:, half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=1)


def _attend(
    x: torch.Tensor, positions: torch.Tensor, weights: Weights, config: DecoderConfig
) -> torch.Tensor:
    """Causal self-attention of x (T, D), head by head; grouped heads share keys and values."""
    q, k, v = (
        x @ weights[f"self_attn.{name}_proj.weight"].T
        + weights.get(f"self_attn.{name}_proj.bias", x.new_zeros(1))
        for name in "qkv"
    )
    d, outputs = config.head_dim, []
    future = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    for head in range(config.num_heads):
        group = head * config.num_kv_heads // config.num_heads
        q_head = _rotate(q[:, head * d : (head + 1) * d], positions, config.rope_theta)
        k_head = _rotate(k[:, group * d : (group + 1) * d], positions, config.rope_theta)
        scores = (q_head @ k_head.T / math.sqrt(d)).masked_fill(future, -math.inf)
        outputs.append(torch.softmax(scores, dim=-1) @ v[:, group * d : (group + 1) * d])
    return torch.cat(outputs, dim=1) @ weights["self_attn.o_proj.weight"].T


@torch.inference_mode()
def reference_logits(
    decoder: LlamaDecoder, embeds: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Logits (T, vocab) float32 of embeds (T, D) at positions (T,), all layers anew."""
    config, x = decoder.config, embeds.float()
    eps = config.rms_norm_eps
    for layer in decoder.layers:
        weights = {name: tensor.float() for name, tensor in layer.state_dict().items()}

        # Attention, with its residual.
        y = _norm(x, weights["input_layernorm.weight"], eps)
        x = x + _attend(y, positions, weights, config)

        # Gated MLP (SiLU), with its residual.
        y = _norm(x, weights["post_attention_layernorm.weight"], eps)
        gate = y @ weights["mlp.gate_proj.weight"].T
        up = y @ weights["mlp.up_proj.weight"].T
        x = x + (gate / (1 + torch.exp(-gate)) * up) @ weights["mlp.down_proj.weight"].T
    return _norm(x, decoder.norm.weight.float(), eps) @ decoder.lm_head.weight.float().T


@torch.inference_mode()
def reference_generate(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    max_new_tokens: int,
    sampler: Sampler = greedy,
    repetition_penalty: float = 1.0,
) -> tuple[list[int], torch.Tensor]:
    """Generated ids without the end-of-sequence id, and the logits each was chosen from.

    logits: (steps, vocab) float32, before the penalty.
    """
    embeds, positions = prompt.embeds.float(), prompt.positions
    ids, steps = list[int](), list[torch.Tensor]()
    while len(ids) < max_new_tokens:
        steps.append(reference_logits(decoder, embeds, positions)[-1])
        offered = steps[-1].clone()
        for said in set(ids):
            factor = repetition_penalty if offered[said] < 0 else 1 / repetition_penalty
            offered[said] *= factor
        token = sampler(offered)
        if int(token) in decoder.config.eos_ids:
            break
        ids.append(int(token))
        embeds = torch.cat((embeds, decoder.embed(token.view(1)).float()))
        positions = torch.cat((positions, positions[-1:] + 1))
    return ids, torch.stack(steps)
