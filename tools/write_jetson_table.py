"""Write the table of docs/how-to/run-on-a-jetson.md: python tools/write_jetson_table.py

Computed, not measured: bytes of the memory plan (docs/results/memory.json) over the memory
bandwidth of NVIDIA's data sheets.
"""

from __future__ import annotations

from typing import Any

from table_parts import ROOT, head, result

PAGE = ROOT / "docs" / "how-to" / "run-on-a-jetson.md"
BEGIN, END = "<!-- jetson table: generated -->", "<!-- end -->"
SPATIAL = "1700"  # tokens of a scene, of those that the plan was made for
SYSTEM_GB = 2  # that the system and ROS need of the shared memory
WEIGHTS = ("full", "int8", "int4")
# Module: (memory in GB, bandwidth in GB/s), from the module data sheets.
MODULES = {
    "Orin Nano 8 GB": (8, 102.4),
    "Orin NX 16 GB": (16, 102.4),
    "AGX Orin 32 GB": (32, 204.8),
    "AGX Orin 64 GB": (64, 204.8),
    "AGX Thor T5000 128 GB": (128, 273.0),
}


def plans() -> dict[str, dict[str, Any]]:
    """weights -> the plan of a pruned scene of SPATIAL tokens; keys in int8 beside quantised
    weights, as a small module needs them.
    """
    rows = [row for row in result("memory")["fits"]["rows"] if row["prune"] == "build"]
    wanted = {"full": "bf16", "int8": "bf16", "int4": "int8"}
    return {
        row["weights"]: row["plans"][SPATIAL] for row in rows if row["kv"] == wanted[row["weights"]]
    }


def step_ms(plan: dict[str, Any], bandwidth_gbps: float) -> float:
    """Milliseconds that one generated token takes at least: each reads all weights of the decoder
    and one copy of the scene's keys and values (the plan holds two).
    """
    read = plan["decoder_layers"] + plan["embeddings"] / 2 + plan["kv_cache"] / 2
    return float(read / (bandwidth_gbps * 1e9) * 1e3)


def table() -> str:
    """A row a module: whether the 7B fits with these weights, and its least time per token."""
    lines = head("module | memory | " + " | ".join(f"`{name}`" for name in WEIGHTS))
    found = plans()
    for module, (memory_gb, bandwidth_gbps) in MODULES.items():
        cells = []
        for name in WEIGHTS:
            plan = found[name]
            fits = plan["total"] <= (memory_gb - SYSTEM_GB) * 1e9
            cells.append(f"{step_ms(plan, bandwidth_gbps):.0f} ms" if fits else "does not fit")
        memory = f"{memory_gb} GB, {bandwidth_gbps:g} GB/s"
        lines.append(f"| {module} | {memory} | {' | '.join(cells)} |")
    return "\n".join(lines)


def updated(page: str) -> str:
    """The page with today's table."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
