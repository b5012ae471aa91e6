"""Qwen2's tokenizer: byte-level BPE by the `tokenizers` library, from the checkpoint's own files.

No BOS, no byte is unknown. Prompts are tokenised piece by piece, as Video-3D-LLM's evaluation does
(system block, role, newline, each text between placeholders; BPE merges nothing across a seam), so
a placeholder's newline is a token of its own whatever follows it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from ada3d_ros.errors import CheckpointError, InvalidRequestError
from ada3d_ros.model.prompt import (
    CLICK_ID,
    IMAGE_ID,
    MAX_PROMPT_CHARS,
    QWEN_TEMPLATE,
    QWEN_TOKENS,
    check_question,
    render_conversation,
    render_question,
)
from ada3d_ros.model.weight_files import damaged, read_json

TOKENIZER_FILE = "tokenizer.json"
OTHER_FILES = ("vocab.json", "merges.txt")  # read where that one is absent
ADDED_FILE = "added_tokens.json"
BEGIN, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# As Multi3DRefer asks, and the prompt that ScanRefer asks with alone.
GROUND_ONE = "Identify the object according to the following description."
GROUND_SEVERAL = "There may be no corresponding object, or there may be one or more objects."
GROUND, COORD = "<ground>", "<coord>"
# How Qwen2 cuts text before its merges (its tokenizer.json has the same).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PIECES = re.compile(rf"({re.escape(BEGIN)}\w+\n|{re.escape(END)}\n?|<image>\n?|<boxes>|{COORD})")
_CLICK = re.compile(r" ?<boxes> ?")
LONGEST_CHARACTER = 4  # bytes in UTF-8


def _byte_of_character() -> dict[str, int]:
    """The characters in which byte-level BPE writes its pieces (GPT-2's table) -> the bytes."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


class QwenTokenizer:
    """A checkpoint's Qwen2 tokenizer.

    ground_id, coord_id: the tokens of Video-3D-LLM, -1 where they are absent. Raises
    CheckpointError where the files are absent, damaged, or those of another kind of tokenizer.
    """

    file_name = TOKENIZER_FILE
    bos_id = -1

    def __init__(self, folder: str | Path) -> None:
        self._model = _read(Path(folder))
        self.vocab_size: int = self._model.get_vocab_size(with_added_tokens=True)
        added = self._model.get_added_tokens_decoder()
        self._added = {token: entry.content for token, entry in added.items()}
        self._ids = {content: token for token, content in self._added.items()}

        # Those by which a prompt is built; any others that steer a model are kept out of text.
        missing = [name for name in (BEGIN, END) if name not in self._ids]
        newline = self._model.encode("\n", add_special_tokens=False).ids
        if missing or len(newline) != 1:
            what = f"no {' and no '.join(missing)}" if missing else "no token for a newline alone"
            raise CheckpointError(
                f"{folder}: the tokenizer has {what}: Video-3D-LLM's prompts are made of them. Take"
                " the tokenizer of that checkpoint (Qwen2-Instruct's with <ground> and <coord>)."
            )
        self._newline = newline[0]
        self.eos_id: int = self._ids[END]
        self.ground_id, self.coord_id = self._ids.get(GROUND, -1), self._ids.get(COORD, -1)
        steers = {t for t, entry in added.items() if entry.special or entry.content in QWEN_TOKENS}
        steers |= {token for content, token in self._ids.items() if content == "<image>"}
        self.special_ids: tuple[int, ...] = tuple(sorted(steers))
        self._bytes = _byte_of_character()

    def encode(self, prompt: str) -> list[int]:
        """Ids of a rendered prompt: `<image>` becomes IMAGE_ID, a newline behind it a token of its
        own; `<boxes>` and `<coord>` become CLICK_ID.
        """
        ids: list[int] = []
        for piece in _PIECES.split(prompt):
            if piece.startswith("<image>"):
                ids += [IMAGE_ID, *([self._newline] if piece.endswith("\n") else [])]
            elif piece in ("<boxes>", COORD):
                ids.append(CLICK_ID)
            elif piece:
                ids += self._model.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_question(
        self, text: str, template: str = QWEN_TEMPLATE, with_image: bool = True
    ) -> list[int]:
        """Ids of the single-turn prompt of a checked question; there is one template.

        A point stands between spaces, as in the data that the model learned of. Raises
        InvalidRequestError for a token of this tokenizer that steers the model.
        """
        text = _CLICK.sub(f" {COORD} ", self._checked(text))
        return self.encode(render_question(text, QWEN_TEMPLATE, with_image))

    def _checked(self, text: str) -> str:
        """Raises InvalidRequestError for a token of this tokenizer that steers the model."""
        for token in self.special_ids:
            if self._added[token] in text:
                raise InvalidRequestError(
                    f"the question contains {self._added[token]!r}, which steers the model:"
                    " remove it."
                )
        return text

    def encode_grounding(self, phrase: str) -> list[int]:
        """Ids of the prompt that asks which proposals a checked phrase means, if any, up to and
        with the token whose state is compared with theirs. Raises InvalidRequestError without it.
        """
        if self.ground_id < 0:
            raise InvalidRequestError(
                f"the tokenizer has no {GROUND}: this checkpoint cannot choose among proposals."
            )
        phrase = self._checked(check_question(phrase.capitalize(), MAX_PROMPT_CHARS))
        text = f"<image>\n{GROUND_ONE}\n{phrase}\n{GROUND_SEVERAL}"
        turns = [(text, GROUND)]
        ids = self.encode(render_conversation(QWEN_TEMPLATE, turns))
        return ids[: ids.index(self.ground_id) + 1]

    def encode_text(self, text: str) -> list[int]:
        """Ids of words alone."""
        return self.encode(text)

    def num_end_tokens(self, words: str) -> int:
        """How many tokens a question's prompt has from `words` on, the question's last ones."""
        return len(self.encode(f" {words}{END}\n{BEGIN}assistant\n"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special ones skipped; bytes that are not UTF-8 become U+FFFD."""
        return self._bytes_of(ids).decode("utf-8", "replace")

    def _bytes_of(self, ids: Sequence[int]) -> bytes:
        found = bytearray()
        for token in filter(self.is_text, ids):
            piece = self.piece(token)
            if token in self._added:
                found += piece.encode()
            else:
                found += bytes(self._bytes[character] for character in piece)
        return bytes(found)

    def is_text(self, token: int) -> bool:
        """False for what steers the model, and for ids that only the embedding has."""
        is_known = token >= 0 and self._model.id_to_token(token) is not None
        return is_known and token not in self.special_ids

    def piece(self, token: int) -> str:
        """The piece of an id below vocab_size, as tokenizer.json writes it."""
        return str(self._model.id_to_token(token))

    def control_id(self, piece: str) -> int:
        """The id of a token that steers the model, -1 where there is none of this name."""
        token = self._ids.get(piece, -1)
        return token if token in self.special_ids else -1

    def pending_characters(self, ids: Sequence[int]) -> int:
        """1 where `decode(ids)` ends with U+FFFD for the start of an incomplete character."""
        last = [token for token in ids if self.is_text(token)][-LONGEST_CHARACTER:]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(self._bytes_of(last))
        return int(bool(decoder.getstate()[0]))

    def to_bytes(self) -> bytes:
        """What tokenizer.json holds, to save the tokenizer beside other weights."""
        return self._model.to_str(pretty=False).encode()


def _read(folder: Path) -> tokenizers.Tokenizer:
    """From tokenizer.json, or from vocab.json and merges.txt with the added tokens."""
    file = folder / TOKENIZER_FILE
    if file.is_file():
        try:
            made = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exceptions
            raise damaged(
                file, f"{file} is not a tokenizer ({error}): copy the file again."
            ) from None
        if not isinstance(made.model, models.BPE) or not isinstance(
            made.decoder, decoders.ByteLevel
        ):
            raise CheckpointError(
                f"{file} is a tokenizer of another kind ({type(made.model).__name__}), expected"
                " byte-level BPE, which Qwen2 has."
            )
        made.no_truncation()  # a trainer's length, which would cut prompts in silence
        made.no_padding()
        return made

    absent = [name for name in OTHER_FILES if not (folder / name).is_file()]
    if absent:
        raise damaged(
            file,
            f"{folder} lacks {TOKENIZER_FILE} (or {' and '.join(OTHER_FILES)} in its place): copy"
            " it from the checkpoint.",
        )
    return _from_vocabulary(folder)


def _from_vocabulary(folder: Path) -> tokenizers.Tokenizer:
    try:
        bpe = models.BPE.from_file(*(str(folder / name) for name in OTHER_FILES))
    except Exception as error:  # the library raises plain Exceptions
        raise CheckpointError(
            f"{folder}: {' and '.join(OTHER_FILES)} are not a BPE vocabulary ({error}): copy the"
            " files again."
        ) from None
    made = _around(bpe)

    # In the order of their ids, which the library counts on from the vocabulary's end.
    added = read_json(folder / ADDED_FILE) if (folder / ADDED_FILE).is_file() else {}
    odd = next((name for name, token in added.items() if type(token) is not int), None)
    if odd is not None:
        raise CheckpointError(
            f"{folder}: {ADDED_FILE} gives {odd} the id {added[odd]!r}, which is no whole number:"
            " copy the file again."
        )
    for content in sorted(added, key=lambda name: added[name]):
        _add(made, content, special=content.startswith("<|") and content.endswith("|>"))
    wrong = [name for name, token in added.items() if made.token_to_id(name) != token]
    if wrong:
        raise CheckpointError(
            f"{folder}: {ADDED_FILE} gives {wrong[0]} the id {added[wrong[0]]}, which does not"
            f" follow on vocab.json ({made.token_to_id(wrong[0])}): take {TOKENIZER_FILE}."
        )
    return made


def _around(bpe: models.BPE) -> tokenizers.Tokenizer:
    """A tokenizer that cuts and joins text as Qwen2's does."""
    made = tokenizers.Tokenizer(bpe)
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _add(tokenizer: tokenizers.Tokenizer, content: str, special: bool) -> None:
    tokenizer.add_tokens([AddedToken(content, special=special, normalized=not special)])


def train_qwen_tokenizer(
    folder: Path, texts: Sequence[str], vocab_size: int, controls: Sequence[str] = ()
) -> QwenTokenizer:
    """A byte-level BPE of these texts with Qwen2's and Video-3D-LLM's tokens, written to
    tokenizer.json in `folder`; the same every time.

    At most vocab_size tokens, fewer where the texts do not give as many. controls: special tokens
    besides, which no text is encoded to and which decode to none.
    """
    added = (*QWEN_TOKENS[:3], *controls, *QWEN_TOKENS[3:])
    made = _around(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    for content in added:
        _add(made, content, special=content not in (GROUND, COORD))
    (folder / TOKENIZER_FILE).write_text(made.to_str(pretty=False), encoding="utf-8")
    return QwenTokenizer(folder)
