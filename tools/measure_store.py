"""What the store costs: python tools/measure_store.py docs/results/store.json

segments: bytes and milliseconds of a keyframe, written and read, of the photographed desk where its
recording is and of drawn rooms. told: what the thread of the frames waits, to say that there is a
keyframe. loaded: from a full store to the first answer, by the embedded model.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import KeyframeConfig, from_flat
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.segment import read_segment, segment_name, write_segment
from ada3d_ros.store.writer import SceneWriter
from ada3d_ros.types import Keyframe, KeyframeReason, Question, RgbdFrame

ROOT = Path(__file__).resolve().parents[1]
SEED, KEYFRAMES, LOADS = 0, 40, 5
DESK_INTRINSICS = (517.3, 516.5, 318.6, 255.3)
QUESTION = Question("What is the largest object?")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sources = {"drawn 384x384": drawn_frames(KEYFRAMES)}
    desk = ROOT.parent / "shared" / "data" / "tum_fr1_rpy"
    if desk.is_dir():
        read = FolderSource(desk, FolderOptions(intrinsics=DESK_INTRINSICS))
        sources["photographed 640x480"] = list(itertools.islice(read, KEYFRAMES))
    results: dict[str, Any] = {
        "n": KEYFRAMES,
        "segments": {
            f"{name}, {'lossless' if lossless else 'jpeg'}": segments(frames, lossless)
            for name, frames in sources.items()
            for lossless in (False, True)
        },
        "told_ms": told(next(iter(sources.values()))),
        "loaded": {
            "lossless" if lossless else "jpeg": loaded(lossless) for lossless in (False, True)
        },
    }
    ResultFile(given.out, "cpu", SEED).write(results)
    return 0


def drawn_frames(count: int) -> list[RgbdFrame]:
    rooms = (generate_room(seed, 2, split="val").frames for seed in itertools.count(SEED))
    return list(itertools.islice(itertools.chain.from_iterable(rooms), count))


def segments(frames: list[RgbdFrame], lossless: bool) -> dict[str, Any]:
    sizes_kb, write_ms, read_ms = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, frame in enumerate(frames):
            keyframe = Keyframe(frame, index, KeyframeReason.FIRST)
            begun = time.perf_counter()
            _, size = write_segment(folder, keyframe, 0, lossless)
            middle = time.perf_counter()
            read_segment(folder / segment_name(keyframe))
            sizes_kb.append(size / 1e3)
            write_ms.append((middle - begun) * 1e3)
            read_ms.append((time.perf_counter() - middle) * 1e3)
    return {"kb": spread(sizes_kb), "write_ms": spread(write_ms), "read_ms": spread(read_ms)}


def told(frames: list[RgbdFrame]) -> dict[str, float]:
    """While the thread of the store writes all the time."""
    buffer = KeyframeBuffer(KeyframeConfig(min_translation_m=0.0, min_rotation_deg=0.0))
    took_ms = []
    with tempfile.TemporaryDirectory() as name:
        writer = SceneWriter(NamedScenes(name).open("room", frames[0].frame_id))
        for number, frame in enumerate(frames):
            later = RgbdFrame(
                (number + 1) * 10**9,
                frame.rgb,
                frame.depth_m,
                frame.intrinsics,
                frame.T_world_cam,
                frame.frame_id,
            )
            buffer.offer(later)
            scene = buffer.snapshot()
            begun = time.perf_counter()
            writer.note_scene(scene)
            took_ms.append((time.perf_counter() - begun) * 1e3)
        writer.close(60.0)
    return spread(took_ms)


def loaded(lossless: bool) -> dict[str, Any]:
    """Seconds to read a scene, and to its first answer; how often that is the same as before."""
    flat = {"model.path": "embedded", "keyframe.min_translation_m": 0.0}
    config = from_flat(flat | {"keyframe.min_rotation_deg": 0.0})
    first = Ada3DPipeline(config)
    first.check()
    first.load()
    for frame in generate_room(SEED, 2, split="val").frames:
        first.observe(frame)
    answer = first.ask(QUESTION)
    read_s, answered_s, same = [], [], []
    with tempfile.TemporaryDirectory() as name:
        store = NamedScenes(name)
        writer = SceneWriter(store.open("room", "map"), lossless)
        writer.note_scene(first.scene)
        writer.close(60.0)
        for _ in range(LOADS):
            pipeline = first.beside()
            begun = time.perf_counter()
            saved = store.read("room", "map")
            pipeline.load_scene(saved.scene)
            read_s.append(time.perf_counter() - begun)
            again = pipeline.ask(QUESTION)
            answered_s.append(time.perf_counter() - begun)
            same.append(again.text == answer.text)
    return {
        "keyframes": len(first.scene.keyframes),
        "loads": LOADS,
        "read_s": spread(read_s),
        "answered_s": spread(answered_s),
        "same_answers": sum(same),
    }


def spread(values: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 4), "p95": round(float(p95), 4)}


if __name__ == "__main__":
    raise SystemExit(main())
