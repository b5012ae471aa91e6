"""Folders that are no checkpoint: one text each, with the cause and a way out that works."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_model
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import TINY_VIDEO3D, write_random_checkpoint
from ada3d_ros.model.startup import check_model
from test.support.checkpoints import TOWER, edit_config, move_tower, tensors_of, write_tensors
from test.support.pipelines import configured

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 4976\n"
INDEX = "model.safetensors.index.json"


def refusal(path: Path, vision_path: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(path, vision_path)
    return str(caught.value)


def shard(folder: Path, factor: float = 1.0) -> Path:
    """The weights once more as a shard with its index, multiplied by a factor."""
    tensors = {name: t * factor for name, t in tensors_of(folder).items()}
    file = "model-00001-of-00001.safetensors"
    write_tensors(folder, tensors, file)
    weight_map = dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / file


def make_adapter(folder: Path, name: str = "adapter_model.safetensors", **facts: object) -> None:
    (folder / "model.safetensors").unlink()
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}
    write_tensors(folder, lora, name)
    (folder / "adapter_config.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_names_its_base_and_to_merge(folder: Path, name: str, has_config: bool) -> None:
    make_adapter(folder, name, peft_type="LORA", base_model_name_or_path="llava-v1.5-7b")
    if not has_config:  # as peft saves one
        (folder / "config.json").unlink()
    text = refusal(folder)
    for words in ("LoRA", "merge", "llava-v1.5-7b"):
        assert words in text


def test_what_llava_saves_beside_an_adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "non_lora_trainables.bin")
    assert "an adapter (LoRA)" in refusal(folder)


def test_an_adapter_without_its_facts(folder: Path) -> None:
    make_adapter(folder)
    (folder / "adapter_config.json").write_text("not JSON")
    assert "an adapter (LoRA)" in refusal(folder)
    assert "its base model" in refusal(folder)


def test_an_adapter_of_another_kind_is_called_so(folder: Path) -> None:
    make_adapter(folder, peft_type="IA3")
    assert "holds an adapter (IA3)" in refusal(folder)


def test_an_adapter_beside_whole_weights_is_said_to_be_unused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tensors(folder, {"lora": torch.zeros(1)}, "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING):
        check_model(configured(folder).model)
    assert "adapter_model.safetensors is not applied, only model.safetensors" in caplog.text


def pickle_file(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "pytorch_model.bin"


def shard_file(folder: Path) -> str:
    file = shard(folder)
    (folder / "model.safetensors").unlink()
    return file.name


def index_file(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return INDEX


def official_tokenizer(folder: Path) -> str:
    edit_config(folder, drop=("ada3d_tokenizer_sha256",))
    return "tokenizer.model"


STAND_INS = [
    *(lambda f: "model.safetensors", pickle_file, shard_file, index_file),
    *(lambda f: "config.json", lambda f: "tokenizer.model", official_tokenizer),
]


@pytest.mark.parametrize("which", STAND_INS)
def test_a_git_lfs_pointer_in_the_place_of_any_file(
    folder: Path, which: Callable[[Path], str]
) -> None:
    file = folder / which(folder)
    file.write_text(POINTER)
    text = refusal(folder)
    assert text.startswith(f"{file} is a Git LFS pointer")
    assert "git lfs pull" in text
    assert "copy the file again" not in text


@pytest.mark.parametrize("which", STAND_INS[:-1])  # an unknown tokenizer is read when loading
@pytest.mark.parametrize("page", ["<!DOCTYPE html>\n<html>", "\n<html lang='en'>"])
def test_a_web_page_in_the_place_of_any_weights(
    folder: Path, which: Callable[[Path], str], page: str
) -> None:
    file = folder / which(folder)
    file.write_text(page)
    assert refusal(folder).startswith(f"{file} is a web page")


def test_a_pointer_that_is_not_read_harms_nothing(folder: Path) -> None:
    """`git lfs pull --include '*.safetensors'` leaves the others."""
    for name in ("pytorch_model.bin", "trainer_state.json", "training_args.bin"):
        (folder / name).write_text(POINTER)
    assert inspect_checkpoint(folder).num_parameters > 0


def test_a_pointer_in_the_place_of_the_head(folder: Path) -> None:
    save_grounding_head(GroundingHead(32, 8), folder, 0.5)
    (folder / "grounding_head.safetensors").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"grounding_head\.safetensors is a Git LFS pointer"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_in_the_clip_folder(folder: Path, tmp_path: Path, name: str) -> None:
    clip = move_tower(folder, tmp_path / "clip")
    (clip / name).write_text(POINTER)
    assert refusal(folder, clip).startswith(f"{clip / name} is a Git LFS pointer")


def test_links_of_a_cache_that_lead_nowhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/absent")
    assert "is a link to a file that is not there (../../blobs/absent)" in refusal(folder)


def wrap(folder: Path, prefix: str) -> None:
    write_tensors(folder, {prefix + name: t for name, t in tensors_of(folder).items()})


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("base_model.model.", ("base_model.model.", "LoRA", "merge")),
        ("module.", ("`module.`", "DataParallel")),
        ("_orig_mod.", ("`_orig_mod.`", "torch.compile")),
    ],
)
def test_a_wrapper_that_was_saved_with_the_model(
    folder: Path, prefix: str, words: tuple[str, ...]
) -> None:
    wrap(folder, prefix)
    assert all(word in refusal(folder) for word in words)


def test_unmerged_lora_among_whole_weights(folder: Path) -> None:
    tensors = tensors_of(folder)
    tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.zeros(4, 32)
    write_tensors(folder, tensors)
    assert "not merged" in refusal(folder)


def test_a_projector_apart(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mm_projector.bin")
    assert "holds the projector apart (mm_projector.bin)" in refusal(folder)


@pytest.mark.parametrize("apart", [True, False])
def test_a_language_model_alone(folder: Path, apart: bool) -> None:
    """Vicuna, or Vicuna beside what LLaVA's first training stage writes."""
    parts = ("model.mm_projector.", "model.vision_tower.", "model.video_tower.")
    write_tensors(folder, {k: t for k, t in tensors_of(folder).items() if not k.startswith(parts)})
    if apart:
        (folder / "mm_projector.bin").write_bytes(b"")
    words = "mm_projector.bin" if apart else "holds a language model alone"
    assert words in refusal(folder)


def test_the_root_of_a_download_cache_names_the_snapshot(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub" / "models--ChaimZhu--LLaVA-3D-7B"
    snapshot = root / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    for name in ("blobs", "refs"):
        (root / name).mkdir()
    for path in (root, root / "snapshots", tmp_path / "hub"):
        text = refusal(path)
        assert "snapshots/" in text
        assert str(snapshot) in text
    assert "the root of a download cache" in refusal(root)
    assert inspect_checkpoint(snapshot).num_parameters > 0


def test_a_download_cache_without_a_download(tmp_path: Path) -> None:
    root = tmp_path / "models--a--b"
    (root / "snapshots").mkdir(parents=True)
    assert "holds no finished download" in refusal(root)


def test_a_folder_above_the_checkpoint(folder: Path) -> None:
    assert refusal(folder.parent) == (
        f"{folder.parent} is a folder above a checkpoint: name the folder: {folder}."
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llava-v1.5-7b-Q4_K.gguf", "GGUF"),
        ("consolidated.00.pth", "Meta's own layout"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("decoder.onnx", "exported graph"),
    ],
)
def test_weights_of_another_program(folder: Path, name: str, words: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    text = refusal(folder)
    assert name in text
    assert words in text
    assert "safetensors" in text


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_quantised_by_its_config(folder: Path, method: str) -> None:
    edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
    text = refusal(folder)
    assert method in text
    assert "take the checkpoint in float32, float16 or bfloat16" in text


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_packed", "compressed-tensors"),
        ("q_weight", "EXL2"),
    ],
)
def test_quantised_by_its_names(folder: Path, ending: str, how: str) -> None:
    name = "model.layers.0.mlp.up_proj."
    tensors = tensors_of(folder)
    tensors[name + ending] = tensors.pop(name + "weight").to(torch.int32)
    write_tensors(folder, tensors)
    assert f"is quantised ({how}: {name}{ending})" in refusal(folder)


@pytest.mark.parametrize("names", [("global_step10/x.pt",), ("pytorch_model_fsdp_0/x.distcp",)])
def test_a_training_state(folder: Path, names: tuple[str, ...]) -> None:
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"")
    assert "holds a training state, split over processes: gather it" in refusal(folder)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "llava.safetensors"])
def test_weights_under_another_name(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    text = refusal(folder)
    assert name in text
    assert INDEX in text


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no weights: expected one of model.safetensors" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_in_the_place_of_the_folder(folder: Path, name: str) -> None:
    text = refusal(folder / name)
    assert text.startswith(f"{folder / name} is not a folder but a file: name the folder")
    assert text.endswith(f"{folder}.")


def test_a_gguf_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "llava.gguf").write_bytes(b"GGUF")
    assert "GGUF is quantised for llama.cpp" in refusal(tmp_path / "llava.gguf")


@pytest.mark.parametrize("second", ["shards", "pickle"])
def test_two_sets_of_weights(folder: Path, second: str, caplog: pytest.LogCaptureFixture) -> None:
    """model.safetensors is used, as transformers does, and both are named."""
    expected = load_model(folder).model.decoder.lm_head.weight
    if second == "shards":
        shard(folder, 0.5)
    else:
        torch.save(
            {k: t * 0.5 for k, t in tensors_of(folder).items()}, folder / "pytorch_model.bin"
        )
    assert torch.equal(load_model(folder).model.decoder.lm_head.weight, expected)
    with caplog.at_level(logging.WARNING):
        check_model(configured(folder).model)
    named = INDEX if second == "shards" else "pytorch_model.bin"
    assert f"model.safetensors is used, as by transformers, and {named} is not read" in caplog.text


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("<ground>", "has <ground> as token -1, config.json, ground_token_ids, as 510"),
        ("<coord>", "has <coord> as token -1, config.json, coord_token_ids, as 511"),
        ("<|im_end|>", "the tokenizer has no <|im_end|>: Video-3D-LLM's prompts are made of them"),
    ],
)
def test_a_qwen_tokenizer_with_other_tokens_is_told_before_weights_are_read(
    tmp_path: Path, piece: str, words: str
) -> None:
    """`ada3d doctor --model` called such a folder ok."""
    folder = write_random_checkpoint(tmp_path / "video", config=TINY_VIDEO3D)
    assert check_model(configured(folder).model)[0].backbone == "video3dllm"
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(piece, "<other>"))
    edit_config(folder, drop=("ada3d_tokenizer_sha256",))
    with pytest.raises(CheckpointError, match=re.escape(words)):
        check_model(configured(folder).model)


def test_shards_are_read_from_a_folder_within(folder: Path) -> None:
    """The index may name files in folders below; the tokenizer is still the checkpoint's."""
    expected = load_model(folder).model.decoder.lm_head.weight
    (folder / "parts").mkdir()
    shutil.move(folder / "model.safetensors", folder / "parts/a.safetensors")
    names = dict.fromkeys(tensors_of_file(folder / "parts/a.safetensors"), "parts/a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    assert torch.equal(load_model(folder).model.decoder.lm_head.weight, expected)


def tensors_of_file(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as handle:
        return list(handle.keys())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_file_that_this_user_may_not_read(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything: the refusal of the system is played."""
    file = folder / name
    if name == "model.safetensors":
        file.write_bytes(b"")  # the library opens it by itself, and is refused by its content

    def refusing(original: Callable[..., object]) -> Callable[..., object]:
        def read(path: Path, *args: object, **options: object) -> object:
            if path == file:
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *args, **options)

        return read

    for method in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, method, refusing(getattr(Path, method)))
    text = refusal(folder)
    assert text.startswith(f"{file} may not be read by the user who runs this")


def test_a_tower_alone_is_no_checkpoint(folder: Path) -> None:
    write_tensors(folder, {k: t for k, t in tensors_of(folder).items() if k.startswith(TOWER)})
    assert "does not fit its config.json" in refusal(folder)
