"""What a keyframe's way to the server costs in accuracy, on generated rooms, in pairs.

    python tools/measure_wire_accuracy.py docs/results/fleet_wire.json [--scenes N]

Every room is asked about twice, by the agent's own defaults: its views as they are, and as the
server unpacks them (JPEG 90 and millimetres). The packing alone makes the difference; that a server
answers about the same keyframes as a model in process does is `served` of measure_fleet.py. A file
of the same sources is gone on with. Differences are in points, with 95 % intervals over rooms.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.evaluation.intervals import difference_interval, room_draws
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.selection import TEXT_KINDS, Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import ask_room
from ada3d_ros.lab.evaluation.tally import Tally
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.store.keyframe_bytes import JPEG_QUALITY, pack_keyframe, unpack_keyframe
from ada3d_ros.types import Keyframe, KeyframeReason, RgbdFrame

SEED = 0
ASKED = (*TEXT_KINDS, *("grounding", "absent") * 12)  # what is drawn twice is asked once
WAYS = ("raw", "wire")
KINDS = {"qa": "q", "acc25": "f", "absent_box": "a"}  # and the letter of each in a row
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    defaults = AgentConfig()
    file = ResultFile(given.out, "cpu", SEED)
    rows = rows_before(given.out, file.provenance["sources"])
    strategy, keep = defaults.pruning.strategy, defaults.pruning.keep_ratio
    settings = {"question.measure": defaults.question.measure}
    pipeline = open_pipeline(Path("embedded"), strategy, keep, settings)
    selection, left = RoomSelection("test", SEED, given.scenes), range(len(rows), given.scenes)
    for number, room in zip(left, rooms_of(selection, pipeline.view_side, left), strict=True):
        asked = questions_of(room, number)
        row: Row = {"room": number, "kinds": "".join(KINDS[kind_of(each)] for each in asked)}
        for way, frames in zip(WAYS, (room.frames, sent(room.frames)), strict=True):
            load_room(pipeline, frames)
            tally = Tally()
            ask_room(pipeline, asked, room.boxes, tally)
            row[way] = {id(each.question): each.right for each in tally.outcomes}
        for way in WAYS:
            row[way] = "".join(str(int(row[way][id(question)])) for question in asked)
        rows.append(row)
        found = {"split": "test", "strategy": strategy, "jpeg_quality": JPEG_QUALITY}
        file.write(found | summary(rows) | {"rooms": rows}, len(rows) == given.scenes)
    return 0


def rows_before(path: Path, sources: str) -> list[Row]:
    """Of a file that was begun. Raises ConfigError where other code made it."""
    if not path.is_file():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["provenance"]["sources"] != sources:
        raise ConfigError(f"{path} was made by other sources: remove it, or name another.")
    rows: list[Row] = data["rooms"]
    return rows


def questions_of(room: Room, seed: int) -> list[RoomQuestion]:
    """Each text and each phrase once."""
    made = make_questions(room.graph, seed, ASKED, len(ASKED))
    return list({(question.kind, question.text): question for question in made}.values())


def sent(frames: tuple[RgbdFrame, ...]) -> list[RgbdFrame]:
    """The frames as they are once they came to the server."""
    packed = (pack_keyframe(Keyframe(f, i, KeyframeReason.FIRST)) for i, f in enumerate(frames))
    return [unpack_keyframe(data).frame for data in packed]


def kind_of(question: RoomQuestion) -> str:
    """Of KINDS."""
    if not question.phrase:
        return "qa"
    return "absent_box" if question.target is None else "acc25"


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares both ways and their difference; of absent things, the share that got a box."""
    draws, found = room_draws(len(rows)), dict[str, Any]()
    for kind, letter in KINDS.items():
        sums: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            at = [index for index, each in enumerate(row["kinds"]) if each == letter]
            counted = "0" if kind == "absent_box" else "1"
            for way in WAYS:
                sums[way].append(sum(row[way][index] == counted for index in at))
            sums["n"].append(len(at))
            sums["differ"].append(sum(row["raw"][index] != row["wire"][index] for index in at))
        raw, wire, asked = (np.asarray(sums[name], np.float64) for name in (*WAYS, "n"))
        total = max(asked.sum(), 1.0)
        found[kind] = {
            "n": int(asked.sum()),
            "raw": raw.sum() / total,
            "wire": wire.sum() / total,
            "points": 100 * (wire - raw).sum() / total,
            "interval": [100 * end for end in difference_interval(wire, raw, asked, draws)],
            "differ": sum(sums["differ"]),
        }
    return {"n": sum(each["n"] for each in found.values()), "rooms_asked": len(rows)} | found


if __name__ == "__main__":
    sys.exit(main())
