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


class TextStreamer:
    """One answer on its way to the listener: a sampler, ids that become text as they come, and
    whether to stop.
    """

    def __init__(self, loaded: LoadedModel, generation: GenerationConfig, hooks: AskHooks) -> None:
        self.sampler = make_sampler(
            generation.temperature, generation.top_p, generation.seed, loaded.model.device
        )
        self._tokenizer, self._stream = loaded.tokenizer, TextStream(loaded.tokenizer)
        self._hooks, self._count = hooks, 0

    def on_token(self, token_id: int) -> None:
        self._count += 1
        self._hooks.on_text(self._stream.push(token_id), self._count)

    def should_stop(self) -> StopReason | None:
        return stop_asked(self._hooks)

    def finish(self, output: DecodeOutput) -> str:
        """The whole text, stripped."""
        self._hooks.on_text(self._stream.finish(), self._count)
        return self._tokenizer.decode(output.token_ids).strip()


def generate_text(
    loaded: LoadedModel,
    prefilled: PrefillOutput,
    generation: GenerationConfig,
    max_new_tokens: int,
    hooks: AskHooks,
) -> tuple[DecodeOutput, str]:
    """What decode gave, and its text, stripped. hooks.check stops it, hooks.on_text gets each new
    piece.
    """
    speaker = TextStreamer(loaded, generation, hooks)
    output = decode(
        loaded.model.decoder,
        prefilled,
        max_new_tokens,
        speaker.sampler,
        speaker.should_stop,
        speaker.on_token,
    )
    return output, speaker.finish(output)


class EmissionGuard:
    """Hooks that note whether the caller has heard text already: then a question cannot begin anew."""

    def __init__(self, hooks: AskHooks) -> None:
        self.any = False
        self._on_text = hooks.on_text
        self.hooks = replace(hooks, on_text=self._hear)

    def _hear(self, delta: str, num_tokens: int) -> None:
        self.any = self.any or bool(delta)
        self._on_text(delta, num_tokens)
