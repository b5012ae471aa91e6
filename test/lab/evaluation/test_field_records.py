"""Records on disk: appended, cut short, of other settings, of several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item
from ada3d_ros.lab.evaluation.field.harness import pending, share_of
from ada3d_ros.lab.evaluation.field.records import ItemRecordFile, read_records, write_answers

SETTINGS = {"views": 20, "files": {"questions": "ab12"}}


def fill(folder: Path, *names: str, rank: int = 0) -> Path:
    with ItemRecordFile(folder, SETTINGS, rank) as file:
        for name in names:
            file.append(name, {"text": f"answer to {name}, ç"})
    return file.path


def test_every_record_is_on_disk_when_it_is_appended(tmp_path: Path) -> None:
    with ItemRecordFile(tmp_path, SETTINGS) as file:
        file.append("a", {"text": "x"})
        assert read_records(tmp_path, SETTINGS) == {"a": {"id": "a", "text": "x"}}


def test_a_folder_without_records_has_none(tmp_path: Path) -> None:
    assert read_records(tmp_path / "new", SETTINGS) == {}


def test_a_last_line_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    path = fill(tmp_path, "a", "b")
    whole = path.read_bytes()
    for cut in (1, 5, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert list(read_records(tmp_path, SETTINGS)) == ["a"]
        fill(tmp_path, "b")
        assert path.read_bytes() == whole


def test_a_first_line_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    path = fill(tmp_path, "a")
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    assert read_records(tmp_path, SETTINGS) == {}
    fill(tmp_path, "a")
    assert path.read_bytes() == whole


def test_other_settings_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    with pytest.raises(ConfigError, match=r"views was 20, now 10.*another folder with --out"):
        read_records(tmp_path, SETTINGS | {"views": 10})
    with pytest.raises(ConfigError, match="suffix was None, now short"):
        read_records(tmp_path, SETTINGS | {"suffix": "short"})


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = fill(tmp_path, "a", "b")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-3], lines[2], ""]))
    with pytest.raises(SourceError, match=r"records.jsonl line 2 is damaged"):
        read_records(tmp_path, SETTINGS)
    path.write_text("\n".join([lines[0], '{"text": "x"}', ""]))
    with pytest.raises(SourceError, match="line 2 is no record"):
        read_records(tmp_path, SETTINGS)
    path.write_text(lines[1] + "\n")
    with pytest.raises(SourceError, match="line 1 does not hold the settings"):
        read_records(tmp_path, SETTINGS)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with (
        ItemRecordFile(tmp_path, SETTINGS),
        pytest.raises(ConfigError, match="written by another process"),
        ItemRecordFile(tmp_path, SETTINGS),
    ):
        pass
    fill(tmp_path, "a")  # the first has ended


def test_records_of_all_processes_are_one_in_the_items_order(tmp_path: Path) -> None:
    fill(tmp_path, "c", "a")
    fill(tmp_path, "b", rank=1)
    records = read_records(tmp_path, SETTINGS)
    path = write_answers(tmp_path / "answers.jsonl", (records[name] for name in "abc"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["text"] == "answer to a, ç"


# -- who asks what


def items_of(*sources: str) -> list[Item]:
    return [Item(str(number), source, "?") for number, source in enumerate(sources)]


def test_what_is_there_is_not_asked_again() -> None:
    items = items_of("s", "t", "s")
    left = pending(items, {"0": {"text": "x"}})
    assert left == {"t": [items[1]], "s": [items[2]]}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_scenes_are_shared_out_whole_and_evenly(count: int) -> None:
    items = items_of(*"aabbbcddddeffff")
    left = pending(items, {})
    shares = [share_of(left, count, rank) for rank in range(count)]
    assert sorted(source for share in shares for source in share) == list("abcdef")
    for share in shares:
        assert all(share[source] == left[source] for source in share)
    loads = [sum(map(len, share.values())) for share in shares]
    assert max(loads) - min(loads) <= max(map(len, left.values()))
