"""Ids become text as they come; the pieces joined are the whole text."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unicodedata import category

import pytest
import torch

from ada3d_ros.config.agent import GenerationConfig
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.query_context import QueryContext
from ada3d_ros.engine.streaming import TextStreamer, require_text
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.errors import CanceledError, ModelError, RequestTimeoutError
from ada3d_ros.model.prompt import Tokenizer
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.types import AskHooks, StopReason


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return Tokenizer(folder / "tokenizer.model")


def streamer_of(tokenizer: Tokenizer, **hooks: Any) -> TextStreamer:
    """Of a question that has what a streamer asks for."""
    device = torch.device("cpu")
    query = SimpleNamespace(
        config=SimpleNamespace(generation=GenerationConfig()),
        loaded=SimpleNamespace(tokenizer=tokenizer, model=SimpleNamespace(device=device)),
        hooks=AskHooks(**hooks),
        max_new_tokens=30,
        clock=StageClock(device),
    )
    return TextStreamer(cast(QueryContext, query))


def test_the_pieces_joined_are_the_decoded_text(tokenizer: Tokenizer) -> None:
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(tokenizer.vocab_size + 3) for _ in range(30)]
        pieces: list[str] = []
        streamer = streamer_of(tokenizer, on_text=lambda text, _, to=pieces: to.append(text))
        for token in ids:
            streamer.on_token(token)
        text = "".join(c for c in tokenizer.decode(ids) if c in "\t\n" or category(c) != "Cc")
        assert streamer.finish() == text.strip()
        assert "".join(pieces) == text
        assert len(pieces) == len(ids) + 1  # one a token, also where it gives no text


def test_a_character_is_never_broken(tokenizer: Tokenizer) -> None:
    text = "naïve 椅子 🤖."
    byte_ids = [tokenizer.encode(char)[-1] for char in "a"] + [3 + byte for byte in text.encode()]
    pieces: list[str] = []
    counts: list[int] = []
    streamer = streamer_of(
        tokenizer, on_text=lambda piece, count: (pieces.append(piece), counts.append(count))
    )
    for token in byte_ids:
        streamer.on_token(token)
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces).endswith(text)
    assert counts == list(range(1, len(byte_ids) + 1))


def test_half_a_character_at_the_end_is_marked(tokenizer: Tokenizer) -> None:
    pieces: list[str] = []
    streamer = streamer_of(tokenizer, on_text=lambda piece, count: pieces.append(piece))
    for byte in "子".encode()[:2]:
        streamer.on_token(3 + byte)
    assert pieces == ["", ""]
    assert streamer.finish() == "\ufffd\ufffd"
    assert pieces[2] == "\ufffd\ufffd"


def test_control_characters_are_not_streamed(tokenizer: Tokenizer) -> None:
    """Nor where one comes in two pieces, as the bytes of U+009B do."""
    pieces: list[str] = []
    streamer = streamer_of(tokenizer, on_text=lambda piece, count: pieces.append(piece))
    controls = "".join(map(chr, (*range(32), *range(127, 160))))
    for byte in f"a\0 \x1b[31m{controls}\u200f\u202eb\r\n\x7fc\t".encode():
        streamer.on_token(3 + byte)
    text = "a [31m\t\n\u200f\u202eb\nc"  # marks of direction are text
    assert streamer.finish() == text
    assert "".join(pieces) == text + "\t"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        (RequestTimeoutError("late"), StopReason.TIMEOUT),
        (CanceledError("enough"), StopReason.CANCELED),
    ],
)
def test_the_caller_stops_it(
    tokenizer: Tokenizer, error: Exception | None, reason: StopReason | None
) -> None:
    def check() -> None:
        if error is not None:
            raise error

    assert streamer_of(tokenizer, check=check).should_stop() is reason


def test_a_model_that_says_nothing_is_an_error_unless_it_was_stopped() -> None:
    for reason in (StopReason.EOS, StopReason.MAX_TOKENS):
        with pytest.raises(ModelError, match="gave no text"):
            require_text(DecodeOutput((), reason))
    for reason in (StopReason.TIMEOUT, StopReason.CANCELED):
        require_text(DecodeOutput((), reason))
    require_text(DecodeOutput((1,), StopReason.EOS, text="a"))
