"""How phrases are put to a zero-shot detector of transformers, and how its boxes get their phrase.

OWL takes a list of sentences and scores each for each box. Grounding DINO reads one text, "a cup. a
door.", and says which of its tokens a box belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import DetectorError

if TYPE_CHECKING:
    import torch

ROOM_THINGS = Path(__file__).with_name("room_things.txt")
MAX_PHRASE_CHARS = 80
DETERMINER = re.compile(r"(a|an|the|some|this|that|my|your|two|three)\b")
SENTENCE_ENDS = re.compile(r"[.?]")  # what separates phrases in Grounding DINO's text
OWL_GROUP = 64  # phrases a pass: bounds the memory of the text tower

Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]]  # boxes, scores, phrases


class PhraseReader(Protocol):
    """The part of a zero-shot detector that differs by family."""

    def groups(self, phrases: Sequence[str]) -> list[tuple[str, ...]]:
        """The phrases by passes. Raises DetectorError for one that is too long."""
        ...

    def text(self, phrases: Sequence[str]) -> Any:
        """What the processor is given as `text`."""
        ...

    def read(
        self, outputs: Any, phrases: Sequence[str], size: tuple[int, int], min_score: float
    ) -> Found:
        """Boxes (N, 4) in pixels, scores (N,) and a phrase each; size: (width, height)."""
        ...


def room_things() -> tuple[str, ...]:
    """The kinds that are looked for where nobody names any."""
    lines = ROOM_THINGS.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def cleaned(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases with single spaces, each once. Raises DetectorError for none and unusable ones."""
    kept = dict.fromkeys(" ".join(phrase.split()) for phrase in phrases)
    for phrase in kept:
        is_word = any(character.isalnum() for character in phrase)
        if not is_word or len(phrase) > MAX_PHRASE_CHARS or not phrase.isprintable():
            raise DetectorError(
                f"the phrase {phrase[:40]!r} cannot be looked for: a phrase has 1 to"
                f" {MAX_PHRASE_CHARS} printable characters, a letter or digit among them."
            )
    if not kept:
        raise DetectorError("no phrase to look for: name at least one, as `the red cup`.")
    return tuple(kept)


def with_article(phrase: str) -> str:
    """`a cup`, `an oven`; as it is with an article already, and in the plural."""
    text = phrase.lower()
    if DETERMINER.match(text) or (text.endswith("s") and not text.endswith("ss")):
        return text
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


class OwlReader:
    """OWL-ViT and OWLv2."""

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor = processor
        self._max_tokens = int(config.text_config.max_position_embeddings)

    def groups(self, phrases: Sequence[str]) -> list[tuple[str, ...]]:
        for phrase, sentence in zip(phrases, self.text(phrases)[0], strict=True):
            count = _count(self._processor.tokenizer, sentence)
            if count > self._max_tokens:
                raise _too_long(phrase, count, self._max_tokens)
        starts = range(0, len(phrases), OWL_GROUP)
        return [tuple(phrases[start : start + OWL_GROUP]) for start in starts]

    def text(self, phrases: Sequence[str]) -> list[list[str]]:
        return [[f"a photo of {with_article(phrase)}" for phrase in phrases]]

    def read(
        self, outputs: Any, phrases: Sequence[str], size: tuple[int, int], min_score: float
    ) -> Found:
        found = self._processor.post_process_grounded_object_detection(
            outputs,
            threshold=min_score,
            target_sizes=[(size[1], size[0])],
            text_labels=[list(phrases)],
        )[0]
        return _array(found["boxes"]), _array(found["scores"]), list(found["text_labels"])


class GroundingDinoReader:
    """Grounding DINO and MM Grounding DINO."""

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor = processor
        self._max_tokens = int(config.max_text_len)

    def groups(self, phrases: Sequence[str]) -> list[tuple[str, ...]]:
        # As many phrases in a text as its tokens allow; two of them begin and end the text.
        groups: list[list[str]] = [[]]
        free = self._max_tokens - 2
        for phrase in phrases:
            count = _count(self._processor.tokenizer, self.text([phrase])) - 2
            if count > self._max_tokens - 2:
                raise _too_long(phrase, count, self._max_tokens - 2)
            if count > free:
                groups.append([])
                free = self._max_tokens - 2
            groups[-1].append(phrase)
            free -= count
        return [tuple(group) for group in groups]

    def text(self, phrases: Sequence[str]) -> str:
        return "".join(f"{part}. " for part in self._parts(phrases)).strip()

    def read(
        self, outputs: Any, phrases: Sequence[str], size: tuple[int, int], min_score: float
    ) -> Found:
        # Boxes and scores by the processor.
        found = self._processor.post_process_grounded_object_detection(
            outputs, threshold=min_score, target_sizes=[(size[1], size[0])]
        )[0]

        # Which boxes these are, and the phrase whose words each is surest of. The processor's
        # own text is made of single tokens: "chair" where an office chair was meant.
        probabilities = outputs.logits[0].sigmoid()
        of_boxes = probabilities[probabilities.max(dim=-1).values > min_score]
        spans = self._spans(phrases)
        by_phrase = np.stack(
            [_array(of_boxes[:, tokens].max(dim=-1).values) for tokens in spans], axis=1
        )
        labels = [phrases[index] for index in by_phrase.argmax(axis=1)]
        return _array(found["boxes"]), _array(found["scores"]), labels

    def _parts(self, phrases: Sequence[str]) -> list[str]:
        return [with_article(SENTENCE_ENDS.sub(" ", phrase).strip()) for phrase in phrases]

    def _spans(self, phrases: Sequence[str]) -> list[list[int]]:
        """The numbers of each phrase's tokens in the text."""
        encoded = self._processor.tokenizer(self.text(phrases), return_offsets_mapping=True)
        spans: list[list[int]] = []
        start = 0
        for part in self._parts(phrases):
            end = start + len(part)
            spans.append(
                [
                    number
                    for number, (first, last) in enumerate(encoded["offset_mapping"])
                    if start <= first < last <= end
                ]
            )
            start = end + len(". ")
        return spans


def reader_of(model_type: str, processor: Any, config: Any) -> PhraseReader:
    """The reader of a family (`model_type` of config.json)."""
    if model_type.startswith("owl"):
        return OwlReader(processor, config)
    return GroundingDinoReader(processor, config)


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])


def _too_long(phrase: str, count: int, most: int) -> DetectorError:
    return DetectorError(
        f"the phrase {phrase!r} has {count} tokens with its article, this detector reads at most"
        f" {most}: say it shorter."
    )


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(tensor.detach().float().cpu().numpy(), np.float64)
