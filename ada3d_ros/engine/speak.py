"""Decode as text: tokens become words for the listener as they come, and the listener may stop it."""

from __future__ import annotations

from dataclasses import replace

from ada3d_ros.config.agent import GenerationConfig
from ada3d_ros.engine.decode import DecodeOutput, decode
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.sampling import make_sampler
from ada3d_ros.errors import RequestError, RequestTimeoutError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import TextStream
from ada3d_ros.types import AskHooks, StopReason


def stop_asked(hooks: AskHooks) -> StopReason | None:
    """Why the listener wants it to end now; None where it may go on."""
    try:
        hooks.check()
    except RequestTimeoutError:
        return StopReason.TIMEOUT
    except RequestError:
        return StopReason.CANCELED
    return None


def speak(
    loaded: LoadedModel, prefilled: PrefillOutput, generation: GenerationConfig, max_new_tokens: int, hooks: AskHooks
) -> tuple[DecodeOutput, str]:
    """What decode gave, and its text, stripped. hooks.check stops it, hooks.on_text gets each new piece."""
    sampler = make_sampler(generation.temperature, generation.top_p, generation.seed, loaded.model.device)
    stream = TextStream(loaded.tokenizer)
    count = 0

    def on_token(token_id: int) -> None:
        nonlocal count
        count += 1
        hooks.on_text(stream.push(token_id), count)

    output = decode(loaded.model.decoder, prefilled, max_new_tokens, sampler, lambda: stop_asked(hooks), on_token)
    hooks.on_text(stream.finish(), count)
    return output, loaded.tokenizer.decode(output.token_ids).strip()


class Heard:
    """Hooks that note whether the caller has heard text already: then a question cannot begin anew."""

    def __init__(self, hooks: AskHooks) -> None:
        self.any = False
        self._on_text = hooks.on_text
        self.hooks = replace(hooks, on_text=self._hear)

    def _hear(self, delta: str, num_tokens: int) -> None:
        self.any = self.any or bool(delta)
        self._on_text(delta, num_tokens)
