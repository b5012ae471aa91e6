"""Text in and out: templates, question checks, what a tokenizer does, and LLaMA's tokenizer.

Knows nothing of tensors. The tokenizer here is plain sentencepiece with the reference's rules
(LlamaTokenizer slow, legacy=False; llava/mm_utils.py `tokenizer_special_token`): BOS once, every
text chunk between placeholders alone. Qwen2's is in qwen_tokenizer.py.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from ada3d_ros.errors import CheckpointError, InvalidRequestError, QuestionTooLongError
from ada3d_ros.model.coordinates import Point, replace_places

IMAGE_ID = -200  # stands for the embeddings of a scene or image
CLICK_ID = -300  # stands for the embedding of one 3D point
MAX_PROMPT_CHARS = 100_000  # a question within question.max_chars, and the template around it
PLACEHOLDERS = {"<image>": IMAGE_ID, "<boxes>": CLICK_ID}

POINT_TOKENS = ("<point>", "<point_ego>")  # control pieces of a model that points: no text is one
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<ground>", "<coord>")
CONTROL_TOKENS = (  # of all templates and tokenizers
    *POINT_TOKENS,
    *QWEN_TOKENS,
    "<image>",
    "<video>",
    "<boxes>",
    "<points>",
    "<im_patch>",
    "<im_start>",
    "<im_end>",
    "<vid_start>",
    "<vid_end>",
    "<loc_start>",
    "<loc_end>",
    "<image-placeholder>",
    "<video-placeholder>",
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
)
ROLES = ("USER:", "ASSISTANT:")  # of a turn, as the templates write them
_ROLE = re.compile(r"(?<!\w)(?:" + "|".join(ROLES) + ")")
# For str.translate: C0 and C1 but for tab and newline. A NUL ends a ROS string, others move a
# terminal's cursor.
NO_CONTROLS = {i: None for i in (*range(32), *range(127, 160)) if chr(i) not in "\t\n"}

_SYSTEM = (
    "A chat between a curious {0} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {0}'s questions."
)
SYSTEM_PROMPTS = {"llava_v1": _SYSTEM.format("human"), "vicuna_v1": _SYSTEM.format("user")}
QWEN_TEMPLATE = "qwen_1_5"  # ChatML


def render_conversation(template: str, turns: Sequence[tuple[str, str | None]]) -> str:
    """The prompt of (question, answer) turns; the last answer is None: the model writes it.

    `</s>` follows an answer directly and the next `USER:` follows that directly, as in the
    reference (llava/conversation.py, SeparatorStyle.TWO).
    """
    if template == QWEN_TEMPLATE:
        return _render_chat_ml(turns)
    text = SYSTEM_PROMPTS[template] + " "
    for question, answer in turns:
        text += f"USER: {question} ASSISTANT:"
        text += f" {answer}</s>" if answer is not None else ""
    return text


def _render_chat_ml(turns: Sequence[tuple[str, str | None]]) -> str:
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for question, answer in turns:
        text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        text += f"{answer}<|im_end|>\n" if answer is not None else ""
    return text


def render_question(question: str, template: str = "llava_v1", with_image: bool = True) -> str:
    """The single-turn prompt of a checked question, the scene or image before it.

    With the space that Video-3D-LLM's data has between the image's newline and a question.
    """
    after = "\n " if template == QWEN_TEMPLATE else "\n"
    image = f"<image>{after}" if with_image else ""
    return render_conversation(template, [(image + question, None)])


def check_question(text: str, max_chars: int) -> str:
    """The question, stripped, each end of a line as one newline.

    Raises InvalidRequestError (empty, control tokens or characters) or QuestionTooLongError.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise InvalidRequestError(
            "the question is empty: send a sentence, for example 'What is on the table?'."
        )
    if len(text) > max_chars:
        raise QuestionTooLongError(
            f"the question has {len(text)} characters, at most {max_chars} are allowed: shorten it."
        )

    # Neither the tokens that structure a prompt nor characters that no keyboard writes.
    role = _ROLE.search(text)
    for token in (*CONTROL_TOKENS, *((role[0],) if role else ())):
        if token in text:
            raise InvalidRequestError(
                f"the question contains {token!r}, which steers the model: remove it."
            )
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\t\n":
            raise InvalidRequestError(
                f"the question contains the control character U+{ord(char):04X}: only printable"
                " text, tab and newline are allowed."
            )
    return text


def parse_coordinates(text: str) -> tuple[str, tuple[Point, ...]]:
    """Every point or box in brackets becomes `<boxes>`, with its centre as click.

    In metres: [x, y, z], [x, y, z, dx, dy, dz], or the same with one angle or three; see
    model/coordinates.py. Unlike the reference, which gives every group a placeholder but only the
    first a click (run_llava_3d.py), so that two groups crash it. Clicks are rounded to 3 decimals,
    as in training. Raises InvalidRequestError for square brackets with something else in them, and
    for others that read like a place and are none.
    """
    clicks: list[Point] = []

    def replaced(point: Point) -> str:
        clicks.append(point)
        return "\0"  # not allowed in a question: cannot be taken for user text

    text_left = replace_places(text, replaced)
    if "[" in text_left or "]" in text_left:
        raise InvalidRequestError(
            "a square bracket without its partner, or with other brackets inside, in"
            f" {text!r}; coordinates are written [x, y, z]."
        )
    return text_left.replace("\0", "<boxes>"), tuple(clicks)


class AnyTokenizer(Protocol):
    """What the package knows of a checkpoint's tokenizer; ids that are not there are -1.

    file_name: under which `to_bytes` is saved. special_ids: begin, end and unknown, and what other
    tokens steer a model.
    """

    file_name: str
    bos_id: int
    eos_id: int
    special_ids: tuple[int, ...]
    vocab_size: int

    def encode(self, prompt: str) -> list[int]:
        """Ids of a rendered prompt, with IMAGE_ID and CLICK_ID for the placeholders."""
        ...

    def encode_question(
        self, text: str, template: str = "llava_v1", with_image: bool = True
    ) -> list[int]:
        """Ids of the single-turn prompt of a checked question, the scene or image before it."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Ids of words alone, without a token that begins a prompt."""
        ...

    def num_end_tokens(self, words: str) -> int:
        """How many tokens a question's prompt has from `words` on, the question's last ones."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special ones skipped; bytes that are not UTF-8 become U+FFFD."""
        ...

    def is_text(self, token: int) -> bool:
        """False for what steers a model, and for ids that only the embedding has."""
        ...

    def piece(self, token: int) -> str:
        """The piece of an id below vocab_size, as the tokenizer's file writes it."""
        ...

    def control_id(self, piece: str) -> int:
        """The id of a token that steers the model, -1 where there is none of this name."""
        ...

    def pending_characters(self, ids: Sequence[int]) -> int:
        """How many characters at the end of `decode(ids)` stand for the start of an incomplete
        one.
        """
        ...

    def to_bytes(self) -> bytes:
        """The file's content, to save the tokenizer beside other weights."""
        ...


class Tokenizer:
    """LLaMA's: the checkpoint's sentencepiece model.

    Raises CheckpointError where the file is absent or not a model.
    """

    file_name = "tokenizer.model"

    def __init__(self, path: str | Path) -> None:
        # The checkpoint's own file; nothing is downloaded.
        if not Path(path).is_file():
            raise CheckpointError(
                f"no tokenizer at {path}: copy tokenizer.model of the checkpoint into its folder."
            )
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{path} is not a sentencepiece model ({error}): copy the file again."
            ) from None

        self.bos_id: int = self._model.bos_id()
        self.eos_id: int = self._model.eos_id()
        self.unk_id: int = self._model.unk_id()
        self.special_ids: tuple[int, ...] = (self.bos_id, self.eos_id, self.unk_id)
        self.vocab_size: int = self._model.vocab_size()
        self._anchor = self._model.encode("\n")

    def encode(self, prompt: str) -> list[int]:
        """Ids of a rendered prompt, BOS first.

        `<image>`, `<boxes>` and `</s>` become IMAGE_ID, CLICK_ID and eos_id.
        """
        ids = [self.bos_id]
        for chunk in re.split("(<image>|<boxes>)", prompt):
            if chunk in PLACEHOLDERS:
                ids.append(PLACEHOLDERS[chunk])
                continue
            first, *rest = chunk.split("</s>")
            ids += self._model.encode(first) if first else []
            for text in rest:
                ids += [self.eos_id, *self._encode_continued(text)]
        return ids

    def encode_question(
        self, text: str, template: str = "llava_v1", with_image: bool = True
    ) -> list[int]:
        """Ids of the single-turn prompt of a checked question, the scene or image before it."""
        return self.encode(render_question(text, template, with_image))

    def encode_text(self, text: str) -> list[int]:
        """Ids of words alone, without BOS."""
        return self.encode(text)[1:]

    def num_end_tokens(self, words: str) -> int:
        """How many tokens a question's prompt has from `words` on, the question's last ones."""
        return len(self.encode_text(f"{words} ASSISTANT:"))

    def _encode_continued(self, text: str) -> list[int]:
        """Ids without sentencepiece's leading space."""
        # Encoded after a newline, which merges with nothing and is taken off again.
        return self._model.encode("\n" + text)[len(self._anchor) :]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special ones skipped; bytes that are not UTF-8 become U+FFFD."""
        return self._model.decode([token for token in ids if self.is_text(token)])

    def is_text(self, token: int) -> bool:
        """False for special ids, control pieces, and for ids that only the checkpoint's enlarged
        embedding has.
        """
        return token < self.vocab_size and not (
            token in self.special_ids or self._model.is_control(token)
        )

    def piece(self, token: int) -> str:
        """The piece of an id below vocab_size, as sentencepiece writes it."""
        return str(self._model.id_to_piece(token))

    def control_id(self, piece: str) -> int:
        """The id of a control piece, -1 where there is none of this name."""
        token: int = self._model.piece_to_id(piece)
        return token if self._model.is_control(token) else -1

    def pending_characters(self, ids: Sequence[int]) -> int:
        """How many byte tokens at the end are the start of an incomplete UTF-8 character; each is a
        character of `decode(ids)`.
        """
        # The byte tokens at the end, pieces like "<0xE2>".
        start = len(ids)
        while start > 0 and self._model.is_byte(ids[start - 1]):
            start -= 1
        if start == len(ids):
            return 0
        run = bytes(int(self._model.id_to_piece(token)[3:5], 16) for token in ids[start:])

        # What a decoder of UTF-8 keeps back of them.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(run)
        return len(decoder.getstate()[0])

    def to_bytes(self) -> bytes:
        """The file's content, to save the tokenizer beside other weights."""
        return self._model.serialized_model_proto()
