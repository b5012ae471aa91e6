"""Weight files that are missing, damaged, unsafe or elsewhere: each is refused in our own words."""

import dataclasses
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
from torch.utils._python_dispatch import TorchDispatchMode

from ada3d_ros.errors import CheckpointError
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.model.checkpoint import (
    inspect_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
    weights_sha256,
)
from ada3d_ros.model.layout import official_name
from ada3d_ros.model.quantize import stored_bytes
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.model.weight_files import CAST_ELEMENTS, copy_into, read_headers, read_tensors
from ada3d_ros.model.weight_format import is_quantized


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


# -- copies of what is stored

FORMATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("stored", FORMATS, ids=str)
@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_a_copy_is_torchs_cast(stored: torch.dtype, wanted: torch.dtype) -> None:
    """Every pattern of 16 bits, subnormal numbers, infinities and NaN among them."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    values = patterns.view(torch.float16 if stored == torch.float32 else stored).to(stored)
    tensor = values.repeat(CAST_ELEMENTS // values.numel() + 1)[: CAST_ELEMENTS + 3].view(1, -1)
    made = torch.zeros(tensor.shape, dtype=wanted)
    copy_into(made, tensor)
    assert torch.equal(made.isnan(), tensor.isnan())
    assert torch.equal(made.nan_to_num(7.0), tensor.to(wanted).nan_to_num(7.0))
    one = torch.zeros((), dtype=wanted)
    copy_into(one, torch.tensor(2.0, dtype=stored))
    assert one == 2.0


class Casts(TorchDispatchMode):
    """Notes what crosses to another device: device and format before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = args[0]
        if made.device != given.device:
            self.seen.append((given.device.type, given.dtype, made.device.type, made.dtype))
        return made


def test_what_is_stored_goes_to_the_device_as_it_is() -> None:
    """Cast there: not a byte more than the file's crosses, and the host makes no second copy."""
    tensor = torch.ones(1000, dtype=torch.float32)
    made = torch.empty(1000, dtype=torch.bfloat16, device="meta")
    with Casts() as casts:
        copy_into(made, tensor)
    assert casts.seen == [("cpu", torch.float32, "meta", torch.float32)]


@pytest.mark.parametrize("stored", FORMATS, ids=str)
def test_loading_takes_no_second_copy(tmp_path: Path, stored: torch.dtype) -> None:
    """Beside the weights one mapped tensor, and a piece of it in float32. Layers that multiply the
    same input are filled where they lie in one storage, and nothing is copied once more.
    """
    decoder = dataclasses.replace(TINY_CONFIG.decoder, max_positions=128)  # a small rope table
    config = dataclasses.replace(TINY_CONFIG, decoder=decoder)
    write_random_checkpoint(tmp_path, 0, config, 2_000_000, stored)
    info, made = inspect_checkpoint(tmp_path), []

    def load() -> None:
        made.append(load_weights(info, dtype=torch.bfloat16))

    peak, weights = peak_bytes(load, torch.device("cpu")), stored_bytes(made[0])
    largest = max(p.numel() for p in made[0].parameters())
    assert weights <= peak <= weights + 2 * 4 * largest
    assert 2 * 4 * largest < weights / 4
    with torch.inference_mode():
        assert made[0].decoder.layers[0].mlp.fused_weight() is not None


@pytest.mark.parametrize("weights", ["full", "int8"])
def test_every_value_is_the_files(folder: Path, weights: str) -> None:
    """Whatever the order of the file: layers in one storage once lost what had been read."""
    stored = load_file(folder / "model.safetensors")
    model = load_model(folder, weights=weights).model
    for name, parameter in model.named_parameters():
        if weights == "full" or not is_quantized(name):
            assert torch.equal(parameter, stored[official_name(name)]), name
    assert len(stored) == len(list(model.parameters()))


def test_tensors_come_in_the_order_of_the_file(source: Path) -> None:
    file = source / "model.safetensors"
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    ordered = sorted(header, key=lambda name: header[name]["data_offsets"])
    wanted = ordered[5:1:-1]
    assert [name for name, _ in read_tensors(file, wanted)] == ordered[2:6]
