"""BLEU, METEOR, ROUGE-L and CIDEr: equal to all that was recorded of LLaVA-3D's evaluators."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.evaluation import text_scores as module
from ada3d_ros.lab.evaluation.metrics import clean_answer, exact_match, scanqa_scores, sqa3d_scores
from ada3d_ros.lab.evaluation.text_scores import (
    ALL_SCORES,
    BLEU,
    CIDER,
    METEOR,
    ROUGE,
    WITHOUT_JAVA,
    Tokens,
    captions_at_iou,
    text_scores,
)

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed: pip install .[eval]")
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="no Java: METEOR and the Penn Treebank tokeniser need it"
)
TOLERANCE, METEOR_TOLERANCE = 1e-9, 1e-6  # golden/metrics/README.md
RECORDED = {METEOR: "meteor", ROUGE: "rouge_l", CIDER: "cider"}


@pytest.fixture(scope="module")
def recorded(golden_dir: Path) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads(
        (golden_dir / "metrics/cases.json").read_text(encoding="utf-8")
    )
    return cases


def compare(recorded: dict[str, Any], route: str, tokens: Tokens, clean: bool, java: bool) -> int:
    """Every recorded number of a route; how many there were."""
    change = clean_answer if clean else str
    predictions = [change(item["pred"]) for item in recorded["items"]]
    references = [[change(text) for text in item["refs"]] for item in recorded["items"]]
    names = ALL_SCORES if java else WITHOUT_JAVA
    found, theirs = text_scores(predictions, references, tokens, names), recorded["scores"][route]
    assert tuple(found.overall) == tuple(found.per_text) == names

    compared = 0
    for name in names:
        scores = theirs[RECORDED.get(name, "bleu")]
        overall, per_text = scores["corpus"], scores["per_item"]
        if name in BLEU:
            overall, per_text = overall[BLEU.index(name)], per_text[BLEU.index(name)]
        within = METEOR_TOLERANCE if name == METEOR else TOLERANCE
        assert found.overall[name] == pytest.approx(overall, abs=within), name
        assert found.per_text[name] == pytest.approx(tuple(per_text), abs=within), name
        compared += 1 + len(per_text)
    return compared


def test_blanks_without_java_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    assert compare(recorded, "C_lower_whitespace", Tokens.BLANKS, False, False) == 6 * 69


@needs_java
def test_blanks_with_meteor_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    assert compare(recorded, "C_lower_whitespace", Tokens.BLANKS, False, True) == 7 * 69


@needs_java
def test_scanqas_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    """Cleaned, then the Penn Treebank tokeniser: what the ScanQA evaluator reports."""
    assert compare(recorded, "A_clean_ptb", Tokens.PTB, True, True) == 7 * 69
    evaluator = recorded["scores"]["scanqa_evaluator"]
    for number, name in enumerate(BLEU):
        corpus = recorded["scores"]["A_clean_ptb"]["bleu"]["corpus"]
        assert evaluator[f"[scanqa] {name}"] == corpus[number]


@needs_java
def test_captions_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    assert compare(recorded, "B_raw_ptb", Tokens.PTB, False, True) == 7 * 69


def test_scores_by_hand() -> None:
    """One word more than the reference: 2 of 3 words; LCS 2, precision 2/3, recall 1."""
    found = text_scores(["The  red chair", "sofa"], [["red chair"], ["bed"]], Tokens.BLANKS, BLEU)
    assert found.per_text["Bleu_1"][0] == pytest.approx(2 / 3, abs=1e-8)
    assert found.overall["Bleu_1"] == pytest.approx(2 / 4, abs=1e-8)  # 2 right of 4 said
    found = text_scores(["The red chair"], [["red chair"]], Tokens.BLANKS, (ROUGE, CIDER))
    precision, recall, beta = 2 / 3, 1.0, 1.2
    assert found.overall[ROUGE] == pytest.approx(
        (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    )
    assert found.overall[CIDER] == 0.0  # of a single text: no word is rarer than another


def test_a_caption_counts_where_its_box_is_right() -> None:
    texts, references = ["red chair", "blue sofa"], [["red chair"], ["blue sofa"]]
    whole = text_scores(texts, references, Tokens.BLANKS, WITHOUT_JAVA)
    kept = captions_at_iou(texts, [0.5, 0.49], 50)
    assert kept == ["red chair", ""]
    at_50 = text_scores(kept, references, Tokens.BLANKS, WITHOUT_JAVA)
    assert captions_at_iou(texts, [0.5, 0.49], 25) == texts
    assert captions_at_iou(texts, [0.5, 0.49], 50, "sos eos") == ["red chair", "sos eos"]
    for name in (ROUGE, CIDER):
        assert at_50.per_text[name] == (whole.per_text[name][0], 0.0)
        assert at_50.overall[name] == pytest.approx(whole.overall[name] / 2)
    assert whole.overall[CIDER] == pytest.approx(5.0)  # words and pairs of four, times 10
    with pytest.raises(ValueError, match="2 captions, 1 IoUs"):
        captions_at_iou(texts, [1.0], 50)


def test_without_java_it_is_said_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    for tokens, names in ((Tokens.PTB, BLEU), (Tokens.BLANKS, (METEOR,))):
        with pytest.raises(ConfigError, match=r"needs Java.*apt install default-jre-headless"):
            text_scores(["chair"], [["chair"]], tokens, names)


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ConfigError, match=r"pycocoevalcap.*pip install.*\.\[eval\]"):
        text_scores(["chair"], [["chair"]], Tokens.BLANKS, BLEU)


@pytest.mark.parametrize("answer", [b"", b"one line more\nend\n"])
@needs_java
def test_a_tokeniser_that_ends_early_is_an_error(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocoevalcap.tokenizer import ptbtokenizer

    class Ended:
        def __init__(self, *args: Any, **keywords: Any) -> None: ...

        def communicate(self, input: str) -> tuple[bytes, None]:
            return answer, None

    monkeypatch.setattr(ptbtokenizer.subprocess, "Popen", Ended)
    with pytest.raises(ConfigError, match="Penn Treebank tokeniser"):
        text_scores(["chair"], [["chair", "seat"]], Tokens.PTB, BLEU)


@needs_java
def test_a_tokeniser_of_another_alphabet_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def fail(self: Any, texts: Any) -> Any:
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "Latin-1")

    monkeypatch.setattr(PTBTokenizer, "tokenize", fail)
    with pytest.raises(ConfigError, match="UTF-8 locale"):
        text_scores(["chair"], [["chair"]], Tokens.PTB, BLEU)


@needs_java
def test_a_meteor_that_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocoevalcap.meteor import meteor

    monkeypatch.setattr(meteor, "METEOR_JAR", "nothing.jar")
    with pytest.raises(ConfigError, match="METEOR gave no score"):
        text_scores(["chair"], [["chair"]], Tokens.BLANKS, (METEOR,))


@pytest.mark.parametrize(
    ("predictions", "references", "names", "match"),
    [
        (["a"], [], BLEU, "1 predictions, 0 lists"),
        ([], [], BLEU, "no text"),
        (["a"], [[]], BLEU, "no reference"),
        (["a"], [["a"]], ("SPICE",), "no score is called 'SPICE'"),
    ],
)
def test_what_cannot_be_scored(
    predictions: list[str], references: list[list[str]], names: tuple[str, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        text_scores(predictions, references, Tokens.BLANKS, names)


def test_quirks_off(recorded: dict[str, Any]) -> None:
    """An empty prediction is no answer; all else of the recorded set is the same."""
    assert exact_match("", ["yes"]) == (False, True)
    assert exact_match("", ["yes"], quirks=False) == (False, False)
    assert exact_match("yes", ["."], quirks=False) == (False, False)
    assert exact_match(".", [""], quirks=False) == (True, True)
    assert exact_match("arm chair", ["armchair"], quirks=False) == (False, True)

    items = recorded["items"]
    changed = [
        item["id"]
        for item in items
        if exact_match(item["pred"], item["refs"], quirks=False)[1] != bool(item["em_refined"])
    ]
    assert changed == [30, 31, 33]  # an empty text on one side
    scores = scanqa_scores([""], [["yes"]], quirks=False)
    assert scores == {"EM1": 0.0, "EM1_refined": 0.0}
    scores = sqa3d_scores(["yes"], ["yes"], [2], quirks=False)
    assert scores["EM_type2"] == 1.0
    assert scores["EM_type0"] != scores["EM_type0"]  # nothing asked is no number
