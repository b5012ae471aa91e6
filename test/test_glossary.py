"""Names come from docs/glossary.md: what it names exists, what that replaced is not used.

Looked at: identifiers, docstrings and comments of the package, and the pages a reader is sent to.
Texts for users (error sentences, log lines) are left alone, and so is quoted code in pages.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from test.support.sources import PACKAGE, ROOT, files_under, report

GLOSSARY = ROOT / "docs" / "glossary.md"
NOT_LOOKED_AT = {"glossary.md", "log.md"}  # the log tells what things were called then


@dataclass(frozen=True)
class OldName:
    """An identifier that was replaced. pattern: the whole name; where: in which files, by path."""

    pattern: str
    instead: str
    where: str = ""


@dataclass(frozen=True)
class OldPhrase:
    """Prose that was replaced."""

    pattern: str
    instead: str


OLD_NAMES = (
    OldName(r"_?see", "`encode_scene`"),
    OldName(r"Visual", "`SceneContext`"),
    OldName(r"visual", "`SceneContext`", "(engine|grounding)/|pipeline"),
    OldName(r"_?(speak|[Ss]peaker|spoken)", "`generate_text`, `TextStreamer`"),
    OldName(r"_?([Hh]eard|hear)", "what the caller was sent"),
    OldName(r"Asked", "`QueryContext`"),
    OldName(r"_?(effort|Effort|EFFORT)[sS]?", "`MemoryFallback`"),
    OldName(r"_?look(s|ed)?", "`encode_keyframe`, `ranking_inputs`, `load_room`"),
    OldName(r"_?put_behind", "`append_tokens`"),
    OldName(r"cut_to_budget", "`crop`"),
    OldName(r"_?Made", "`PrefixEntry`"),
    OldName(r"_begin", "`start_build`", "engine/"),
    OldName(r"_?serve_soon", "`ensure_usable`"),
    OldName(r"_?meet", "`on_scene_change`", "engine/"),
    OldName(r"_?catch_up", "`append_new_tokens`"),
    OldName(r"_?(front|back)", "`active`, `pending`"),
    OldName(r"_?work_ahead", "`run_background_step`"),
    OldName(r"_?nudged?", "`notify`"),
    OldName(r"_?Once", "`KeyedMemo`"),
    OldName(r"Laps", "`EventTimer`"),
    OldName(r"weigh_last", "`EventTimer.stop`"),
    OldName(r"original", "`num_before_selection`", "(engine|pruning)/"),
    OldName(r"_?entering", "`num_kept_pre_llm`"),
    OldName(r"(?i)needs_question", "`is_query_conditioned`"),
    OldName(r"there", "`presence_prob`", "(grounding|model|train)/"),
    OldName(r"said", "`offset_and_log_size`", "(grounding|model)/"),
    OldName(r"_?in_words", "`describe`"),
    OldName(r"Scene(Vision|Cache)", "`SceneEncoder`, `PrefixCache`"),
)
OLD_METHODS = (  # as a method's name and where it is called; fine as a local variable
    OldName(r"cut", "`crop`"),
    OldName(r"inner|pre", "`in_llm`, `pre_llm`"),
)
OLD_PHRASES = (
    OldPhrase(r"work(s|ed|ing)?[ -]ahead", "background step"),
    OldPhrase(
        r"behind (the|a|its|their|that|this) (cached )?(scene|prefix|room)s?",
        "after the scene tokens",
    ),
    OldPhrase(r"put(s|ting)?( it| them| voxels| tokens)? behind", "append"),
    OldPhrase(r"nudg(e|ed|es|ing)", "notify"),
    OldPhrase(r"(prefix|scene|one) (in|at the) (front|back|active|pending)", "the active prefix"),
    OldPhrase(r"(front|back) prefix", "the active prefix"),
    OldPhrase(
        r"(a|an|the|one|two|each|every|no) looks?(?! (at|up|like))", "encoding of a keyframe"
    ),
    OldPhrase(r"(speakers?|spoken)", "text streamer"),
    OldPhrase(r"heard", "sent to the caller"),
    OldPhrase(r"(?<!best-)(?<!best.)efforts?", "memory fallback"),
    OldPhrase(r"laps?", "interval"),
    OldPhrase(r"cut(s|ting)? (back|to (the |its |a )?budget)", "crop"),
    OldPhrase(r"(put_behind|work_ahead|cut_to_budget|weigh_last|needs_question)", "its new name"),
    OldPhrase(r"(SceneCache|SceneVision|scene_cache|scene_vision)", "its new name"),
    OldPhrase(r"engine/(visual|choose|speak|graphs|pointing|relevance)", "its new name"),
)


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, name, and whether it is that of a method, function, class or attribute."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr, True
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg, False
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name.rsplit(".", 1)[-1], False


def constructors_called_of(tree: ast.AST) -> Iterator[int]:
    """Lines of `Class.of`, and of a class method of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "of":
            if isinstance(node.value, ast.Name) and node.value.id[0].isupper():
                yield node.lineno
        elif isinstance(node, ast.FunctionDef) and node.name == "of" and node.decorator_list:
            yield node.lineno


def old_names(path: str, source: str) -> list[str]:
    """Old identifiers of a file, as `path:line: name: take ...`."""
    found: set[tuple[int, str, str]] = set()
    tree = ast.parse(source, path)
    for line, name, of_method in identifiers(tree):
        for old in (*OLD_NAMES, *(OLD_METHODS if of_method else ())):
            if re.search(old.where, path) and re.fullmatch(old.pattern, name):
                found.add((line, name, old.instead))
    found |= {(line, "of", "`from_config`") for line in constructors_called_of(tree)}
    return [f"{path}:{line}: {name}: take {instead}" for line, name, instead in sorted(found)]


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments, each with the line it begins on; neighbouring comments are one."""
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value
    begun, last, text = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] == last + 1:
            text += " " + token.string.lstrip("# ")
        else:
            if text:
                yield begun, text
            begun, text = token.start[0], token.string.lstrip("# ")
        last = token.start[0]
    if text:
        yield begun, text


def old_phrases(path: str, parts: Iterator[tuple[int, str]]) -> list[str]:
    """Old words of texts, as `path:line: words: take ...`; a phrase may go over a line's end."""
    found = []
    for first, text in parts:
        for old in OLD_PHRASES:
            pattern = r"\b" + old.pattern.replace(" ", r"\s+") + r"\b"
            for match in re.finditer(pattern, text, re.IGNORECASE):
                line = first + text.count("\n", 0, match.start())
                words = " ".join(match.group().split())
                found.append(f"{path}:{line}: {words!r}: take {old.instead}")
    return found


def pages() -> Iterator[tuple[str, str]]:
    """The pages a reader is sent to, with quoted code blanked."""
    for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))):
        if page.name in NOT_LOOKED_AT or "decisions" in page.parts:
            continue
        text = page.read_text()
        for code in (r"(?ms)^```.*?^```", r"`[^`\n]*`"):
            text = re.sub(code, lambda match: re.sub(r".", " ", match.group()), text)
        yield str(page.relative_to(ROOT)), text


def terms() -> list[str]:
    """The names in code that the glossary's first columns have."""
    rows = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_no_old_name_is_used() -> None:
    report(
        line for path, file in files_under(PACKAGE) for line in old_names(path, file.read_text())
    )


def test_no_old_word_is_written_about_the_code() -> None:
    report(
        line
        for path, file in files_under(PACKAGE)
        for line in old_phrases(path, prose_of(file.read_text()))
    )


def test_no_old_word_is_on_a_page() -> None:
    report(line for path, text in pages() for line in old_phrases(path, iter([(1, text)])))


def test_every_term_is_in_the_code() -> None:
    """As an identifier, private or not, or as a module."""
    known: set[str] = set()
    for _, file in files_under(PACKAGE):
        known.add(file.stem)
        known |= {name.lstrip("_") for _, name, _ in identifiers(ast.parse(file.read_text()))}
    assert len(terms()) > 50
    report(
        f"docs/glossary.md: `{name}` is not in the code" for name in terms() if name not in known
    )


def test_every_replacement_is_a_term() -> None:
    named = {n for old in (*OLD_NAMES, *OLD_METHODS) for n in re.findall(r"`(\w+)`", old.instead)}
    report(f"`{name}` is not in docs/glossary.md" for name in sorted(named - set(terms())))


def test_the_page_is_narrow() -> None:
    lines = enumerate(GLOSSARY.read_text().splitlines(), start=1)
    report(f"docs/glossary.md:{n}: {len(line)} columns" for n, line in lines if len(line) > 120)


@pytest.mark.parametrize(
    "source",
    [
        "def see(scene): ...",
        "visual = encode_scene()",
        "class Visual: ...",
        "from ada3d_ros.engine.streaming import generate_text as speak",
        "class Speaker: ...",
        "Heard(hooks)",
        "class Asked: ...",
        "def ask(effort): ...",
        "for effort in EFFORTS: ...",
        "self.look(keyframe)",
        "def _look(layer): ...",
        "prefix.put_behind(rows)",
        "prefix.cut(3)",
        "def cut(self): ...",
        "cut_to_budget(prefix)",
        "_Made(prefix)",
        "self._begin(scene)",
        "self._serve_soon()",
        "self._meet(scene)",
        "self._catch_up()",
        "self._front",
        "self._back = None",
        "worker.work_ahead()",
        "self.nudge()",
        "Once()",
        "Laps(device)",
        "timer.weigh_last(0.5)",
        "chosen.original",
        "policy.entering(4)",
        "policy.needs_question",
        "NEEDS_QUESTION = 1",
        "policy.inner",
        "policy.pre",
        "there = torch.sigmoid(logit)",
        "said = head(hidden)",
        "pruning.in_words(config)",
        "Policy.of(config)",
        "@classmethod\ndef of(cls, config): ...",
    ],
)
def test_a_planted_old_name_is_found(source: str) -> None:
    assert any(
        old_names(f"ada3d_ros/{layer}/planted.py", source) for layer in ("engine", "grounding")
    )


@pytest.mark.parametrize(
    "text",
    [
        "Nobody works ahead for it.",
        "A piece of work ahead of questions.",
        "The question goes behind the scene.",
        "New voxels are put\n    behind those that are there.",
        "The prefix in front answers.",
        "The front prefix answers.",
        "Asked before each look.",
        "What was heard is not taken back.",
        "The last lap counts.",
        "Another effort with fewer views.",
        "The worker is nudged.",
        "Cut back to the prefix.",
        "See engine/visual.",
    ],
)
def test_a_planted_old_word_is_found(text: str) -> None:
    docstring = f'def f():\n    """{text}"""\n'
    comment = "\n".join(f"# {line}" for line in text.split("\n"))
    for source in (docstring, comment):
        assert old_phrases("ada3d_ros/planted.py", prose_of(source)), source


def test_english_and_texts_for_users_are_let_be() -> None:
    source = '''
"""Looks at the keyframes; look up a name, see the paper. Best-effort images overlap at the back."""
look_at = original_size = pre_llm = seen = behind = None
raise ModelError("working ahead failed; put the question behind the scene")
'''
    assert old_names("ada3d_ros/ros/planted.py", source) == []
    assert old_phrases("ada3d_ros/ros/planted.py", prose_of(source)) == []
