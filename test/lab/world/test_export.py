"""Exported files have the shapes that LLaVA-3D's evaluators read, and lose nothing."""

import json
from pathlib import Path

import torch

from ada3d_ros.lab.world.export import export, scene_name
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import make_rooms


def test_every_question_with_an_answer_is_in_one_file(tmp_path: Path) -> None:
    known = graphs(make_rooms("test", torch.arange(4)))
    asked = [
        (scene_name("test", 1, i), g, make_questions(g, i, tuple(KINDS), 22))
        for i, g in enumerate(known)
    ]
    counts = export(asked, tmp_path)
    files = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in counts}
    assert {name: len(rows) for name, rows in files.items()} == counts
    total = sum(q.kind != "absent" for _, _, questions in asked for q in questions)
    assert (
        counts["scanqa_questions"]
        + counts["sqa3d_questions"]
        + counts["scanrefer"]
        + counts["scan2cap"]
        == total
    )
    for kind in ("scanqa", "sqa3d"):  # same order, same ids, as the reference's evaluators assert
        ids = [
            [row["question_id"] for row in files[f"{kind}_{part}"]]
            for part in ("questions", "answers")
        ]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == len(ids[0]) > 0
    assert set(files["scanqa_questions"][0]) == {"question_id", "video", "text"}
    assert isinstance(files["scanqa_answers"][0]["text"], list)
    assert isinstance(files["sqa3d_answers"][0]["text"], str)
    assert {row["type"] for row in files["sqa3d_answers"]} == {1}  # "Is the lamp on my left ...?"
    caption = files["scan2cap"][0]
    assert caption["conversations"][0]["value"].startswith("<video>\n")
    assert "<boxes>" in caption["conversations"][0]["value"]
    assert len(caption["target"]["boxes"][0]) == 6
    refer = files["scanrefer"][0]
    thing = next(t for t in known[0].things if str(t.number) == refer["object_id"])
    assert refer["object_name"] == thing.category
    assert refer["box"][:3] == [round(v, 4) for v in thing.center_m]
