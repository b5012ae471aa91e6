"""Several workers on the CPU, as Accelerate starts them: one model, and one of them writes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.train import batches, run
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
assert list(workers.mean([1, 3 * workers.rank])) == [1.0, 1.5]
assert workers.share_of(4) == slice(2 * workers.rank, 2 * workers.rank + 2)
workers.wait()
"""


def short_run(argv: list[str]) -> int:
    """Two steps of one stage in float32; the first one's gradients are kept beside the run, a file
    for each worker.
    """
    average, out = Workers.average_gradients, Path(argv[argv.index("--out") + 1])

    def keep(workers: Workers, parameters: Sequence[nn.Parameter]) -> None:
        average(workers, parameters)
        path = out / f"gradients{workers.rank}.pt"
        if not path.exists():
            torch.save([p.grad for p in parameters if p.grad is not None], path)

    stages = tuple(replace(stage, batch=4, rooms=8) for stage in run.CURRICULA["full"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "VAL_ROOMS", 2)
        patch.setattr(run, "CURRICULA", {"full": stages})
        patch.setattr(run, "autocast", lambda session: nullcontext())
        patch.setattr(Workers, "average_gradients", keep)
        return run.main(argv)


def gradients(folder: Path, rank: int = 0) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.load(folder / f"gradients{rank}.pt")])


def launch(*arguments: str) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [sys.executable, *launcher, "--main_process_port", "0", *arguments]
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


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers("cpu")
    assert workers.share_of(3) == slice(0, 3)
    monkeypatch.setattr(workers, "count", 3)
    with pytest.raises(ConfigError, match="batches of 8 rooms evenly; allowed: 1, 2, 4, 8"):
        workers.share_of(8)


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several workers need Accelerate")
    options = ["--stages", "symbolic", "--device", "cpu", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    launch("-m", "test.lab.train.test_workers", *options, str(two))
    one.mkdir()
    shutil.copy(two / "tokenizer.model", one)
    assert short_run([*options, str(one)]) == 0

    # The workers' gradients are the same bit by bit; those of one worker, to rounding.
    first, alone = gradients(two), gradients(one)
    assert torch.equal(first, gradients(two, 1))
    assert float((first - alone).norm() / alone.norm()) < 1e-6

    # So are the weights after two steps, where Adam's first steps are all of one size.
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (one, two)]
    assert states[0]["seen"] == states[1]["seen"] == {"symbolic": 8}
    weights = [
        torch.cat([w.flatten() for w in state["modules"]["model"].values()]) for state in states
    ]
    finite = weights[0].isfinite()  # the tower, which another stage trains, has no values yet
    assert torch.equal(finite, weights[1].isfinite())
    assert float((weights[0] - weights[1])[finite].norm() / weights[0][finite].norm()) < 1e-4


if __name__ == "__main__":
    sys.exit(short_run(sys.argv[1:]))
