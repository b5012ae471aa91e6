"""`ada3d soak`: the node under a looping bag and steady questions, its memory and threads watched.

The node runs in a process of its own; the bag is played in another, many times over. It passes if
the resident memory grows by less than `GROWTH_MIB` after the warm-up, if every question was
answered or refused with a code, if no callback raised and if the threads stayed as many.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ada3d_ros.config import as_options
from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.lab.command_line import add_model_folders, model_folders
from ada3d_ros.lab.results import write_results
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.peer import AgentPeer, PeerError, start_verb
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.topics import TRANSPORT_SUFFIXES, BagTopics
from ada3d_ros.srv import GroundObject, QueryScene

GROWTH_MIB = 20.0
ASK_EVERY_S = 1.0
LAST_ANSWER_S = 60.0
# In turn; the last three cannot be served, and one before them has no time.
QUESTIONS: tuple[dict[str, Any], ...] = (
    {"question": "Is there a table?"},
    {"question": "Is there a cabinet?"},
    {"question": "What is at [1.0, 0.5, 0.4]?"},
    {"question": "Describe the object at [1.0, 0.5, 0.4].", "max_new_tokens": 64},
    {"question": "How many chairs are there?", "keep_ratio": 0.7},
    {"phrase": "the cabinet"},
    {"question": "What colour is the table?", "timeout_sec": 0.02},
    {"question": ""},
    {"question": "What is at [1, 2?"},
    {"question": "What is there?", "keep_ratio": 7.0},
)


@dataclass(slots=True)
class Soak:
    """What was seen: one sample a second, and every question."""

    seconds: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    total_ms: list[float] = field(default_factory=list)

    def growth_mib(self, warm_up_s: float) -> float:
        """Median of the last tenth above the median of the first tenth behind the warm-up."""
        warm = [
            mib for s, mib in zip(self.seconds, self.resident_mib, strict=True) if s > warm_up_s
        ]
        tenth = max(1, len(warm) // 10)
        return statistics.median(warm[-tenth:]) - statistics.median(warm[:tenth])

    def thread_counts(self, warm_up_s: float) -> list[int]:
        """The different numbers of threads behind the warm-up."""
        return sorted({n for s, n in zip(self.seconds, self.threads, strict=True) if s > warm_up_s})


def process_state(pid: int) -> tuple[float, int]:
    """(resident MiB, threads) of a process, from /proc. Raises PeerError where it has ended."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "VmRSS" not in values:  # it has just ended
        raise PeerError("the agent ended.")
    return int(values["VmRSS"].split()[0]) / 1024, int(values["Threads"])


def inputs_of(topics: BagTopics) -> tuple[dict[str, str], dict[str, object]]:
    """(remappings, parameters) with which the node reads the topics of a bag."""
    remaps = {"rgb/camera_info": topics.camera_info, "pose": topics.pose}
    parameters: dict[str, object] = {"use_sim_time": "true"}
    for role, topic in (("rgb", topics.rgb), ("depth", topics.depth)):
        if topic.endswith(TRANSPORT_SUFFIXES):
            transport = topic.rpartition("/")[2]
            parameters[f"{role}_transport"] = transport
            remaps[f"{role}/image/{transport}"] = topic
        else:
            remaps[f"{role}/image"] = topic
    return remaps, parameters


class _Asker:
    """Sends a question a second and notes how each of them ended."""

    def __init__(self, peer: AgentPeer, soak: Soak) -> None:
        self._peer, self._soak = peer, soak
        self._pending: list[Any] = []
        self.sent = 0

    def send(self) -> None:
        fields = QUESTIONS[self.sent % len(QUESTIONS)]
        if "phrase" in fields:
            future = self._peer.send(GroundObject, "ground", GroundObject.Request(**fields))
        else:
            future = self._peer.send(QueryScene, "query", QueryScene.Request(**fields))
        self._pending.append(future)
        self.sent += 1

    def collect(self) -> bool:
        """Note what has come; True if nothing is outstanding."""
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            # ~/ground says itself whether a box was found; its answer is the model's text
            response = future.result()
            outcome = response if hasattr(response, "success") else response.answer
            if outcome.success:
                self._soak.answered += 1
                self._soak.total_ms.append(response.answer.latency.total_ms)
            elif outcome.error_code != ErrorCode.NONE and outcome.error_msg:
                self._soak.refused[ErrorCode(outcome.error_code).name] += 1
            else:
                self._soak.lost += 1
        return not self._pending

    def give_up(self) -> None:
        self._soak.lost += len(self._pending)


def soak_node(peer: AgentPeer, bag: Path, minutes: float, rate: float) -> Soak:
    """Play, ask and sample for so many minutes. Raises PeerError if node or player ends."""
    with start_verb("replay", str(bag), "--loop", "--rate", str(rate)) as player:
        # The first frames, so that questions have a scene.
        peer.wait_for_state({AgentStatus.READY}, 120.0)
        soak, start = Soak(), time.monotonic()
        asker = _Asker(peer, soak)

        # One question and one sample a second.
        while (elapsed := time.monotonic() - start) < minutes * 60.0:
            asker.send()
            soak.seconds.append(elapsed)
            mib, threads = process_state(peer.process.pid)
            soak.resident_mib.append(mib)
            soak.threads.append(threads)
            peer.spin_for(max(0.0, start + asker.sent * ASK_EVERY_S - time.monotonic()))
            asker.collect()
            if peer.process.poll() is not None:
                raise PeerError(f"the agent ended, exit code {peer.process.returncode}.")
            if player.poll() is not None:
                raise PeerError(f"the player ended, exit code {player.returncode}.")

        # What is still under way.
        peer.spin_until(asker.collect, LAST_ANSWER_S)
        asker.give_up()
    return soak


def judge(soak: Soak, warm_up_s: float, errors: int) -> list[str]:
    """What did not pass, as sentences; empty if all did."""
    problems = []
    if (growth := soak.growth_mib(warm_up_s)) >= GROWTH_MIB:
        problems.append(f"resident memory grew by {growth:.1f} MiB, allowed is {GROWTH_MIB:g}.")
    if soak.lost:
        problems.append(f"{soak.lost} questions were neither answered nor refused with a code.")
    if not soak.answered:
        problems.append("no question was answered.")
    if len(counts := soak.thread_counts(warm_up_s)) > 1:
        problems.append(f"the number of threads changed: {counts}.")
    if errors:
        problems.append(f"{errors} callbacks raised.")
    return problems


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole soak. Raises PeerError if the node does not come up or ends."""
    remaps, parameters = inputs_of(BagSource(options.bag).topics)
    model = {"model.path": "embedded", **model_folders(options)}
    parameters |= {**model, "generation.max_new_tokens": 32}
    warm_up_s = min(120.0, 0.3 * options.minutes * 60.0)
    with AgentPeer(parameters, remaps) as peer:
        peer.wait_for_state({AgentStatus.WAITING_FOR_DATA, AgentStatus.READY}, 120.0)
        soak = soak_node(peer, options.bag, options.minutes, options.rate)
        diagnostics = peer.next_diagnostics()
    errors = int(diagnostics["Inference"]["internal_errors"])
    times = soak.total_ms or [float("nan")]
    return {
        "suite": "soak",
        "bag": options.bag.name,
        "model": model["model.path"],
        "minutes": options.minutes,
        "rate": options.rate,
        "warm_up_s": warm_up_s,
        "n": soak.answered + soak.refused.total() + soak.lost,
        "answered": soak.answered,
        "refused": dict(soak.refused),
        "lost": soak.lost,
        "growth_mib": soak.growth_mib(warm_up_s),
        "threads": soak.thread_counts(warm_up_s),
        "callback_errors": errors,
        "total_ms_p50": statistics.median(times),
        "total_ms_max": max(times),
        "scene": diagnostics["Scene"],
        "synchronization": diagnostics["Synchronization"],
        "problems": judge(soak, warm_up_s, errors),
        # every fifth second
        "seconds": [round(s, 1) for s in soak.seconds[::5]],
        "resident_mib": [round(mib, 2) for mib in soak.resident_mib[::5]],
    }


def main(args: Sequence[str]) -> int:
    """Returns 0; 1 if something did not pass, or the node does not come up."""
    parser = argparse.ArgumentParser(
        prog="ada3d soak",
        description="Play a bag in a loop into a node that is asked a question a second; watch its"
        " memory, its threads and its answers.",
    )
    parser.add_argument("bag", type=Path, help="a rosbag2 with colour, depth, camera_info, pose")
    add = parser.add_argument
    add_model_folders(add, "the embedded model")
    add("--minutes", type=float, default=30.0, help="(default 30)")
    add("--rate", type=float, default=5.0, help="of the player (default 5)")
    add("--json", type=Path, help="write the results here")
    options = parser.parse_args(list(args))
    if not (0.2 <= options.minutes < math.inf and 0 < options.rate < math.inf):
        parser.error("--minutes must be at least 0.2, --rate above 0.")

    try:
        results = run(options)
    except Ada3DError as error:
        print(f"ada3d soak: {as_options(str(error))}", file=sys.stderr)
        return 1

    codes = [f"{count} {name}" for name, count in results["refused"].items()]
    print(
        f"{results['n']} questions in {options.minutes:g} min: {results['answered']} answered,"
        f" {sum(results['refused'].values())} refused with a code ({', '.join(codes) or 'none'}),"
        f" {results['lost']} lost; p50 {results['total_ms_p50']:.1f} ms"
    )
    print(
        f"resident memory {results['growth_mib']:+.1f} MiB after {results['warm_up_s']:.0f} s of"
        f" warm-up; threads {results['threads']}; callbacks that raised"
        f" {results['callback_errors']}"
    )
    for problem in results["problems"]:
        print(f"not passed: {problem}", file=sys.stderr)
    if options.json:
        print(f"wrote {write_results(options.json, results, device='cpu', seed=0)}")
    return 1 if results["problems"] else 0
