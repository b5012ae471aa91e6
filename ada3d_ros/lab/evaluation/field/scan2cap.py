"""Scan2Cap: a caption of the object at a place.

Read is LLaVA-3D's list (id, video, conversations, target.boxes); each `<boxes>` of the prompt
becomes the box's centre, as its script clicks there. References of an object are the captions of
all entries with its scene and box, or with --references those of ScanRefer's list by scene and
object id (entries then need `object_id`).

C@.5 and its kin take a caption for one that was not given where the box that was asked about shares
less than that IoU with the object's true box (--boxes; without it the box of the question is the
true one, so that C@.5 is CIDEr). They are in the form of Scan2Cap's evaluator (video3dllm.md 6):
one caption an object, `sos` before and `eos` behind each text, lower case, blanks around full stops
and commas, split at blanks; one that was not given is `sos eos`. Without quirks every entry counts,
texts are tokenised as --tokens says, and what was not given is an empty text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.evaluation.field.benchmark import (
    NO_ANSWER,
    Files,
    Item,
    OfficialFile,
    Record,
    Scoring,
)
from ada3d_ros.lab.evaluation.field.grounded import BOXES
from ada3d_ros.lab.evaluation.field.json_files import Entry, checked_items, read_entries
from ada3d_ros.lab.evaluation.field.scanqa import QUESTIONS, REFERENCES
from ada3d_ros.lab.evaluation.field.scanrefer import BOX_FILES
from ada3d_ros.lab.evaluation.field.spoken import SpokenBenchmark, said_and_true
from ada3d_ros.lab.evaluation.field.true_boxes import TrueBoxes, box_of
from ada3d_ros.lab.evaluation.metrics import IOU_PERCENT, clean_answer, scanqa_scores
from ada3d_ros.lab.evaluation.text_scores import (
    ALL_SCORES,
    WITHOUT_JAVA,
    Tokens,
    captions_at_iou,
    text_scores,
)

VIDEO, CLICK = "<video>", "<boxes>"
OBJECT = "object"  # in Item.extra: whose caption it is, the same for all entries about one
CENTIMETRES = 2  # decimals by which boxes of one object are told from others
Key = tuple[object, ...]


class Scan2Cap(SpokenBenchmark):
    """See the module."""

    name = "scan2cap"
    description = "Scan2Cap: captions of objects; C@.5, B-4@.5, M@.5, R@.5 and the same at .25"
    files = (
        OfficialFile(QUESTIONS, "LLaVA-3D's list of conversations with target boxes"),
        OfficialFile(REFERENCES, "ScanRefer's JSON, for all captions of an object", False, False),
        *BOX_FILES,
    )

    def read(self, files: Files) -> list[Item]:
        path = files[QUESTIONS]
        entries = read_entries(path)
        known = TrueBoxes(files[BOXES]) if BOXES in files else None
        captions: Mapping[Key, list[str]]
        if REFERENCES in files:
            captions = _captions(read_entries(files[REFERENCES]), "description", _by_object)
        else:
            captions = _captions(entries, "", _by_box)
        items = [
            _item(entry, captions, known, _by_object if REFERENCES in files else _by_box)
            for entry in entries
        ]
        return checked_items(items, path)

    def item_score(self, item: Item, record: Record) -> float:
        """Words in common with the nearest reference, F1: CIDEr is of all captions together."""
        if NO_ANSWER in record:
            return 0.0
        said = set(clean_answer(record["text"]).split())
        best = 0.0
        for text in item.references:
            true = set(clean_answer(text).split())
            if said or true:
                best = max(best, 2 * len(said & true) / (len(said) + len(true)))
        return best * float(item.extra["iou"] >= IOU_PERCENT[1] / 100)

    def score(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> dict[str, float]:
        said, references = said_and_true(scored)
        scores = scanqa_scores(said, references, scoring.quirks)
        if scoring.tokens == "none":
            return scores
        tokens, missed = Tokens(scoring.tokens), ""
        names = ALL_SCORES if tokens is Tokens.PTB else WITHOUT_JAVA
        if scoring.quirks:
            scored, tokens, missed = _first_of_objects(scored), Tokens.BLANKS, in_own_form("")
            said = [in_own_form("" if NO_ANSWER in r else str(r["text"])) for _, r in scored]
            references = [tuple(map(in_own_form, item.references)) for item, _ in scored]
        ious = [float(item.extra["iou"]) for item, _ in scored]
        for percent in IOU_PERCENT:
            kept = captions_at_iou(said, ious, percent, missed)
            found = text_scores(kept, references, tokens, names)
            scores |= {f"{name}@.{percent}": value for name, value in found.overall.items()}
        return scores

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """How many entries ask about an object again."""
        objects = len(_first_of_objects(scored))
        if not scoring.quirks or objects == len(scored):
            return []
        return [
            f"@.25 and @.50 are of one caption for each of {objects} objects;"
            f" {len(scored) - objects} entries that ask about one again are left out"
        ]


def in_own_form(text: str) -> str:
    """A caption as Scan2Cap's evaluator splits it at blanks; "sos eos" of an empty one."""
    words = text.lower().replace(".", " . ").replace(",", " , ").split()
    return " ".join(("sos", *words, "eos"))


def _first_of_objects(scored: Sequence[tuple[Item, Record]]) -> list[tuple[Item, Record]]:
    """The first entry of each object, in the file's order."""
    first: dict[str, tuple[Item, Record]] = {}
    for item, record in scored:
        first.setdefault(str(item.extra[OBJECT]), (item, record))
    return list(first.values())


def _item(
    entry: Entry, captions: Mapping[Key, list[str]], known: TrueBoxes | None, key: Any
) -> Item:
    # The prompt, with the box's centre where it is clicked.
    text = _said(entry, 0)
    boxes = _boxes(entry)
    for box in boxes:
        place = ", ".join(f"{value:.3f}" for value in box[:3])
        text = text.replace(CLICK, f"[{place}]", 1)
    if CLICK in text or not boxes:
        raise entry.error(f"the prompt has {CLICK} without a box in target.boxes.")

    # What is true of it.
    references = captions.get(key(entry), [])
    if not references:
        raise entry.error("the file of references has no caption of its scene and object.")
    scene, iou = entry.text("video"), 1.0
    if known is not None:
        number = entry.text("object_id")
        if not number.isdecimal():
            raise entry.error(f"object_id is {number!r}; a number is expected.")
        true = known.box(scene, int(number))
        iou = iou_axis_aligned(box_of(boxes[0]), box_of(true))
    extra = {BOXES: boxes, "iou": iou, OBJECT: "|".join(map(str, key(entry)))}
    return Item(entry.text("id", "question_id"), scene, text, tuple(references), extra)


def _captions(entries: Sequence[Entry], field: str, key: Any) -> Mapping[Key, list[str]]:
    """All captions of an object; field: that holds one, "" for the answer of a conversation."""
    captions: dict[Key, list[str]] = defaultdict(list)
    for entry in entries:
        captions[key(entry)].append(entry.text(field) if field else _said(entry, 1))
    return captions


def _by_object(entry: Entry) -> Key:
    return entry.text("video", "scene_id").rsplit("/", 1)[-1], entry.text("object_id")


def _by_box(entry: Entry) -> Key:
    boxes = (round(value, CENTIMETRES) for box in _boxes(entry) for value in box)
    return entry.text("video"), *boxes


def _boxes(entry: Entry) -> list[list[float]]:
    """The target's boxes, of 6 numbers or of 9 with Euler angles, of which 6 count."""
    target = entry.value("target")
    rows = target.get(BOXES) if isinstance(target, dict) else None
    if not isinstance(rows, list) or not rows:
        raise entry.error("has no target.boxes.")
    return [
        entry.numbers(row, 9 if isinstance(row, list) and len(row) == 9 else 6)[:6] for row in rows
    ]


def _said(entry: Entry, turn: int) -> str:
    """What is said in a turn of the conversation, without the mark of the scene."""
    turns = entry.value("conversations")
    if not isinstance(turns, list) or len(turns) <= turn or not isinstance(turns[turn], dict):
        raise entry.error("conversations should hold a question and an answer.")
    text = Entry(entry.path, entry.number, turns[turn]).text("value")
    return text.removeprefix(VIDEO).strip()


SCAN2CAP = Scan2Cap()
