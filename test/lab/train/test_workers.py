"""Several workers on the CPU, as Accelerate starts them: one model, and one of them writes it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.train.workers import Workers

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import torch
from ada3d_ros.lab.train.workers import Workers
workers = Workers("cpu")
weight = torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.full((3,), float(workers.rank + 1))
unused = torch.nn.Parameter(torch.zeros(2))
if workers.rank:
    unused.grad = torch.ones(2)
workers.average_gradients([weight, unused])
assert (workers.count, workers.first) == (2, workers.rank == 0)
assert weight.grad.tolist() == [1.5] * 3 and unused.grad.tolist() == [0.5] * 2
assert workers.all_agree(True) and not workers.all_agree(workers.rank == 0)
workers.wait()
"""
SHORT_RUN = """
import dataclasses, sys
from ada3d_ros.lab.train import batches, run
batches.VAL_ROOMS = 2
full = tuple(dataclasses.replace(stage, rooms=32) for stage in run.CURRICULA["full"])
run.CURRICULA = {"full": full}
sys.exit(run.main(sys.argv[1:]))
"""


def launch(*arguments: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_one_worker_is_alone() -> None:
    workers = Workers("cpu")
    assert (workers.count, workers.rank, workers.first) == (1, 0, True)
    weight = torch.nn.Parameter(torch.zeros(3))
    workers.average_gradients([weight])
    assert weight.grad is None
    assert workers.all_agree(True)
    assert not workers.all_agree(False)


def test_without_accelerate_several_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match="pip install accelerate"):
        Workers("cpu")


def test_gradients_are_averaged_and_one_stop_stops_all(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several workers need Accelerate")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launch(str(script))


def test_two_workers_train_one_model(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several workers need Accelerate")
    out, script = tmp_path / "run", tmp_path / "short.py"
    script.write_text(SHORT_RUN)
    launch(str(script), "--out", str(out), "--stages", "symbolic", "--device", "cpu")
    seen = torch.load(out / "state.pt", weights_only=True)["seen"]
    assert seen == {"symbolic": 32}  # two steps of two workers, eight rooms each
