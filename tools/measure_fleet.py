"""What docs/fleet.md says in numbers: python tools/measure_fleet.py docs/results/fleet.json

ring: robots that move when a replica comes, by the router's own code. wire: bytes and milliseconds
of a keyframe. sizes: scenes that fit on a GPU, by the memory plan. The others start Ray
(fleet_parts.py): served (--served names its parts), updated, scaled.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fleet_parts import SERVED, WARM, drawn_frames, scaled, served, spread, updated

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.fleet.scene_host import plan_scenes
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.lab.benchmarks.shapes import SHAPES
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.memory import predict_memory
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.store.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.types import Keyframe, KeyframeReason, RgbdFrame

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
ROBOTS, BEFORE, AFTER, RINGS = 500, 8, 9, 20
GPUS_GB, FREE_SHARE = (24, 48, 80, 141), 0.95
DESK_INTRINSICS = (517.3, 516.5, 318.6, 255.3)
KEYFRAMES = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "ring": ring,
        "wire": wire,
        "sizes": sizes,
        "served": lambda: served(given.served),
        "updated": updated,
        "scaled": scaled,
    }
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts)
    parser.add_argument("--served", nargs="+", default=list(SERVED), choices=SERVED)
    given = parser.parse_args()
    file, results = ResultFile(given.out, "cpu", SEED), {"n": WARM}
    for name in given.parts:
        results[name] = parts[name]()
        file.write(results, complete=name == given.parts[-1])
    return 0


# -- the ring


def ring() -> dict[str, Any]:
    """Shares of robots that move from 8 to 9 replicas, and the fullest replica's share of the mean,
    over replicas' names of many drawings.
    """
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    robots = [f"robot{number}" for number in range(ROBOTS)]
    random = np.random.default_rng(SEED)
    moved, fullest = [], []
    for _ in range(RINGS):
        names = [
            "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 8))
            for _ in range(AFTER)
        ]
        ids = [ReplicaID(name, DeploymentID("ada3d", "ada3d")) for name in names]
        places = []
        for count in (BEFORE, AFTER):
            router = object.__new__(ConsistentHashRouter)
            router._deployment_id = ids[0].deployment_id
            router._num_virtual_nodes, router._num_fallback_replicas = 100, 0
            router._rebuild_ring(frozenset(ids[:count]))
            places.append([router._lookup_ranked_replicas(robot)[0] for robot in robots])
        moved.append(sum(a != b for a, b in zip(*places, strict=True)) / ROBOTS)
        fullest.append(max(Counter(places[1]).values()) / (ROBOTS / AFTER))
    return {
        "robots": ROBOTS,
        "replicas": [BEFORE, AFTER],
        "even_share": 1 / AFTER,
        "moved": spread(moved),
        "fullest_to_mean": spread(fullest),
    }


# -- a keyframe


def wire() -> dict[str, Any]:
    """Of a photographed desk, where its recording is, and of drawn rooms."""
    sources = {"drawn 448x336": [f for seed in range(10) for f in drawn_frames(seed, 4, 448, 336)]}
    desk = ROOT.parent / "shared" / "data" / "tum_fr1_rpy"
    if desk.is_dir():
        read = FolderSource(desk, FolderOptions(intrinsics=DESK_INTRINSICS))
        sources["photographed 640x480"] = list(itertools.islice(read, KEYFRAMES))
    return {name: packed(frames) for name, frames in sources.items()}


def packed(frames: list[RgbdFrame]) -> dict[str, Any]:
    sizes_kib, pack_ms, unpack_ms = [], [], []
    for index, frame in enumerate(frames):
        keyframe = Keyframe(frame, index, KeyframeReason.FIRST)
        begun = time.perf_counter()
        data = pack_keyframe(keyframe)
        middle = time.perf_counter()
        unpack_keyframe(data)
        sizes_kib.append(len(data) / 1024)
        pack_ms.append((middle - begun) * 1e3)
        unpack_ms.append((time.perf_counter() - middle) * 1e3)
    return {"kib": spread(sizes_kib), "pack_ms": spread(pack_ms), "unpack_ms": spread(unpack_ms)}


# -- what fits


def sizes() -> dict[str, Any]:
    """The most prefixes that the memory plan allows at 7B in bf16, twice as many scenes kept."""
    shape = SHAPES["7B"]
    model = LlavaConfig(decoder=shape.config, vision=VisionConfig())
    form = WeightFormat(torch.bfloat16, "full", "cuda")
    rows = []
    for prune, kv in (("none", "auto"), ("build", "auto"), ("build", "int8")):
        config = from_flat(
            {"cache.prune": prune, "cache.kv": kv} if kv != "auto" else {"cache.prune": prune}
        )
        for gigabytes in GPUS_GB:
            limit, most = gigabytes * 1e9 * FREE_SHARE, 0
            while bytes_of(model, form, config, most + 1) <= limit and most < 2000:
                most += 1
            one = bytes_of(model, form, config, 2) - bytes_of(model, form, config, 1)
            rows.append(
                {
                    "prune": prune,
                    "kv": kv,
                    "gpu_gb": gigabytes,
                    "prefixes": most,
                    "mib_a_scene": one / 2**20,
                }
            )
    return {"views": AgentConfig().keyframe.max_views, "rows": rows}


def bytes_of(model: LlavaConfig, form: WeightFormat, config: AgentConfig, prefixes: int) -> int:
    limits = HostLimits(prefixes=prefixes, scenes=2 * prefixes)
    load = plan_scenes(config, limits, model, torch.device("cuda"))
    return predict_memory(model, form, load).total


if __name__ == "__main__":
    sys.exit(main())
