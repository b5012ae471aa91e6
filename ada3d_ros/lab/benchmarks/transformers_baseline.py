"""The rival that a user would pick: transformers' LlamaForCausalLM, or Qwen2ForCausalLM, on the
very same weights.

With SDPA attention. Cold, `generate` reads the whole prompt for every question, with a static
cache; `HeldScene` keeps the scene's keys and values between questions, as ours does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)
from transformers.generation.streamers import BaseStreamer

from ada3d_ros.engine.timing import synchronize
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks.bench import Timing
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence

# Largest relative difference of logits.
AGREE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
CHECK_TOKENS = 24
# How the scene is held: in a cache that grows and is cropped, in one of fixed size, and in that
# with the decode steps compiled.
CACHES = ("dynamic", "static", "compiled")


def absent_caches(device: torch.device) -> dict[str, str]:
    """The CACHES that are not measured on this device, each with the reason."""
    if device.type == "cuda":
        return {}
    return {
        "compiled": "transformers compiles decode steps on CUDA only; on a CPU its static cache"
        " runs as it is"
    }


class TransformersRival:
    """`generate` over our decoder's tensors; copied are only those that lie column by column, for
    transformers' own lie row by row.

    Raises ModelError where it computes something else.
    """

    def __init__(self, decoder: LlamaDecoder) -> None:
        # The same sizes, without memory of its own.
        c = decoder.config
        config: Any = (Qwen2Config if c.qkv_bias else LlamaConfig)(
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
            model = (Qwen2ForCausalLM if c.qkv_bias else LlamaForCausalLM)(config)

        # Our tensors under transformers' names; rotary tables are no weights and are made anew.
        named = {
            name if name.startswith("lm_head") else f"model.{name}": tensor.contiguous()
            for name, tensor in decoder.state_dict().items()
        }
        model.load_state_dict(named, assign=True, strict=True)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(decoder.device)
        self.model = model.eval().requires_grad_(False)
        self._check(decoder)

    @torch.inference_mode()
    def total(
        self,
        prompt: PromptSequence,
        tokens: int,
        streamer: BaseStreamer | None = None,
        may_compile: bool = True,
    ) -> list[int]:
        """The whole prompt and exactly `tokens` tokens, greedy; their ids.

        may_compile: let generate compile its steps, which it does by itself on CUDA.
        """
        embeds = prompt.embeds[None]
        settings = GenerationConfig(
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            eos_token_id=None,
            pad_token_id=0,
            disable_compile=not may_compile,
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
        """The time from the first token to the last of `tokens` + 1: so many steps, no prefill.

        Not compiled: HeldScene has that.
        """
        clock = _Clock(prompt.embeds.device)
        self.total(prompt, tokens + 1, clock, may_compile=False)
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


class HeldScene:
    """The rival with a scene held: its keys and values are computed once, every question runs on
    them, and they are what they were again afterwards.

    scene (T, D): system text and spatial tokens; room: tokens of the longest question and its
    answer; cache: of CACHES. No id is read before the end, which favours it.
    """

    @torch.inference_mode()
    def __init__(
        self, rival: TransformersRival, scene: torch.Tensor, room: int, cache: str = "dynamic"
    ) -> None:
        self.model, self.length = rival.model, len(scene)
        config = self.model.config
        self._cache: DynamicCache | StaticCache = (
            DynamicCache(config=config)
            if cache == "dynamic"
            else StaticCache(config, max_cache_len=self.length + room)
        )
        self._step = self.model.get_compiled_call(CompileConfig()) if cache == "compiled" else None
        self._run(self.model, inputs_embeds=scene[None])

    @torch.inference_mode()
    def answer(
        self, question: torch.Tensor, tokens: int, marks: list[Timing] | None = None
    ) -> list[int]:
        """Exactly `tokens` ids, greedy, after question (T, D). marks: gets the time at which the
        first was chosen, and at the end.
        """
        token = self._run(self.model, inputs_embeds=question[None])
        chosen = [token]
        if marks is not None:
            synchronize(question.device)
            marks.append(_clock_now())
        for _ in range(tokens - 1):
            token = self._run(self._step or self.model, input_ids=token.view(1, 1))
            chosen.append(token)
        ids = [int(token_id) for token_id in torch.stack(chosen).tolist()]
        if marks is not None:
            marks.append(_clock_now())
        self._forget(len(question) + tokens - 1)
        return ids

    def decode(self, question: torch.Tensor, tokens: int) -> Timing:
        """The time from the first token to the last of `tokens` + 1: so many steps, no prefill."""
        marks: list[Timing] = []
        self.answer(question, tokens + 1, marks)
        return Timing(marks[1].wall_s - marks[0].wall_s, marks[1].cpu_s - marks[0].cpu_s)

    def _run(self, call: Callable[..., Any], **inputs: torch.Tensor) -> torch.Tensor:
        """The likeliest next token () int64."""
        output = call(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        # A copy: a compiled step writes its next logits in the same place.
        token: torch.Tensor = output.logits[0, -1].argmax(dim=-1).clone()
        return token

    def _forget(self, tokens: int) -> None:
        """The newest so many."""
        if isinstance(self._cache, StaticCache):
            for layer in self._cache.layers:
                cast(Any, layer).cumulative_length.fill_(self.length)
        else:
            self._cache.crop(-tokens)


def _clock_now() -> Timing:
    return Timing(time.perf_counter(), time.process_time())


class _Clock(BaseStreamer):
    """The time at which each token arrived."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: list[Timing] = []

    def put(self, value: torch.Tensor) -> None:
        if value.numel() == 1:  # the prompt comes first, of no ids
            self.marks.append(_clock_now())

    def end(self) -> None:
        synchronize(self._device)
