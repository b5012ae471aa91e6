"""What docs/fleet.md says in numbers: python tools/measure_fleet.py docs/results/fleet.json

ring: robots that move when a replica comes, by the router's own code. wire: bytes and milliseconds
of a keyframe. sizes: scenes that fit on a GPU, by the memory plan. served (starts Ray): time beside
the model, answers through the wire against the same in process, a killed replica, many robots.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.fleet.scene_host import plan_scenes
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.lab.benchmarks.shapes import SHAPES
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.memory import predict_memory
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.sources.folder import FolderOptions, FolderSource
from ada3d_ros.store.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.types import Keyframe, KeyframeReason, Question, RgbdFrame

ROOT = Path(__file__).resolve().parents[1]
SEED, VIEWS = 0, 8
ROBOTS, BEFORE, AFTER, RINGS = 500, 8, 9, 20
GPUS_GB, FREE_SHARE = (24, 48, 80, 141), 0.95
ASK = Question("What color is the table?", max_new_tokens=8, routed=False)
DESK_INTRINSICS = (517.3, 516.5, 318.6, 255.3)
WARM, KEYFRAMES, MANY = 40, 40, 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="+", default=["ring", "wire", "sizes", "served"])
    given = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "ring": ring,
        "wire": wire,
        "sizes": sizes,
        "served": served_figures,
    }
    file, results = ResultFile(given.out, "cpu", SEED), {"n": WARM}
    for name in given.parts:
        results[name] = parts[name]()
        file.write(results, complete=name == given.parts[-1])
    return 0


def spread(values: list[float]) -> dict[str, float]:
    found = np.asarray(values)
    low, middle, high = np.percentile(found, (5, 50, 95)).tolist()
    return {"n": len(values), "median": middle, "p5": low, "p95": high, "max": float(found.max())}


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


def drawn_frames(seed: int, views: int, width: int, height: int) -> tuple[RgbdFrame, ...]:
    """Of a generated room: the middle rows of square pictures."""
    frames, top = generate_room(seed, side_px=width).frames[:views], (width - height) // 2
    return tuple(
        replace(
            frame,
            rgb=frame.rgb[top : top + height].copy(),
            depth_m=frame.depth_m[top : top + height].copy(),
            intrinsics=replace(frame.intrinsics, cy=frame.intrinsics.cy - top, height=height),
        )
        for frame in frames
    )


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


# -- the whole server


@contextmanager
def cluster(port: int) -> Iterator[None]:
    from ada3d_ros.fleet.serve import prepare_environment, served

    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        prepare_environment()
        from ada3d_ros.fleet.deployment import FleetSettings, application

        settings = {"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False}
        limits = HostLimits(prefixes=6, scenes=12)
        app = application(FleetSettings(settings, limits, (2, 2), cpus=0.5))
        own = {"include_dashboard": False, "num_cpus": 3, "log_to_driver": False}
        with served(app, {"host": "127.0.0.1", "port": port}, own):
            yield


def robot(port: int, name: str, seed: int) -> RemotePipeline:
    flat = {
        "model.remote": f"http://127.0.0.1:{port}",
        "remote.robot_id": name,
        "remote.retry_sec": 120.0,
        "keyframe.max_views": VIEWS,
    }
    made = RemotePipeline(from_flat(flat), background=True)
    made.load()
    for frame in drawn_frames(seed, VIEWS, 448, 336):
        made.observe(frame)
    return made


def in_process(remote: RemotePipeline) -> Ada3DPipeline:
    scene = remote.scene
    sent = tuple(unpack_keyframe(pack_keyframe(keyframe)) for keyframe in scene.keyframes)
    local = Ada3DPipeline(
        from_flat({"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False})
    )
    local.load()
    local.restore(replace(scene, keyframes=sent))
    return local


def served_figures() -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    begun = time.monotonic()
    found: dict[str, Any] = {"replicas": 2, "views": VIEWS, "image": "448x336"}
    with cluster(port):
        found["start_s"] = time.monotonic() - begun
        found |= warm(port)
        found |= killed(port)
        found |= many(port)
    return found


def warm(port: int) -> dict[str, Any]:
    """One question again and again, served and in process in turn."""
    remote = robot(port, "warm", 1)
    local = in_process(remote)
    remote.ask(ASK), local.ask(ASK)
    here, there, beside, same = [], [], [], 0
    for _ in range(WARM):
        begun = time.perf_counter()
        ours = local.ask(ASK)
        middle = time.perf_counter()
        theirs = remote.ask(ASK)
        end = time.perf_counter()
        here.append((middle - begun) * 1e3)
        there.append((end - middle) * 1e3)
        beside.append(there[-1] - theirs.timings.total_s * 1e3)
        same += ours.text == theirs.text
    return {
        "in_process_ms": spread(here),
        "served_ms": spread(there),
        "beside_the_model_ms": spread(beside),
        "same_text": [same, WARM],
    }


def replica_pids() -> list[int]:
    """Of this cluster alone, which is known by its token."""
    found, token = [], os.environ["RAY_AUTH_TOKEN_PATH"].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            ours = token in (folder / "environ").read_bytes()
        except OSError:
            continue
        if ours and command.startswith(b"ray::ServeReplica:ada3d"):
            found.append(int(folder.name))
    return sorted(found)


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def killed(port: int) -> dict[str, Any]:
    robots = [robot(port, f"k{number}", number % 4) for number in range(6)]
    before = [one.ask(ASK).text for one in robots]
    os.kill(replica_pids()[0], signal.SIGKILL)
    begun, seconds, same = time.monotonic(), [], 0
    for one, text in zip(robots, before, strict=True):
        same += one.ask(ASK).text == text
        seconds.append(time.monotonic() - begun)
    return {
        "killed_replica": {
            "robots": len(robots),
            "all_answered_after_s": seconds[-1],
            "first_answered_after_s": seconds[0],
            "same_text": [same, len(robots)],
            "scenes_sent_again": sum(one.upload.again for one in robots),
        }
    }


def many(port: int) -> dict[str, Any]:
    while len(replica_pids()) < 2:  # the successor of the one that was killed
        time.sleep(1.0)
    sizes_mib, answered = [], 0
    for number in range(MANY):
        answered += bool(robot(port, f"m{number}", number % 4).ask(ASK).text)
        if number % 10 == 9:
            sizes_mib.append(sum(rss_mib(pid) for pid in replica_pids()))
    return {"robots_in_turn": {"answered": [answered, MANY], "replicas_mib_each_ten": sizes_mib}}


if __name__ == "__main__":
    sys.exit(main())
