"""What a benchmark of the field is to the harness: one small object.

It reads its official files to items, makes a question of an item, keeps of an answer what is
scored, and scores all. Everything else (scenes, processes, resuming, progress, page) is the
harness's (harness.py). A new benchmark is one file here and a line in registry.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ada3d_ros.types import Answer, Question, Scope

# Of one item: what is kept of its answer. JSON values only; "text" is the answer's words, "boxes"
# lists [cx, cy, cz, dx, dy, dz, score] in metres, best first. The harness adds "error" where there
# was no answer.
Record = dict[str, Any]
NO_ANSWER = "error"  # of a record without an answer: why it did not come
NOBODY_SAYS = "no answer came"  # scored by words in its place: an empty text is in all others
TOKENS = ("ptb", "blanks", "none")
Files = Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    id: unique in its file; source: the scene or image it is about, as the official file names it
    ("scannet/scene0011_00", "COCO_val2014_000000262148.jpg"); text: what is asked, before the
    prompt is put around it; references: true answers in words, () where there are none; extra: what
    else the benchmark needs to ask or to score, JSON values.
    """

    id: str
    source: str
    text: str
    references: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """An official file as an option of the command line: `--questions FILE` for "questions".

    asked: whether what is asked depends on it; else answers stay good when another is given.
    """

    name: str
    help: str
    required: bool = True
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Scoring:
    """tokens: how texts become words for BLEU, METEOR, ROUGE-L and CIDEr, one of TOKENS
    (text_scores.Tokens; none: no such scores). quirks: as the published evaluators count, oddities
    too.
    """

    tokens: str = "ptb"
    quirks: bool = True


class Benchmark(Protocol):
    """One benchmark. Methods are pure: same input, same output, whatever was asked before.

    name: of the verb; description: one line; scope: SCENE where `Item.source` is a scene,
    LATEST_IMAGE where it is an image; grounds: whether `pipeline.ground` answers (else `ask`);
    prompt: the line behind every question by which the reference asks for a form of answer, "" for
    none; files: its official files.
    """

    name: str
    description: str
    scope: Scope
    grounds: bool
    prompt: str
    files: Sequence[OfficialFile]

    def read(self, files: Files) -> list[Item]:
        """The items in the files' order; files: by OfficialFile.name, optional ones may be absent.

        Raises SourceError naming file, entry and the way out: not JSON, a key that is missing, ids
        that are there twice or without a reference, an empty list.
        """
        ...

    def question(self, item: Item) -> Question:
        """As the reference asks it: prompt, coordinates, limits of tokens and boxes.

        A benchmark that grounds gives the phrase as the question's text.
        """
        ...

    def record(self, item: Item, answer: Answer) -> Record:
        """What is kept of the answer: all that `score` reads, JSON values, no times."""
        ...

    def read_answers(self, path: Path) -> dict[str, Record]:
        """Records by item id from a file of somebody's answers (json_files.py has the usual
        forms). Raises SourceError for another format or an id that is there twice.
        """
        ...

    def item_score(self, item: Item, record: Record) -> float:
        """How good one answer is, 0..1; NaN where only all of them can be scored.

        Its mean is the running score, its lowest values are the worst items.
        """
        ...

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        """The benchmark's numbers by name over all items, in the files' order. A record with
        "error" is a wrong answer.

        Raises ConfigError where a package or Java is missing.
        """
        ...

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """Sentences below the numbers: what of what was scored they leave out."""
        ...
