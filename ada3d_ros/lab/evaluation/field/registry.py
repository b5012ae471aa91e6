"""Which benchmarks there are: verb of `ada3d eval` -> module and object, imported when used."""

from __future__ import annotations

import importlib

from ada3d_ros.lab.evaluation.field.benchmark import Benchmark

BENCHMARKS = {
    "scanqa": "scanqa:SCANQA",
    "sqa3d": "sqa3d:SQA3D_BENCHMARK",
    "scanrefer": "scanrefer:SCANREFER",
    "multi3drefer": "multi3drefer:MULTI3DREFER",
    "scan2cap": "scan2cap:SCAN2CAP",
    "openeqa": "openeqa:OPEN_EQA",
    "mmscan": "mmscan:MM_SCAN",
    "vqa": "vqa:VQA_V2",
    "mme": "mme:MME_BENCHMARK",
    "mmbench": "mmbench:MM_BENCH",
    "mmvet": "mmvet:MM_VET",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a verb. Raises KeyError for another name."""
    module, found = BENCHMARKS[name].split(":")
    loaded = importlib.import_module(f"ada3d_ros.lab.evaluation.field.{module}")
    known: Benchmark = getattr(loaded, found)
    return known
