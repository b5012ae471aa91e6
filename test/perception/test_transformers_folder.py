"""Folders that are no detector, or lack a part: a sentence that says which, and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.perception.transformers_folder import find_folder
from test.support.tiny_detectors import frame_of, write_owlv2, write_rt_detr


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rt_detr(tmp_path_factory.mktemp("detectors") / "rt_detr")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "rt_detr"))


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(DetectorError) as caught:
        open_detector(DetectorConfig(path=str(path), **settings))
    return str(caught.value)


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_language_model_is_no_detector(folder: Path) -> None:
    change_config(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    text = refusal(folder)
    assert "its config.json says LlamaForCausalLM, model_type 'llama'" in text
    assert "belongs into model.path" in text
    assert "rt_detr" in text
    assert "owlv2" in text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json says what model this is"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list, expected a JSON object"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "holds no preprocessor_config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            r"as a pickle, pytorch_model.bin, and loading one could run code",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
            ),
            "is a Git LFS pointer",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:5000]
            ),
            "cannot be loaded as rt_detr",
        ),
        (
            lambda f: (
                (f / "model.safetensors").rename(f / "model-1-of-1.safetensors")
                and (f / "model.safetensors.index.json").write_text(
                    json.dumps({"weight_map": {"a": "model-2-of-2.safetensors"}})
                )
            ),
            "model-2-of-2.safetensors cannot be read",
        ),
        (
            lambda f: (f / "preprocessor_config.json").write_text("{"),
            "cannot be loaded as rt_detr",
        ),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(
    folder: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(folder)
    with pytest.raises(DetectorError, match=sentence):
        open_detector(DetectorConfig(path=str(folder)))


def test_weights_in_shards_are_read(folder: Path) -> None:
    whole = find_folder(str(folder)).sha256()
    (folder / "model.safetensors").rename(folder / "model-1-of-1.safetensors")
    names = load_file(folder / "model-1-of-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1-of-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    detector = open_detector(DetectorConfig(path=str(folder)))
    assert detector.info.sha256 == whole
    assert detector.info.min_score == 0.5


def test_missing_weights_are_refused_and_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "class_embed" not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert "of the weights that rt_detr needs, first" in refusal(folder)


def test_counters_of_training_that_are_missing_do_not_matter(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "num_batches_tracked" not in name}
    assert 0 < len(kept) < len(weights)
    expected = open_detector(DetectorConfig(path=str(folder), min_score=0.05)).detect(frame_of())
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    found = open_detector(DetectorConfig(path=str(folder), min_score=0.05)).detect(frame_of())
    assert found is not None
    assert expected is not None
    assert [d.score for d in found.detections] == [d.score for d in expected.detections]


def test_another_count_of_classes_than_the_weights_is_refused(folder: Path) -> None:
    change_config(folder, id2label={"0": "cup", "1": "door"}, label2id={"cup": 0, "door": 1})
    assert "rt_detr" in refusal(folder)


def test_a_names_file_of_another_count_is_refused(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cup\ndoor\n")
    text = refusal(folder, names=str(names))
    assert "holds 2 names" in text
    assert "has 3 classes: write 3 lines" in text


def test_classes_without_names_need_a_names_file(tmp_path: Path) -> None:
    folder = write_rt_detr(tmp_path / "nameless", kinds=None)
    assert "has 3 classes without names" in refusal(folder)
    names = tmp_path / "names.txt"
    names.write_text("cup\ndoor\nwindow\n")
    detector = open_detector(DetectorConfig(path=str(folder), names=str(names)))
    assert detector.info.kinds == ("cup", "door", "window")


def test_the_missing_file_of_a_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_owlv2(tmp_path / "owl")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "vocab.json").write_text("{}")
    text = refusal(folder)
    assert "lacks the tokenizer" in text
    assert "missing: merges.txt" in text


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/nowhere/detector", "/nowhere/detector is not there"),
        ("nowhere", "nowhere is not there"),
        ("./no/folder", "is not there"),
        ("nobody/no-such-detector", "is no folder here, and no model of this name is in the local"),
    ],
)
def test_what_is_not_there_is_not_downloaded(path: str, sentence: str) -> None:
    text = refusal(path)
    assert sentence in text
    assert "Nothing is downloaded" in text


def test_a_name_in_the_local_cache_is_opened(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, file_download

    # A cache as the library lays it out.
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(written, snapshot)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0" * 40)
    for module in (constants, file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)

    detector = open_detector(DetectorConfig(path="someone/tiny"))
    assert (detector.info.name, detector.info.kinds) == ("tiny", ("cup", "chair", "tv"))
    assert "no model of this name" in refusal("someone/other")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    assert "torch sees 0 CUDA devices" in refusal(folder, device="cuda:1")
    assert open_detector(DetectorConfig(path=str(folder), device="auto")).info.name == "rt_detr"


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(DetectorError, match=r"perhaps"):
        find_folder(str(file))
