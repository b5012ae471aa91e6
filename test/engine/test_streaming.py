"""Ids become text as they come; the pieces joined are the whole text."""

from __future__ import annotations

import random
import re
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
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.prompt import CONTROL_TOKENS, Tokenizer
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.types import AskHooks, StopReason

MARKS = sorted({*CONTROL_TOKENS, "USER:", "ASSISTANT:"})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return Tokenizer(folder / "tokenizer.model")


def streamer_of(
    tokenizer: Tokenizer,
    floor_z_m: float = 0.0,
    generation: GenerationConfig | None = None,
    checkpoint: BackboneConfig | None = None,
    **hooks: Any,
) -> TextStreamer:
    """Of a question that has what a streamer asks for."""
    device = torch.device("cpu")
    model = SimpleNamespace(device=device, config=checkpoint or BackboneConfig())
    query = SimpleNamespace(
        config=SimpleNamespace(generation=generation or GenerationConfig()),
        loaded=SimpleNamespace(tokenizer=tokenizer, model=model),
        hooks=AskHooks(**hooks),
        max_new_tokens=30,
        clock=StageClock(device),
        text_origin_m=(0.0, 0.0, floor_z_m),
    )
    return TextStreamer(cast(QueryContext, query))


def test_the_checkpoints_penalty_counts_unless_one_is_set(tokenizer: Tokenizer) -> None:
    penalised = BackboneConfig(repetition_penalty=1.05)
    for setting, checkpoint, expected in (
        (0.0, BackboneConfig(), 1.0),
        (0.0, penalised, 1.05),
        (1.0, penalised, 1.0),
        (1.3, BackboneConfig(), 1.3),
    ):
        generation = GenerationConfig(repetition_penalty=setting)
        streamer = streamer_of(tokenizer, generation=generation, checkpoint=checkpoint)
        assert streamer.repetition_penalty == expected


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


def written(tokenizer: Tokenizer, text: str) -> tuple[str, list[str]]:
    """What comes of a model that writes `text` byte by byte: at the end, and in pieces."""
    pieces: list[str] = []
    streamer = streamer_of(tokenizer, on_text=lambda piece, _: pieces.append(piece))
    for byte in text.encode():
        streamer.on_token(3 + byte)
    return streamer.finish(), pieces


@pytest.mark.parametrize("token", MARKS)
def test_what_steers_a_model_leaves_no_answer(tokenizer: Tokenizer, token: str) -> None:
    """Whoever puts an answer into the next prompt would hand on what the model made up."""
    half = len(token) // 2
    for text, cleaned in [
        (f"a box {token} red", "a box  red"),
        (f"{token}a box", "a box"),
        (f"a box{' ' if token[0] != '<' else ''}{token}", "a box"),
        (f"{token}{token}yes", "yes"),
        (f"no {token[:half]}</s>{token[half:]}!", "no !"),  # made by the removal of another
        (f"a box {token[:-1]}", f"a box {token[:-1]}"),  # none as yet
    ]:
        whole, pieces = written(tokenizer, text)
        assert whole == cleaned.strip()
        assert "".join(pieces).strip() == whole


def test_no_piece_is_taken_back(tokenizer: Tokenizer) -> None:
    """Pieces joined are the answer, whatever marks and halves of marks are written."""
    generator = random.Random(0)
    for _ in range(300):
        parts = [generator.choice(MARKS) for _ in range(4)] + ["a", " ", "<", "U", "é"]
        parts = [part[: generator.randrange(1, len(part) + 1)] for part in parts]
        generator.shuffle(parts)
        whole, pieces = written(tokenizer, "".join(parts))
        assert "".join(pieces).strip() == whole
        assert not any(mark in whole for mark in CONTROL_TOKENS if mark.startswith("<"))


@pytest.mark.parametrize(
    "text", ["SUPERUSER: admin", "a user: Bob", "x < y > z", "<imagine>", "An ASSISTANT, a USER"]
)
def test_what_only_looks_like_it_stays(tokenizer: Tokenizer, text: str) -> None:
    assert written(tokenizer, text)[0] == text


def test_coordinates_are_moved_before_they_go_out(tokenizer: Tokenizer) -> None:
    """A group is held back until it is closed, whatever the pieces; other text flows at once."""
    said = "Box [ is open. It is at [1.000, 2.000, 0.500, 1.000, 1.000, 1.000], not [a]; [1, 2"
    pieces: list[str] = []
    streamer = streamer_of(tokenizer, -1.5, on_text=lambda piece, count: pieces.append(piece))
    for byte in said.encode():
        streamer.on_token(3 + byte)
        assert not re.search(r"\[[0-9., ]*$", "".join(pieces))
    moved = said.replace("0.500", "-1.000")
    assert streamer.finish() == moved
    assert "".join(pieces) == moved
    assert pieces[:4] == list("Box ")


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
