"""Write the sizing tables of docs/fleet.md: python tools/write_fleet_sizes.py

Robots by memory are the memory plan's (docs/results/fleet.json, sizes). Questions a minute are
computed: a step of decoding reads the decoder's weights and the scene's keys and values once, at
the memory speed in the GPU's data sheet, and takes so many times longer than that as it did where
it was measured (docs/results/decode_B.json, shares of the floor, on a processor).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.lab.benchmarks.shapes import SHAPES
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.memory import kv_bytes_per_token

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "fleet.md", ROOT / "docs" / "results"
BEGIN, END = "<!-- sizes: tools/write_fleet_sizes.py -->", "<!-- end -->"
GPUS = {  # GB -> name, GB/s of its memory, from the makers' data sheets
    24: ("RTX 4090", 1008),
    48: ("L40S", 864),
    80: ("H100 SXM", 3350),
    141: ("H200", 4800),
}
KINDS = {  # prune, kv -> words, share of the scene's tokens that a step reads, decode_B's prefill
    ("none", "auto"): ("whole, bf16", 1.0, "full"),
    ("build", "auto"): ("pruned to .41, bf16", 0.41, "pruned"),
    ("build", "int8"): ("pruned to .41, int8", 0.41, "pruned"),
}
SPATIAL, TEXT, ANSWER = 2560, 60, 30  # tokens of scene, question and answer, as in decode_B
BUSY = 0.5  # of the time at most: an answer then waits for half another in the mean


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def over_floor() -> dict[str, float]:
    """How many times the floor a step took, by prefill."""
    rows = [row for row in read("decode_B.json")["rows"] if row["engine"] == "ordinary"]
    return {row["prefill"]: row["floor_ratio"]["median"] for row in rows}


def decoder_bytes() -> int:
    """That a step reads in bf16: all but the table of embeddings, of which it reads a row."""
    with torch.device("meta"):
        decoder = LlamaDecoder(SHAPES["7B"].config)
    named = decoder.named_parameters()
    return sum(2 * p.numel() for name, p in named if not name.startswith("embed_tokens"))


def questions_a_minute(prune: str, kv: str, gpu_gb: int) -> float:
    """Of one replica that is never idle."""
    _, keep, prefill = KINDS[prune, kv]
    model = LlavaConfig(decoder=SHAPES["7B"].config, vision=VisionConfig())
    token = kv_bytes_per_token(model, torch.bfloat16, kv == "int8")
    read_bytes = decoder_bytes() + token * (keep * SPATIAL + TEXT)
    step_s = over_floor()[prefill] * read_bytes / (GPUS[gpu_gb][1] * 1e9)
    return 60.0 / ((ANSWER + 1) * step_s)  # the question's own pass, then a step for each token


def render() -> str:
    """Both tables."""
    rows = read("fleet.json")["sizes"]["rows"]
    names = " | ".join(f"{gb} GB" for gb in GPUS)
    head = f"| cached scene | MiB a scene | {names} |\n|{'---|' * (2 + len(GPUS))}"
    memory = [head]
    cards = " | ".join(f"{gb} GB ({name})" for gb, (name, _) in GPUS.items())
    rates = [f"| questions a minute / robots | {cards} |\n|{'---|' * (1 + len(GPUS))}"]
    for (prune, kv), (words, _, _) in KINDS.items():
        of_kind = {r["gpu_gb"]: r for r in rows if (r["prune"], r["kv"]) == (prune, kv)}
        counts = [of_kind[gb]["prefixes"] for gb in GPUS]
        mib = f"{next(iter(of_kind.values()))['mib_a_scene']:.0f}"
        memory.append(f"| {words} | {mib} | {' | '.join(map(str, counts))} |")
        a_minute = [questions_a_minute(prune, kv, gb) for gb in GPUS]
        robots = [min(c, int(BUSY * q)) for c, q in zip(counts, a_minute, strict=True)]
        cells = [f"{q:.0f} / {r}" for q, r in zip(a_minute, robots, strict=True)]
        rates.append(f"| {words} | {' | '.join(cells)} |")
    full, pruned = (f"{over_floor()[prefill]:.2f}" for prefill in ("full", "pruned"))
    says = (
        f"Questions a minute of a replica that is never idle, for answers of {ANSWER} tokens, and"
        " robots that each ask once a minute: as many as memory holds and as keep the replica at"
        f" work {100 * BUSY:.0f} % of the time. **Computed, not measured on a GPU**: a step reads"
        " the decoder's weights and the scene's keys and values once, at the data sheet's memory"
        f" speed, and takes {full} times as long (pruned: {pruned}), as it does on a processor"
        " (`results/decode_B.json`). New keyframes and other work of the replica come on top."
    )
    return "\n".join(memory) + f"\n\n{_wrapped(says)}\n\n" + "\n".join(rates)


def _wrapped(words: str, width: int = 120) -> str:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def updated(page: str) -> str:
    """The page with its tables anew."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{render()}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
