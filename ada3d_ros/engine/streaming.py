"""Decoding as text: ids become words for the caller as they come, and the caller may stop it."""

from __future__ import annotations

import functools
from dataclasses import replace

from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode, make_sampler
from ada3d_ros.engine.emitted_text import clean_text, end_of_settled
from ada3d_ros.engine.places import Pointer, pointer_of
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import ModelError, RequestError, RequestTimeoutError
from ada3d_ros.types import AskHooks, Stage, StopReason


def stop_asked(hooks: AskHooks) -> StopReason | None:
    """Why the caller wants it to end now; None where it may go on."""
    try:
        hooks.check()
    except RequestTimeoutError:
        return StopReason.TIMEOUT
    except RequestError:
        return StopReason.CANCELED
    return None


class TextStreamer(GenerationRequest):
    """A request that hands out its text as it comes, sampled as configured, stopped and timed as
    the question says. The pieces joined equal Tokenizer.decode of all ids, without what steers a
    model, places in the world frame where the model writes any.

    hooks (None: the question's): check stops it, on_text gets each new piece. pointer: what points
    at places meanwhile; tokens that do are no text.
    """

    def __init__(
        self, query: QueryContext, hooks: AskHooks | None = None, pointer: Pointer | None = None
    ) -> None:
        generation, self._tokenizer = query.config.generation, query.loaded.tokenizer
        self._origin_m = query.text_origin_m
        self._hooks = query.hooks if hooks is None else hooks
        self._ids: list[int] = []  # those that are text
        self._count = self._sent = 0
        super().__init__(
            query.max_new_tokens,
            make_sampler(
                generation.temperature, generation.top_p, generation.seed, query.loaded.model.device
            ),
            should_stop=functools.partial(stop_asked, self._hooks),
            on_token=self._stream,
            now=query.clock.now,
            pointer=pointer,
            repetition_penalty=(
                generation.repetition_penalty or query.loaded.model.config.repetition_penalty
            ),
        )

    def finish(self) -> str:
        """Hand out what was held back; the whole text, stripped."""
        text = clean_text(self._tokenizer.decode(self._ids), self._origin_m)
        self._emit(text, len(text))
        return text.strip()

    def _stream(self, token_id: int) -> None:
        """Hand out the text that this id completes; '' while a UTF-8 character is incomplete."""
        self._count += 1
        if not self._tokenizer.is_text(token_id):
            self._hooks.on_text("", self._count)
            return
        self._ids.append(token_id)
        decoded = self._tokenizer.decode(self._ids)
        whole = decoded[: len(decoded) - self._tokenizer.pending_characters(self._ids)]
        text = clean_text(whole, self._origin_m)
        self._emit(text, end_of_settled(text, self._sent, self._origin_m))

    def _emit(self, text: str, stop: int) -> None:
        piece, self._sent = text[self._sent : stop], max(self._sent, stop)
        self._hooks.on_text(piece, self._count)


def generate_text(
    query: QueryContext,
    context: SceneContext,
    prefilled: PrefillOutput,
    hooks: AskHooks | None = None,
) -> DecodeOutput:
    """Decode after a prefill, with its text; see TextStreamer."""
    streamer = TextStreamer(query, hooks, pointer_of(query, context, prefilled))
    output = decode(query.loaded.model.decoder, prefilled, streamer)
    return replace(output, text=streamer.finish())


def stream_answer(
    query: QueryContext, context: SceneContext, prefilled: PrefillOutput
) -> DecodeOutput:
    """The answer's text, streamed and timed. Raises ModelError where the model said nothing."""
    query.hooks.on_stage(Stage.DECODING)
    clock = query.clock
    before_s = clock.elapsed_s()
    output = generate_text(query, context, prefilled)
    clock.record("first_token_s", before_s + output.first_token_s)
    clock.record("decode_s", output.decode_s)
    require_text(output)
    return output


def require_text(output: DecodeOutput) -> None:
    """Raise ModelError where the model ended without a word."""
    if not output.text and output.stop_reason in (StopReason.EOS, StopReason.MAX_TOKENS):
        raise ModelError("the model gave no text for this question; ask in other words.")
