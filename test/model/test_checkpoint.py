"""Official layout: names against the 7B list, folders that do not fit, saving, random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.errors import CheckpointError, ConfigError
from ada3d_ros.model.checkpoint import (
    inspect_checkpoint,
    load_model,
    save_checkpoint,
    weights_sha256,
)
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.layout import VISION_PREFIX, build_meta_model, official_name
from ada3d_ros.model.random_checkpoint import main, write_random_checkpoint
from ada3d_ros.model.startup import resolve_device, resolve_dtype
from ada3d_ros.model.weight_format import WeightFormat

CLIP = VISION_PREFIX + "vision_model."


def rewrite(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(change(tensors) or tensors, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "config.json").read_text())
    data |= changes
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in data.items() if v is not None})
    )


def state_of(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    return dict(load_model(path, **options).model.state_dict())


def test_7b_names_and_shapes_are_those_of_the_reference(shared_dir: Path) -> None:
    recorded = json.loads((shared_dir / "reference/llava3d_7b_keys.json").read_text())
    model = build_meta_model(LlavaConfig())
    ours = {
        official_name(name): list(parameter.shape) for name, parameter in model.named_parameters()
    }
    unused = {
        name
        for name in recorded
        if name.startswith((CLIP + "encoder.layers.23.", CLIP + "post_layernorm."))
    }
    assert ours == {name: shape for name, shape in recorded.items() if name not in unused}
    assert len(recorded) == 698
    assert len(unused) == 18


def test_random_checkpoint_is_reproducible_small_and_says_what_it_is(tmp_path: Path) -> None:
    first = write_random_checkpoint(tmp_path / "a", seed=1)
    second = write_random_checkpoint(tmp_path / "b", seed=1)
    for name in ("config.json", "tokenizer.model", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert weights_sha256(first) != weights_sha256(write_random_checkpoint(tmp_path / "c", seed=2))
    loaded = load_model(first)
    assert loaded.info.config.random_weights
    assert 2e6 < loaded.info.num_parameters < 4e6
    assert not any(p.is_meta or p.requires_grad for p in loaded.model.parameters())
    assert not any(buffer.is_meta for buffer in loaded.model.buffers())
    with pytest.raises(ConfigError, match="random_weights is False"):
        write_random_checkpoint(tmp_path / "d", config=LlavaConfig())


def test_random_model_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), "--seed", "4"]) == 0
    assert load_model(tmp_path / "new").info.config.random_weights
    edit_config(folder, ada3d_random_weights=False)
    before = (folder / "model.safetensors").read_bytes()
    assert main([str(folder)]) == 2
    assert "holds a checkpoint that is not of random weights" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before


def test_save_and_load_in_shards(source: Path, tmp_path: Path) -> None:
    loaded = load_model(source)
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path, max_shard_bytes=40_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    again, state = state_of(tmp_path), loaded.model.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert inspect_checkpoint(tmp_path).config == loaded.info.config
    assert {p.stat().st_mode & 0o044 for p in shards} == {
        0o044
    }  # readable for a node that runs as another user


@pytest.mark.parametrize("zipped", [True, False])
def test_bin_shards_load_like_safetensors(folder: Path, zipped: bool) -> None:
    expected, tensors = state_of(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    # Every second tensor in another file, and an index of both.
    names = sorted(tensors)
    parts = {
        "pytorch_model-00001-of-00002.bin": names[::2],
        "pytorch_model-00002-of-00002.bin": names[1::2],
    }
    for file, part in parts.items():
        content = {name: tensors[name] for name in part}
        torch.save(content, folder / file, _use_new_zipfile_serialization=zipped)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    actual = state_of(folder)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_clip_names_of_transformers_5_23_and_tolerated_extras(folder: Path) -> None:
    expected = state_of(folder)

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # The newer names, and what older checkpoints hold besides.
        renamed = {name.replace(CLIP, VISION_PREFIX): tensor for name, tensor in tensors.items()}
        extras = (
            "embeddings.position_ids",
            "post_layernorm.weight",
            "encoder.layers.2.mlp.fc1.weight",
        )
        renamed |= {VISION_PREFIX + name: torch.zeros(3) for name in extras}
        return renamed | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}

    rewrite(folder, change)
    actual = state_of(folder)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_clip_from_its_own_folder(folder: Path, tmp_path: Path, prefix: str) -> None:
    expected, tensors = state_of(folder), load_file(folder / "model.safetensors")
    vision = {name: t.clone() for name, t in tensors.items() if name.startswith(CLIP)}

    # A CLIP folder: its own names, a text part, its own config.json.
    clip = tmp_path / "clip"
    clip.mkdir()
    content = {prefix + name.removeprefix(CLIP): t for name, t in vision.items()}
    content["text_model.final_layer_norm.weight"] = torch.zeros(2)
    save_file(content, clip / "model.safetensors")
    sizes = json.loads((folder / "config.json").read_text())["mm_vision_config"]
    (clip / "config.json").write_text(json.dumps({"vision_config": sizes}))

    # The checkpoint without its tower and without the tower's sizes.
    rewrite(folder, lambda t: {name: value for name, value in t.items() if name not in vision})
    edit_config(folder, mm_vision_config=None)
    actual = state_of(folder, vision_path=clip)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_without_clip_weights_the_way_out_is_named(folder: Path) -> None:
    rewrite(
        folder, lambda t: {name: value for name, value in t.items() if not name.startswith(CLIP)}
    )
    with pytest.raises(CheckpointError, match=r"no vision tower.*set model\.vision_path"):
        inspect_checkpoint(folder)


def test_plain_llava_without_video_tower_loads_as_2d(folder: Path) -> None:
    rewrite(
        folder, lambda t: {name: value for name, value in t.items() if ".video_tower." not in name}
    )
    with pytest.raises(CheckpointError, match="12 missing"):
        inspect_checkpoint(folder)
    edit_config(folder, mm_video_tower=None, image_aspect_ratio="pad")
    loaded = load_model(folder)
    assert not loaded.info.config.has_video_tower
    assert loaded.info.config.image_aspect_ratio == "pad"


def test_missing_and_unexpected_names_are_listed_up_to_eight(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "model.layers.1." in name] + ["lm_head.weight"]:
            del tensors[name]
        tensors["model.layers.9.extra"] = torch.zeros(1)

    rewrite(folder, change)
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(folder)
    text = str(caught.value)
    assert "10 missing tensor(s): model.layers.1." in text.replace("lm_head.weight, ", "")
    assert "and 2 more" in text
    assert "1 unexpected tensor(s): model.layers.9.extra" in text


def test_a_name_too_many_is_refused(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"model.grounding_head.weight": torch.zeros(1)}))
    with pytest.raises(
        CheckpointError, match=r"1 unexpected tensor\(s\): model\.grounding_head\.weight"
    ):
        inspect_checkpoint(folder)


def test_wrong_shape_names_key_got_and_expected(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"lm_head.weight": torch.zeros(512, 31)}))
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight has shape \(512, 31\), expected \(512, 32\)"
    ):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float64, "F64"),
    ],
)
def test_a_quantised_tensor_is_refused_with_its_format(
    folder: Path, dtype: torch.dtype, stored: str
) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, lambda t: t.update({key: t[key].to(dtype)}))
    with pytest.raises(CheckpointError, match=f"{key} is stored as {stored}.*F32, F16, BF16"):
        inspect_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=f"{key} is stored as {str(dtype).removeprefix('torch.')}"
    ):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("binary", [True, False])
def test_16_bit_weights_and_whole_numbers_that_are_no_parameters_load(
    folder: Path, dtype: torch.dtype, binary: bool
) -> None:
    tensors = {
        name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    tensors[CLIP + "embeddings.position_ids"] = torch.arange(5)[None]
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    assert torch.equal(
        state_of(folder)["decoder.lm_head.weight"], tensors["lm_head.weight"].float()
    )


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_tokenizer_with_other_special_ids(folder: Path, name: str) -> None:
    edit_config(folder, **{f"{name}_token_id": 7})
    own = {"bos": 1, "eos": 2}[name]
    with pytest.raises(
        CheckpointError,
        match=f"tokenizer.model has {name} id {own}, config.json has {name}_token_id 7",
    ):
        load_model(folder)


def test_folders_that_are_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder: give the path"):
        inspect_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        inspect_checkpoint(tmp_path / "empty")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.model"):
        inspect_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        inspect_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear'"),
        ({"mm_video_tower": "SpatialAware"}, "mm_video_tower 'SpatialAware'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres'"),
        ({"num_attention_heads": 5}, "must divide each other"),
        ({"hidden_size": None}, "lacks hidden_size"),
        (
            {"mm_vision_config": None, "mm_vision_tower": "org/own-clip"},
            r"own-clip.*set model\.vision_path",
        ),
        (
            {"mm_vision_config": None, "mm_vision_tower": "google/siglip-so400m-patch14-384"},
            r"mm_vision_tower 'google/siglip.*not supported: only CLIP",
        ),
    ],
)
def test_config_that_this_package_cannot_run(
    folder: Path, changes: dict[str, Any], match: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=match):
        inspect_checkpoint(folder)


def test_tokenizer_of_another_checkpoint(folder: Path) -> None:
    edit_config(folder, vocab_size=500)
    rewrite(
        folder,
        lambda t: t.update(
            {n: t[n][:500].clone() for n in ("lm_head.weight", "model.embed_tokens.weight")}
        ),
    )
    with pytest.raises(CheckpointError, match=r"512 tokens, the model's embedding only\s+500"):
        load_model(folder)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_and_predicted_memory(folder: Path, precision: str) -> None:
    """Geometry modules stay float32; what inspect predicts is what load takes."""
    dtype = resolve_dtype(precision, torch.device("cpu"))
    loaded = load_model(folder, "cpu", dtype)
    actual = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    info = inspect_checkpoint(folder)
    assert info.weight_bytes(WeightFormat(dtype)) == actual
    assert actual < info.weight_bytes(WeightFormat(torch.float32))

    # The prompt is in the model's format, whatever computed its parts.
    assert loaded.model.decoder.dtype == dtype
    assert loaded.model.position_embedding[0].weight.dtype == torch.float32
    ids = loaded.tokenizer.encode("<image>\nat <boxes>?")
    views = loaded.model.encode_views(torch.zeros(2, 3, 28, 28))
    prompt = loaded.model.build_prompt(
        ids, loaded.model.project(views[0]), loaded.model.encode_clicks([(1.0, 2.0, 3.0)])
    )
    assert prompt.embeds.dtype == dtype


def test_every_value_is_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the memory held before: a part that is made anew after it was filled shows."""
    real = torch.empty

    def full_of_nan(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = real(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", full_of_nan)
    model = load_model(folder).model
    monkeypatch.undo()
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[official_name(name)].to(parameter.dtype)), name


def test_weights_are_copies_of_the_file(folder: Path) -> None:
    """A file that is overwritten later must not change a running model (safetensors maps files)."""
    loaded = load_model(folder)
    before = loaded.model.decoder.lm_head.weight.clone()
    content = (folder / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as handle:
        handle.write(b"\0" * len(content))
    assert torch.equal(loaded.model.decoder.lm_head.weight, before)


def test_device_and_precision_names() -> None:
    assert resolve_dtype("auto", torch.device("cpu")) is torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ConfigError, match=r"model\.precision = 'int3'"):
        resolve_dtype("int3", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"model\.device = 'cuda:99'"):
        resolve_device("cuda:99")
    assert resolve_device("cpu").type == "cpu"
