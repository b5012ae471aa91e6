"""Result files: which commit a tree is, what docs/results refuses, rows as they come in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab import results
from ada3d_ros.lab.results import (
    ROOT,
    ResultFile,
    Tree,
    digest,
    provenance,
    require_citable,
    tree,
    write_stamp,
)

SOURCE = Path("ada3d_ros", "one.py")


def git(root: Path, *args: str) -> str:
    named = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *named, *args], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one source file and one commit."""
    file = tmp_path / SOURCE
    file.parent.mkdir()
    file.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_a_tree_is_its_commit_and_whether_files_differ(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert tree(checkout) == Tree(commit, False)
    assert tree(checkout).citable
    # A file that git does not know changes nothing; one that it knows does.
    (checkout / "new.txt").write_text("x")
    assert tree(checkout) == Tree(commit, False)
    (checkout / SOURCE).write_text("a = 2\n")
    assert str(tree(checkout)) == f"{commit}+changes"
    assert not tree(checkout).citable


def test_a_copy_without_git_is_what_its_stamp_says(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    write_stamp(checkout)
    (checkout / ".git").rename(checkout / "elsewhere")
    assert tree(checkout) == Tree(commit, False)
    # A change after the stamp shows, as does a file more.
    (checkout / SOURCE).write_text("a = 2\n")
    assert tree(checkout) == Tree(commit, True)
    (checkout / SOURCE).write_text("a = 1\n")
    assert tree(checkout) == Tree(commit, False)
    (checkout / "ada3d_ros" / "two.py").write_text("")
    assert tree(checkout) == Tree(commit, True)
    with pytest.raises(ConfigError, match="no git checkout"):
        write_stamp(checkout)


def test_a_stamp_of_a_changed_tree_says_so(checkout: Path) -> None:
    (checkout / SOURCE).write_text("a = 2\n")
    write_stamp(checkout)
    (checkout / ".git").rename(checkout / "elsewhere")
    assert tree(checkout).changed


@pytest.mark.parametrize("stamp", [None, "", "{", "[]", '{"commit": "abc"}'])
def test_without_git_and_a_whole_stamp_the_commit_is_unknown(
    tmp_path: Path, stamp: str | None
) -> None:
    if stamp is not None:
        (tmp_path / ".stamp.json").write_text(stamp)
    assert tree(tmp_path) == Tree("unknown", False)
    assert not tree(tmp_path).citable


def test_cited_results_come_from_a_clean_known_tree(tmp_path: Path) -> None:
    cited = tmp_path / "docs" / "results" / "one.json"
    require_citable(cited, Tree("abc", False))
    with pytest.raises(ConfigError, match=r"differs from commit abc: commit first"):
        require_citable(cited, Tree("abc", True))
    with pytest.raises(ConfigError, match=r"the commit is unknown.*write_stamp"):
        require_citable(cited, Tree("unknown", False))
    # Elsewhere anything may be written.
    require_citable(tmp_path / "results" / "one.json", Tree("unknown", False))
    require_citable(tmp_path / "docs" / "one.json", Tree("abc", True))


def test_the_writer_refuses_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "tree", lambda: Tree("abc", True))
    cited = tmp_path / "docs" / "results" / "one.json"
    with pytest.raises(ConfigError, match="commit first"):
        ResultFile(cited, "cpu")
    assert not cited.exists()
    elsewhere = results.write_results(tmp_path / "one.json", {"n": 5}, "cpu", seed=3)
    data = json.loads(elsewhere.read_text())
    assert (data["provenance"]["commit"], data["provenance"]["seed"]) == ("abc+changes", 3)
    assert (data["n"], data["complete"]) == (5, True)


def test_sources_are_known_where_the_commits_name_is_not(checkout: Path) -> None:
    """A history that is written anew gives the same sources another commit."""
    before = digest(checkout)
    git(checkout, "commit", "-q", "--amend", "-m", "another name")
    assert digest(checkout) == before
    (checkout / SOURCE).write_text("a = 2\n")
    assert digest(checkout) != before
    assert provenance("cpu")["sources"] == digest(ROOT)


def test_a_file_is_whole_after_each_row(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "made" / "one.json", "cpu")
    for count in (1, 2):
        path = file.write({"rows": list(range(count))}, complete=False)
        data = json.loads(path.read_text())
        assert (data["complete"], data["rows"]) == (False, list(range(count)))
    assert json.loads(file.write({"rows": [7]}).read_text())["complete"]
    assert [p.name for p in path.parent.iterdir()] == ["one.json"]
