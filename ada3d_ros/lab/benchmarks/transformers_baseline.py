"""The rival that a user would pick: transformers' LlamaForCausalLM on the very same weights.

With SDPA attention and a static cache.
"""

from __future__ import annotations

import time

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from ada3d_ros.engine.timing import synchronize
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks.bench import Timing
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence

# Largest relative difference of logits.
AGREE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
CHECK_TOKENS = 24


class TransformersRival:
    """`generate` over our decoder's tensors; nothing is copied.

    Raises ModelError where it computes something else.
    """

    def __init__(self, decoder: LlamaDecoder) -> None:
        # The same sizes, without memory of its own.
        c = decoder.config
        config = LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            intermediate_size=c.intermediate_size,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads,
            max_position_embeddings=c.max_positions,
            rms_norm_eps=c.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        )
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model = LlamaForCausalLM(config)

        # Our tensors under transformers' names; rotary tables are no weights and are made anew.
        named = {
            name if name.startswith("lm_head") else f"model.{name}": tensor
            for name, tensor in decoder.state_dict().items()
        }
        model.load_state_dict(named, assign=True, strict=True)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(decoder.device)
        self.model = model.eval().requires_grad_(False)
        self._check(decoder)

    @torch.inference_mode()
    def total(
        self, prompt: PromptSequence, tokens: int, streamer: BaseStreamer | None = None
    ) -> list[int]:
        """The whole prompt and exactly `tokens` tokens, greedy; their ids."""
        embeds = prompt.embeds[None]
        settings = GenerationConfig(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            eos_token_id=None,
            pad_token_id=0,
        )
        # No padding: the mask is all ones, and says so to generate.
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
        made = self.model.generate(
            inputs_embeds=embeds, attention_mask=mask, generation_config=settings, streamer=streamer
        )
        if made.shape[1] != tokens:
            raise ModelError(f"transformers generated {made.shape[1]} tokens instead of {tokens}.")
        return [int(token_id) for token_id in made[0]]

    def decode(self, prompt: PromptSequence, tokens: int) -> Timing:
        """The time from the first token to the last of `tokens` + 1: so many steps, no prefill."""
        clock = _Clock(prompt.embeds.device)
        self.total(prompt, tokens + 1, clock)
        first, last = clock.marks[-tokens - 1], clock.marks[-1]
        return Timing(last.wall_s - first.wall_s, last.cpu_s - first.cpu_s)

    @torch.inference_mode()
    def _check(self, decoder: LlamaDecoder) -> None:
        """Raise ModelError unless both give the same logits for a random prompt."""
        config, generator = decoder.config, torch.Generator().manual_seed(0)
        embeds = torch.randn(1, CHECK_TOKENS, config.hidden_size, generator=generator)
        embeds = embeds.to(decoder.device, decoder.dtype)
        positions = torch.arange(CHECK_TOKENS, device=decoder.device)
        hidden = decoder.run_layers(0, config.num_layers, embeds, positions)
        ours = decoder.logits(hidden).float()
        theirs = self.model(inputs_embeds=embeds).logits.float()
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        if not error <= AGREE[decoder.dtype]:
            raise ModelError(
                f"transformers' logits are {error:.1e} off ours: it does not compute the same"
                " model."
            )


class _Clock(BaseStreamer):
    """The time at which each token arrived."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: list[Timing] = []

    def put(self, value: torch.Tensor) -> None:
        if value.numel() == 1:  # the prompt comes first, of no ids
            self.marks.append(Timing(time.perf_counter(), time.process_time()))

    def end(self) -> None:
        synchronize(self._device)
