"""Decoding as text: ids become words for the caller as they come, and the caller may stop it."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode, make_sampler
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.errors import ModelError, RequestError, RequestTimeoutError
from ada3d_ros.model.prompt import CONTROL_TOKENS
from ada3d_ros.types import AskHooks, Stage, StopReason

_ROLES = ("USER:", "ASSISTANT:")  # steer at the beginning of a word
_TAGS = tuple(token for token in CONTROL_TOKENS if token not in _ROLES)
_STEERS = re.compile("|".join([*map(re.escape, _TAGS), rf"(?<!\w)(?:{'|'.join(_ROLES)})"]))
# What may still become one of them, also one inside the other, at the end of a text.
_BEGINNINGS = {re.escape(token[:n]) for token in (*_TAGS, *_ROLES) for n in range(1, len(token))}
_OPEN = re.compile(rf"(?:{'|'.join(sorted(_BEGINNINGS, key=len, reverse=True))})+\Z")


def without_control_tokens(text: str) -> str:
    """`text` without what steers a model; also where its removal leaves another one behind."""
    while (cleaned := _STEERS.sub("", text)) != text:
        text = cleaned
    return text


def stop_asked(hooks: AskHooks) -> StopReason | None:
    """Why the caller wants it to end now; None where it may go on."""
    try:
        hooks.check()
    except RequestTimeoutError:
        return StopReason.TIMEOUT
    except RequestError:
        return StopReason.CANCELED
    return None


_GROUP = re.compile(r"\[([^\[\]]{5,200})\]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?(\d*)|\.(\d+))([eE][+-]?\d+)?\s*")


def raise_coordinates(text: str, by_m: float) -> str:
    """The text with its points and boxes, [x, y, z] and longer groups of numbers, moved up; the
    very same for 0.
    """

    def moved(match: re.Match[str]) -> str:
        parts = match.group(1).split(",")
        numbers = [_NUMBER.fullmatch(part) for part in parts]
        if len(parts) not in (3, 6, 7, 9) or numbers[2] is None or not all(numbers):
            return match.group(0)
        decimals = max(3, len(numbers[2][2] or numbers[2][3] or ""))
        z_m = round(float(parts[2]) + by_m, decimals) + 0.0  # no -0.000
        parts[2] = f" {z_m:.{decimals}f}"
        return "[" + ",".join(parts) + "]"

    return _GROUP.sub(moved, text) if by_m else text


def end_before_open_group(text: str) -> int:
    """Where a text's last group begins, if it may yet become coordinates; else the text's end."""
    start = text.rfind("[")
    return start if start >= 0 and re.fullmatch(r"\[[^\]]{0,200}", text[start:]) else len(text)


class TextStreamer(GenerationRequest):
    """A request that hands out its text as it comes, sampled as configured, stopped and timed as
    the question says. The pieces joined equal Tokenizer.decode of all ids, without what steers a
    model, coordinates in the world frame.

    hooks (None: the question's): check stops it, on_text gets each new piece.
    """

    def __init__(self, query: QueryContext, hooks: AskHooks | None = None) -> None:
        generation, self._tokenizer = query.config.generation, query.loaded.tokenizer
        self._up_m = query.floor_z_m  # from the model's world to the world frame
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
        )

    def finish(self) -> str:
        """Hand out what was held back; the whole text, stripped."""
        text = self._cleaned(self._tokenizer.decode(self._ids))
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
        text = self._cleaned(decoded[: len(decoded) - self._tokenizer.pending_bytes(self._ids)])
        held = _OPEN.search(text, self._sent)
        stop = held.start() if held else len(text)
        self._emit(text, min(stop, end_before_open_group(text)) if self._up_m else stop)

    def _cleaned(self, decoded: str) -> str:
        return raise_coordinates(without_control_tokens(decoded), self._up_m)

    def _emit(self, text: str, stop: int) -> None:
        piece, self._sent = text[self._sent : stop], max(self._sent, stop)
        self._hooks.on_text(piece, self._count)


def generate_text(
    query: QueryContext, prefilled: PrefillOutput, hooks: AskHooks | None = None
) -> DecodeOutput:
    """Decode after a prefill, with its text; see TextStreamer."""
    streamer = TextStreamer(query, hooks)
    output = decode(query.loaded.model.decoder, prefilled, streamer)
    return replace(output, text=streamer.finish())


def stream_answer(query: QueryContext, prefilled: PrefillOutput) -> DecodeOutput:
    """The answer's text, streamed and timed. Raises ModelError where the model said nothing."""
    query.hooks.on_stage(Stage.DECODING)
    clock = query.clock
    before_s = clock.elapsed_s()
    output = generate_text(query, prefilled)
    clock.record("first_token_s", before_s + output.first_token_s)
    clock.record("decode_s", output.decode_s)
    require_text(output)
    return output


def require_text(output: DecodeOutput) -> None:
    """Raise ModelError where the model ended without a word."""
    if not output.text and output.stop_reason in (StopReason.EOS, StopReason.MAX_TOKENS):
        raise ModelError("the model gave no text for this question; ask in other words.")
