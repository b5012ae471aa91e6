"""Weight files that are missing, damaged, unsafe or elsewhere: each is refused in our own words."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import (
    inspect_checkpoint,
    load_model,
    save_checkpoint,
    weights_sha256,
)
from ada3d_ros.model.weight_files import read_headers


def test_missing_shard_is_named(source: Path, tmp_path: Path) -> None:
    loaded = load_model(source)
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path, max_shard_bytes=60_000)
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of .* shards.*{victim.name}"):
        inspect_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /nonexistent/never",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_as_unsafe(
    folder: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    (folder / "model.safetensors").unlink()
    data, file = {"lm_head.weight": torch.zeros(1), "bomb": Bomb()}, folder / "pytorch_model.bin"
    torch.save(data, file, _use_new_zipfile_serialization=zipped, pickle_module=pickle)

    # Neither looking at it nor loading it runs anything.
    called.clear()
    for attempt in (inspect_checkpoint, load_model):
        with pytest.raises(CheckpointError, match=r"pytorch_model.bin is unsafe.*not loaded"):
            attempt(folder)
    assert called == []


class Maker:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["pickle", "torch", "legacy torch"])
def test_code_in_every_pickle_protocol_is_called_unsafe(
    folder: Path, protocol: int, kind: str
) -> None:
    """In our words: torch's own end with advice to load the file with weights_only=False."""
    (folder / "model.safetensors").unlink()
    maker, file = Maker(folder / "code_ran"), folder / "pytorch_model.bin"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"x": maker}, protocol=protocol))
    else:
        data, zipped = {"lm_head.weight": torch.zeros(3), "x": maker}, kind == "torch"
        torch.save(data, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)

    # It is refused with our words, and did not run.
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is unsafe.*not loaded") as caught:
        inspect_checkpoint(folder)
    assert "weights_only" not in str(caught.value)
    assert not (folder / "code_ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_called_unsafe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is unsafe") as caught:
        inspect_checkpoint(folder)
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",  # IndexError
        b"\x80\x02h\x05.",  # KeyError: a memo that was never written
        b"\x80\x02.",  # IndexError: an empty stack
        b"\x80\x02X\x00",  # struct.error
        b"\x80\x02}K\x01s.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01R.",  # TypeError
        b"\x80\x02X\x02\x00\x00\x00\xff\xff.",  # UnicodeDecodeError
        b"\x80\x02K\x01Q.",  # AssertionError
        b"\x00" * 100,
    ],
)
def test_damaged_pickles_are_checkpoint_errors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is damaged") as caught:
        inspect_checkpoint(folder)
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_never_raise_anything_else(tmp_path: Path, zipped: bool) -> None:
    file, tensors = tmp_path / "pytorch_model.bin", {f"t{i}": torch.ones(3) for i in range(4)}
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    content, generator = file.read_bytes(), random.Random(5)

    # Three bytes of the head at a time; some hit what does not matter.
    refusals = []
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[generator.randrange(min(len(content), 900))] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            read_headers([file])
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not any("weights_only" in text for text in refusals)


@pytest.mark.parametrize(
    "data", [{1: torch.zeros(1)}, {"a": torch.zeros(2, 2).to_sparse()}, [torch.zeros(1)]]
)
def test_a_bin_that_is_no_state_dict(folder: Path, data: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(data, folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="does not hold a dictionary of dense tensors by name"
    ):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("absolute", [True, False])
def test_an_index_that_leaves_the_folder(folder: Path, absolute: bool) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "x.safetensors")
    name = str(folder.parent / "x.safetensors") if absolute else "../x.safetensors"
    names = ("lm_head.weight",)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, name)})
    )
    with pytest.raises(CheckpointError, match=r"names files outside its folder: .*x\.safetensors"):
        inspect_checkpoint(folder)


def test_a_nonsense_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": ["x"], "b": 1}})
    )
    with pytest.raises(CheckpointError, match="lacks 2 of 2 shards"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_weights(folder: Path, name: str, keep: float) -> None:
    if name.endswith(".bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / name)
        (folder / "model.safetensors").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=f"{name} is damaged or cut short"):
        inspect_checkpoint(folder)


def test_sha256_of_one_file_is_sha256sum(folder: Path) -> None:
    import hashlib

    assert (
        weights_sha256(folder)
        == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
