"""The rival of benchmarks: transformers' LlamaForCausalLM.generate with the very weights of our decoder.

As a user would run it: SDPA, static KV cache, greedy; on CUDA the decode step compiled, which is its default there.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ada3d_ros.engine.timing import synchronize
from ada3d_ros.errors import ModelError
from ada3d_ros.eval.bench import Timing
from ada3d_ros.model.decoder import LlamaDecoder

CHECKED_TOKENS = 12
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of the logits' norm


class TransformersRival:
    """LlamaForCausalLM on the tensors of `decoder`, none copied. Raises ModelError where its logits are not ours."""

    def __init__(self, decoder: LlamaDecoder) -> None:
        config, device = decoder.config, decoder.device
        sizes: dict[str, Any] = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "max_position_embeddings": config.max_positions,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "tie_word_embeddings": False,
            "attn_implementation": "sdpa",
        }
        shape = LlamaConfig(**sizes)
        with torch.device("meta"):
            self.model = LlamaForCausalLM(shape).eval().requires_grad_(False)
        state = {
            f"{'' if name.startswith('lm_head') else 'model.'}{name}": t for name, t in decoder.state_dict().items()
        }
        self.model.load_state_dict(state, assign=True)
        self.model.model.rotary_emb = LlamaRotaryEmbedding(shape).to(device)  # its tables are in no state dict
        self.model.generation_config.eos_token_id = None
        self._compile = device.type == "cuda"
        self._check(decoder)

    def total(self, prompt: torch.Tensor, tokens: int, streamer: BaseStreamer | None = None) -> list[int]:
        """Ids of exactly `tokens` greedy tokens after prompt (T, D), prefill included."""
        ids = self.model.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64, device=prompt.device),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            disable_compile=not self._compile,
            pad_token_id=0,
            streamer=streamer,
        )
        return [int(i) for i in ids[0]]

    def decode(self, prompt: torch.Tensor, tokens: int) -> Timing:
        """Time from the first token to the last of `tokens` + 1: that many steps."""
        clock = _Clock(prompt.device)
        self.total(prompt, tokens + 1, clock)
        first, last = clock.marks[-tokens - 1], clock.marks[-1]
        return Timing(last.wall_s - first.wall_s, last.cpu_s - first.cpu_s)

    @torch.inference_mode()
    def _check(self, decoder: LlamaDecoder) -> None:
        generator = torch.Generator().manual_seed(0)
        embeds = torch.randn(1, CHECKED_TOKENS, decoder.config.hidden_size, generator=generator)
        embeds, positions = (
            embeds.to(decoder.device, decoder.dtype),
            torch.arange(CHECKED_TOKENS, device=decoder.device),
        )
        ours = decoder.logits(decoder.run_layers(0, decoder.config.num_layers, embeds, positions)).float()
        theirs = self.model(inputs_embeds=embeds).logits.float()
        error, allowed = float((ours - theirs).norm() / ours.norm()), TOLERANCE.get(decoder.dtype, 0.05)
        if not error <= allowed:
            raise ModelError(
                f"transformers computes something else with these weights: its logits are {error:.1e} off, {allowed:g} is allowed."
            )


class _Clock(BaseStreamer):
    """The time at which each token was there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: list[Timing] = []

    def put(self, value: torch.Tensor) -> None:
        if len(value.flatten()) == 1:  # the prompt, of no ids, comes first
            self._mark()

    def end(self) -> None:
        synchronize(self._device)

    def _mark(self) -> None:
        self.marks.append(Timing(time.perf_counter(), time.process_time()))
