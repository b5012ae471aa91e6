"""BLEU-1..4, METEOR, ROUGE-L and CIDEr of texts against their references, by pycocoevalcap.

The ScanQA evaluator of LLaVA-3D cleans answers (metrics.clean_answer) and tokenises them as the
Penn Treebank; captions go to the tokeniser as they are. Tokeniser and METEOR are Java programs
inside the package: without Java texts are split at blanks and METEOR is left out, which other
numbers than published ones come from, so both are chosen by name and never by what is there.

Oddities of the package, kept because published numbers have them: CIDEr weighs words by how many
of the scored questions have them in their references, so it depends on the set and is 0 for a
single question; two empty texts have a ROUGE-L of 1 and a BLEU of 0; METEOR of a set is no mean.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ada3d_ros.errors import ConfigError

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
METEOR, ROUGE, CIDER = "METEOR", "ROUGE_L", "CIDEr"
WITHOUT_JAVA = (*BLEU, ROUGE, CIDER)
ALL_SCORES = (*BLEU, METEOR, ROUGE, CIDER)
_METEOR_SEPARATOR = "|||"  # of the texts that its process is given

Texts = Mapping[int, list[str]]


class Tokens(StrEnum):
    """How texts become words."""

    PTB = "ptb"  # Stanford's Penn Treebank tokeniser, lower case, marks removed: needs Java
    BLANKS = "blanks"  # lower case, split at blanks, marks stay


@dataclass(frozen=True, slots=True)
class TextScores:
    """By name of the score: over all texts, and of each text in their order; fractions, CIDEr 0
    to 10.
    """

    overall: dict[str, float]
    per_text: dict[str, tuple[float, ...]]


def text_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokens: Tokens = Tokens.PTB,
    names: Sequence[str] = ALL_SCORES,
) -> TextScores:
    """The scores of these names of each prediction against its references, one or more.

    Raises ConfigError where a package or Java is missing, ValueError for lists of other lengths, no
    text at all, a text without reference, a name that is none.
    """
    _check(predictions, references, names)
    if tokens is Tokens.PTB:
        require_java("the Penn Treebank tokeniser")
    if METEOR in names:
        require_java(METEOR)

    tokenise = _ptb_tokens if tokens is Tokens.PTB else _blank_tokens
    words = tokenise([*references, *([text] for text in predictions)])  # Java starts once
    known = {number: words[number] for number in range(len(references))}
    candidates = {number: words[len(references) + number] for number in known}

    overall: dict[str, float] = {}
    per_text: dict[str, tuple[float, ...]] = {}
    if any(name in BLEU for name in names):
        scorer = _load("bleu.bleu").Bleu(len(BLEU))
        means, lists = scorer.compute_score(known, candidates, verbose=0)
        for name, mean, values in zip(BLEU, means, lists, strict=True):
            overall[name], per_text[name] = float(mean), tuple(map(float, values))
    for name, score in ((METEOR, _meteor), (ROUGE, _rouge), (CIDER, _cider)):
        if name in names:
            mean, values = score(known, candidates)
            overall[name], per_text[name] = float(mean), tuple(map(float, values))
    return TextScores(
        {name: overall[name] for name in ALL_SCORES if name in names},
        {name: per_text[name] for name in ALL_SCORES if name in names},
    )


def captions_at_iou(
    captions: Sequence[str], ious: Sequence[float], percent: int, missed: str = ""
) -> list[str]:
    """What Scan2Cap's m@kIoU is the score of, "C@.5" of CIDEr at 50 percent: in the place of a
    caption whose box shares less than that IoU (0..1) with its object's stands `missed`.

    With an empty one CIDEr and ROUGE-L are the paper's mean of score times indicator; BLEU and
    METEOR are of the set, as in its evaluator. Raises ValueError for lists of other lengths.
    """
    if len(ious) != len(captions):
        raise ValueError(f"{len(captions)} captions, {len(ious)} IoUs.")
    both = zip(captions, ious, strict=True)
    return [text if iou >= percent / 100 else missed for text, iou in both]


def require_java(what: str) -> None:
    """Raises ConfigError where there is no `java` on the path."""
    if shutil.which("java") is None:
        raise ConfigError(
            f"{what} needs Java, and there is no `java` on the path: install a runtime (Debian,"
            " Ubuntu: apt install default-jre-headless), or score with --tokens blanks, which"
            " leaves METEOR out and is not what published numbers are."
        )


# -- the package


def _load(module: str) -> Any:
    """A module of pycocoevalcap. Raises ConfigError with the command that installs it."""
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError:
        raise ConfigError(
            "BLEU, METEOR, ROUGE-L and CIDEr need the Python package pycocoevalcap, which is not"
            " installed: `pip install -c constraints/python.txt pycocoevalcap` (or `pip install"
            " .[eval]`)."
        ) from None


def _rouge(known: Texts, candidates: Texts) -> tuple[Any, Any]:
    return _load("rouge.rouge").Rouge().compute_score(known, candidates)


def _cider(known: Texts, candidates: Texts) -> tuple[Any, Any]:
    return _load("cider.cider").Cider().compute_score(known, candidates)


def _meteor(known: Texts, candidates: Texts) -> tuple[Any, Any]:
    """By its process, which is ended. Raises ConfigError where that ends before."""
    scorer = _load("meteor.meteor").Meteor()
    process = scorer.meteor_p
    try:
        return scorer.compute_score(known, candidates)
    except (OSError, ValueError) as error:
        scorer.lock.release()  # left locked; it is taken again where the scorer goes
        raise ConfigError(
            f"METEOR gave no score ({error}): does `java -version` run, and are 2 GB of memory"
            " free?"
        ) from None
    finally:
        process.kill()
        process.wait()
        with suppress(OSError):  # of what it did not read any more
            process.stdin.close()
        process.stdout.close()
        process.stderr.close()


def _blank_tokens(texts: Sequence[Sequence[str]]) -> Texts:
    return {number: [_one_line(text.lower()) for text in each] for number, each in enumerate(texts)}


def _ptb_tokens(texts: Sequence[Sequence[str]]) -> Texts:
    """One run of the tokeniser. Raises ConfigError where it ends early or cannot write."""
    module = _load("tokenizer.ptbtokenizer")
    folder = os.path.dirname(os.path.abspath(module.__file__))
    if not os.access(folder, os.W_OK):  # it writes its input there
        raise ConfigError(
            f"the Penn Treebank tokeniser writes a file into {folder}, which may not be written:"
            " install pycocoevalcap into an environment of your own, or score with --tokens blanks."
        )
    lines = {
        number: [{"caption": _one_line(text)} for text in each] for number, each in enumerate(texts)
    }
    lines[len(texts)] = [{"caption": "end"}]  # so that empty texts before it are lines, too
    try:
        found: dict[int, list[str]] = module.PTBTokenizer().tokenize(lines)
    except UnicodeDecodeError:
        found = {}
    end = found.pop(len(texts), None)
    if end != ["end"] or any(len(found.get(n, ())) != len(each) for n, each in enumerate(texts)):
        raise ConfigError(
            "the Penn Treebank tokeniser gave other texts than it was given: does `java -version`"
            " run, with a UTF-8 locale (LC_ALL=C.UTF-8)?"
        )
    return found


def _one_line(text: str) -> str:
    """Blanks and line ends alike, and nothing that METEOR takes for a separator."""
    return " ".join(text.replace(_METEOR_SEPARATOR, " ").split())


def _check(
    predictions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]
) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, {len(references)} lists of references.")
    if not predictions:
        raise ValueError("no text to score.")
    if not all(references):
        raise ValueError("a text has no reference to be scored against.")
    unknown = [name for name in names if name not in ALL_SCORES]
    if unknown:
        raise ValueError(f"no score is called {unknown[0]!r}; there are {', '.join(ALL_SCORES)}.")
