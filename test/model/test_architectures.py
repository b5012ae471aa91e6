"""Which architecture a config.json is; Video-3D-LLM's configs, files, names and shapes."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.config import from_flat
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import CheckpointError, ModelError
from ada3d_ros.lab.parity.video3dllm_case import video3d_config
from ada3d_ros.model.architectures import (
    ARCHITECTURES,
    LLAVA,
    VIDEO3D,
    Architecture,
    architecture_of,
)
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_model, save_checkpoint
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.config_file import check_settings, read_config
from ada3d_ros.model.layout import VISION_PREFIX, build_meta_model, official_name
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.prompt import POINT_TOKENS
from ada3d_ros.model.random_checkpoint import TINY_VIDEO3D, main, write_random_checkpoint
from ada3d_ros.model.startup import check_model
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.types import PromptSequence
from test.support.checkpoints import edit_config, tensors_of, write_tensors

CASES = ("case_a", "case_b", "case_c_ground")
TOWER = VISION_PREFIX + "vision_model."
BASE = Video3DConfig().to_json()
# What Video-3D-LLM's reference writes, and what transformers makes of a `llava` (sheet 1.1, 1.3).
PUBLISHED = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "add_faster_video": False,
    "add_time_instruction": True,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "coord_token_ids": [151648],
    "eos_token_id": 151645,
    "force_sample": True,
    "ground_head_hidden_size": 512,
    "ground_head_temperature": 0.07,
    "ground_head_type": "infonce",
    "ground_loss_scale": 1,
    "ground_token_ids": [151647],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_aspect_ratio": "anyres_max_9",
    "image_crop_resolution": None,
    "image_grid_pinpoints": [[384, 384], [384, 768]],
    "image_token_index": 151646,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "max_xyz_range": [15, 15, 5],
    "min_xyz_range": [-15, -15, -5],
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_vision_tower_lr": 2e-06,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "object_feature_type": "patch14-pe",
    "pos_skipping_range": 4096,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 32768,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "use_mm_proj": True,
    "use_pos_skipping": False,
    "use_sliding_window": False,
    "vision_tower_pretrained": None,
    "vocab_size": 151649,
    "voxel_size": 0.1,
    "world_position_embedding_type": "avg-discrete-sin3d",
}
BLOCKS = {  # of transformers' own LlavaConfig, which mean nothing here
    "text_config": {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336},
}


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Path:
    return shared_dir / "golden/video3dllm"


def make_folder(golden: Path, target: Path, case: str = "case_c_ground") -> Path:
    """A recorded case as the hub has a checkpoint: two shards, tokenizer, generation_config.json;
    with the tower's sizes, which are so400m's otherwise, in ours.
    """
    data = json.loads((golden / case / "hf_config.json").read_text())
    vision = json.loads((golden / case / "config.json").read_text())["vision_config"]
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    data["mm_vision_config"] = {key: vision[key] for key in (*sizes, "image_size", "patch_size")}
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(data))
    generation = {
        "bos_token_id": 346,
        "pad_token_id": 346,
        "do_sample": True,
        "eos_token_id": [348, 346],
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "transformers_version": "4.37.0",
    }
    (target / "generation_config.json").write_text(json.dumps(generation))
    for file in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"):
        shutil.copy(golden / "tokenizer" / file, target / file)

    # In the order of the names, half of them each.
    weights = load_file(golden / case / "weights.safetensors")
    names, weight_map = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, target / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """One file of weights, so that a test may change them."""
    folder = make_folder(golden, tmp_path / "model")
    write_tensors(folder, load_file(golden / "case_c_ground/weights.safetensors"))
    for file in [*folder.glob("model-*"), folder / "model.safetensors.index.json"]:
        file.unlink()
    return folder


# -- which one it is


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, LLAVA),
        ({"model_type": "llava_llama"}, LLAVA),
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, LLAVA),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, LLAVA),
        ({"model_type": "llava_qwen"}, VIDEO3D),
        ({"architectures": ["LlavaQwenForCausalLM"]}, VIDEO3D),
        ({"architectures": "LlavaQwenForCausalLM", "model_type": "llava"}, VIDEO3D),
        ({"model_type": "llava", "world_position_embedding_type": "avg-discrete-sin3d"}, VIDEO3D),
        (PUBLISHED, VIDEO3D),
        (PUBLISHED | BLOCKS, VIDEO3D),
        ({k: v for k, v in PUBLISHED.items() if k != "architectures"} | BLOCKS, VIDEO3D),
    ],
)
def test_the_config_says_which(data: dict[str, Any], expected: object) -> None:
    assert architecture_of(data) is expected


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"model_type": "qwen2_vl"}, "model_type 'qwen2_vl'"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "model_type 'qwen2'"),
        ({"architectures": ["LlavaGemmaForCausalLM"]}, "architecture 'LlavaGemmaForCausalLM'"),
        (
            {"model_type": "llava_llama", "architectures": ["LlavaQwenForCausalLM"]},
            "model_type 'llava_llama' with architecture 'LlavaQwenForCausalLM'",
        ),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2"}}, "'qwen2'"),
    ],
)
def test_a_third_architecture_is_named_with_what_is_supported(
    data: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(named)) as caught:
        architecture_of(data)
    for architecture in ARCHITECTURES:
        assert architecture.title in str(caught.value)


def test_the_page_about_adding_one_names_the_whole_seam() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/add-a-backbone.md").read_text()
    seam = [name for name in vars(Backbone) if not name.startswith("_")]
    row = [field.name for field in dataclasses.fields(Architecture)]
    assert len(seam) > 20
    assert not [name for name in (*seam, *row) if f"`{name}" not in page]


def test_every_backbone_is_built_by_one_architecture() -> None:
    names = [name for architecture in ARCHITECTURES for name in architecture.backbones]
    assert len(set(names)) == len(names)
    plain = LlavaConfig(has_video_tower=False)
    for config in (LlavaConfig(), plain, LlavaNextConfig(), Video3DConfig()):
        with torch.device("meta"):
            assert build_meta_model(config).name == config.backbone
        assert config.backbone in names


# -- config.json


def test_a_config_is_read_back() -> None:
    assert read_config(BASE) == Video3DConfig()
    other = dataclasses.replace(
        Video3DConfig(),
        voxel_size_m=0.2,
        min_xyz_m=(-10.0, -5.0, 0.0),
        ground_temperature=0.1,
        coord_id=7,
        random_weights=True,
        floor_at_zero=False,
        point_id=3,
        egocentric_point_id=4,
        question_kinds=("existence",),
        max_length=1000,
    )
    assert read_config(other.to_json()) == other
    without = dataclasses.replace(Video3DConfig(), ground_id=-1, coord_id=-1)
    assert read_config(without.to_json()) == without


def test_the_published_config_is_7b() -> None:
    for data in (PUBLISHED, PUBLISHED | BLOCKS):
        eos = (151645,)  # generation_config.json has the other
        expected = dataclasses.replace(Video3DConfig().decoder, eos_ids=eos)
        assert read_config(data) == dataclasses.replace(Video3DConfig(), decoder=expected)
        assert check_settings(data) == []
        assert VIDEO3D.notes(data) == []


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_configs_are_those_of_the_recorder(golden: Path, case: str) -> None:
    """hf_config.json, flat, with the tower's sizes in ours, against the nested config.json."""
    data = json.loads((golden / case / "hf_config.json").read_text())
    nested = json.loads((golden / case / "config.json").read_text())
    vision = nested["vision_config"]
    unread = ("layers_used", "resample", "rescale_factor")
    ours = {key: value for key, value in vision.items() if key not in unread}
    assert check_settings(data) == []
    config = read_config(data | {"mm_vision_config": ours})
    assert config.vision.num_run_layers == vision["layers_used"]
    tower = dataclasses.replace(config.vision, select_layer=vision["layers_used"])
    assert dataclasses.replace(config, vision=tower) == video3d_config(nested)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("world_position_embedding_type", "avg-discrete-mlp"),
        ("world_position_embedding_type", "sample5-discrete-sin3d"),
        ("world_position_embedding_type", "minmax-discrete-sin3d"),
        ("world_position_embedding_type", "avg-discrete-sin3d-mrope"),
        ("world_position_embedding_type", ["avg"]),
        ("object_feature_type", "patch27-pe"),
        ("ground_head_type", "mlp"),
        ("ground_head_type", "score"),
        ("mm_newline_position", "frame"),
        ("mm_newline_position", "no_token"),
        ("mm_spatial_pool_mode", "average"),
        ("mm_spatial_pool_mode", "max"),
        ("mm_patch_merge_type", "flat"),
        ("mm_projector_type", "linear"),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336"),
        ("mm_vision_tower", 7),
        ("mm_hidden_size", 1024),
        ("add_faster_video", True),
        ("mm_use_im_start_end", True),
        ("use_pos_skipping", True),
        ("voxel_size", 0),
        ("voxel_size", "small"),
        ("min_xyz_range", [0, 0]),
        ("max_xyz_range", [15, 15, float("nan")]),
        ("max_xyz_range", [-20, 15, 5]),
        ("ground_token_ids", [1, 2]),
        ("ground_token_ids", 151647),
        ("coord_token_ids", [151649]),
        ("coord_token_ids", ["<coord>"]),
        ("repetition_penalty", 0),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
    ],
)
def test_what_is_not_run_is_refused_by_name_and_value(key: str, value: Any) -> None:
    shown = repr(value) if key != "max_xyz_range" else "-20.0|nan"
    words = f"{key}.*({re.escape(shown) if key != 'max_xyz_range' else shown})"
    if key == "use_sliding_window":
        value, words = True, "sliding_window"
        with pytest.raises(CheckpointError, match=words):
            read_config(BASE | {key: value, "sliding_window": 4096})
        return
    with pytest.raises(CheckpointError, match=words):
        read_config(BASE | {key: value})


def test_what_the_reference_does_not_read_changes_nothing() -> None:
    for key, value in (
        ("rope_scaling", {"type": "linear", "factor": 2}),
        ("mm_spatial_pool_stride", 4),
        ("mm_vision_select_layer", -1),
        ("tie_word_embeddings", True),
        ("sliding_window", 4096),
        ("attention_bias", True),
        ("ground_loss_scale", 3),
    ):
        assert read_config(BASE | {key: value}) == Video3DConfig()
    assert "rope_scaling" in "".join(VIDEO3D.notes(BASE | {"rope_scaling": {"type": "yarn"}}))


# -- files


def test_all_names_and_shapes_of_7b(shared_dir: Path) -> None:
    """778 tensors; the tower's last norm is the one that nothing needs."""
    listed = json.loads((shared_dir / "reference/video3dllm_7b_keys.json").read_text())
    keys = listed.get("keys", listed) if isinstance(listed, dict) else listed
    shapes = {name: list(shape) for name, shape in dict(keys).items()}
    assert len(shapes) == 778
    model = build_meta_model(Video3DConfig())
    ours = {official_name(name): list(p.shape) for name, p in model.named_parameters()}
    unused = {name for name in shapes if name.startswith(TOWER + "post_layernorm.")}
    assert len(unused) == 2
    assert ours == {name: shape for name, shape in shapes.items() if name not in unused}


@pytest.mark.parametrize("case", CASES)
def test_shards_as_the_hub_has_them_are_loaded(golden: Path, tmp_path: Path, case: str) -> None:
    loaded = load_model(make_folder(golden, tmp_path / "model", case), compat="reference")
    stored = load_file(golden / case / "weights.safetensors")
    names = {official_name(name): name for name, _ in loaded.model.named_parameters()}
    assert set(stored) - set(names) == {
        TOWER + "post_layernorm.weight",
        TOWER + "post_layernorm.bias",
    }
    for official, name in names.items():
        assert torch.equal(loaded.model.get_parameter(name), stored[official])
    config = loaded.info.config
    assert isinstance(config, Video3DConfig)
    assert (config.ground_id, config.coord_id) == (349, 350)
    assert config.repetition_penalty == 1.05
    assert config.decoder.eos_ids == (348, 346)
    assert loaded.info.notes == ()
    assert loaded.model.decoder.layers[0].self_attn.fused_weight is not None
    assert loaded.tokenizer.eos_id == 348


def test_the_vocabulary_is_that_of_the_tensors(folder: Path) -> None:
    edit_config(folder, vocab_size=152064)
    assert inspect_checkpoint(folder).config.decoder.vocab_size == 351


def test_leftovers_of_stock_siglip_are_tolerated(folder: Path) -> None:
    """The last block, the pooling head, old buffers; nothing else."""
    tensors = tensors_of(folder)
    last = TOWER + "encoder.layers.3."
    for name in [n for n in tensors if n.startswith(TOWER + "encoder.layers.2.")]:
        tensors[last + name.split(".2.", 1)[1]] = torch.zeros_like(tensors[name])
    tensors[TOWER + "head.probe"] = torch.zeros(1, 1, 24)
    tensors[TOWER + "head.mlp.fc1.weight"] = torch.zeros(48, 24)
    tensors[TOWER + "embeddings.position_ids"] = torch.arange(729)[None]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    write_tensors(folder, tensors)
    inspect_checkpoint(folder)
    write_tensors(folder, tensors | {"model.vision_resampler.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"1 unexpected tensor.*vision_resampler"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.bias", "model.image_newline"])
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    tensors = tensors_of(folder)
    del tensors[name]
    write_tensors(folder, tensors)
    with pytest.raises(CheckpointError, match=re.escape(f"1 missing tensor(s): {name}")):
        inspect_checkpoint(folder)


def without_heads(folder: Path) -> Path:
    kept = {k: t for k, t in tensors_of(folder).items() if not k.startswith("ground_head")}
    write_tensors(folder, kept)
    return folder


def test_a_base_without_ground_heads_runs_with_a_note(folder: Path) -> None:
    """LLaVA-Video, LLaVA-OneVision: the same names less ground_head_*, no 3D settings."""
    drop = ("world_position_embedding_type", "coord_token_ids", "ground_token_ids", "voxel_size")
    edit_config(without_heads(folder), drop=(*drop, "mm_newline_position"))
    loaded = load_model(folder)
    config = loaded.info.config
    assert isinstance(config, Video3DConfig)
    assert (config.ground_id, config.coord_id, config.voxel_size_m) == (-1, -1, 0.1)
    assert loaded.model.ground is None
    said = " ".join(loaded.info.notes)
    for words in ("not trained with 3D positions", "no ground heads", "'grid'"):
        assert words in said


def test_an_output_that_shares_the_embedding_is_named(folder: Path) -> None:
    """As LLaVA-OneVision of 0.5B has it."""
    tensors = tensors_of(folder)
    del tensors["lm_head.weight"]
    write_tensors(folder, tensors)
    with pytest.raises(CheckpointError, match=r"lm_head.weight. It is read as video3dllm, as con"):
        inspect_checkpoint(folder)
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(
        CheckpointError, match=r"tie_word_embeddings = True.*take a checkpoint of 7B"
    ):
        inspect_checkpoint(folder)


def test_heads_that_are_gone_are_said(folder: Path) -> None:
    info = inspect_checkpoint(without_heads(folder))
    assert info.config.named_ids == (
        ("<coord>", "coord_token_ids", 350),
        ("<ground>", "ground_token_ids", -1),
    )
    assert len(info.notes) == 1
    assert "no ground heads" in info.notes[0]


def test_heads_without_their_token_are_refused(folder: Path) -> None:
    edit_config(folder, drop=("ground_token_ids",))
    with pytest.raises(CheckpointError, match="lacks ground_token_ids, though there are ground"):
        inspect_checkpoint(folder)


def test_a_checkpoint_without_its_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    """It was trained with the model, so a folder with stock SigLIP is not used."""
    tensors = {k: t for k, t in tensors_of(folder).items() if not k.startswith(VISION_PREFIX)}
    write_tensors(folder, tensors)
    for vision_path in (None, tmp_path):
        with pytest.raises(CheckpointError, match=r"no vision tower.*trained with the model"):
            inspect_checkpoint(folder, vision_path)


def test_a_vision_path_is_not_used(folder: Path, tmp_path: Path) -> None:
    info = inspect_checkpoint(folder, tmp_path / "absent")
    assert "is not used" in " ".join(info.notes)


@pytest.mark.parametrize(
    ("key", "piece"), [("ground_token_ids", "<ground>"), ("coord_token_ids", "<coord>")]
)
def test_a_tokenizer_with_other_ids_is_refused(folder: Path, key: str, piece: str) -> None:
    edit_config(folder, **{key: [20]})
    with pytest.raises(CheckpointError, match=rf"has {piece} as token 3\d\d, .*{key}, as 20:"):
        load_model(folder)


def test_a_tokenizer_that_ends_otherwise_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    edit_config(folder, eos_token_id=20)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has eos id 348, config\.json"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_says_which_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    inspect_checkpoint(folder)  # the other files hold the same
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json \(or vocab\.json and merg"):
        inspect_checkpoint(folder)


def test_a_damaged_generation_config_is_named(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read as JSON"):
        inspect_checkpoint(folder)


def test_generation_config_counts_before_config(folder: Path) -> None:
    edit_config(folder, repetition_penalty=1.2, eos_token_id=346)
    config = inspect_checkpoint(folder).config
    assert (config.repetition_penalty, config.decoder.eos_ids) == (1.05, (348, 346))
    (folder / "generation_config.json").unlink()
    config = inspect_checkpoint(folder).config
    assert (config.repetition_penalty, config.decoder.eos_ids) == (1.2, (346,))


def test_saved_in_the_official_layout_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    save_checkpoint(loaded.model, loaded.tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.info.config == loaded.info.config
    assert again.tokenizer.to_bytes() == loaded.tokenizer.to_bytes()
    ours, theirs = again.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    stored = set(tensors_of(tmp_path / "saved"))
    assert stored == {n for n in tensors_of(folder) if "post_layernorm" not in n}


def test_the_model_says_its_backbone(folder: Path) -> None:
    info, config = check_model(from_flat({"model.path": str(folder)}).model)
    assert info.backbone == config.backbone == "video3dllm"


def test_kv_of_a_token_at_7b() -> None:
    from ada3d_ros.model.memory import kv_bytes_per_token

    assert kv_bytes_per_token(Video3DConfig(), torch.bfloat16, False) == 56 * 1024
    assert kv_bytes_per_token(LlavaConfig(), torch.bfloat16, False) == 512 * 1024


def test_random_weights_in_this_form(tmp_path: Path) -> None:
    """The same bytes for a seed, loaded like any other, and it answers."""
    first = write_random_checkpoint(tmp_path / "a", seed=1, config=TINY_VIDEO3D)
    second = write_random_checkpoint(tmp_path / "b", seed=1, config=TINY_VIDEO3D)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    loaded = load_model(first)
    config, tokenizer = loaded.info.config, loaded.tokenizer
    assert isinstance(config, Video3DConfig)
    assert config.random_weights
    assert config.max_spatial_tokens(3) == 3 * 4 * 5
    assert (config.coord_id, config.ground_id) == (
        tokenizer.control_id("<coord>"),
        tokenizer.control_id("<ground>"),
    )
    assert tokenizer.vocab_size <= 512
    assert len(tokenizer.encode_text("chair next to the table")) < 12  # merges were learnt
    assert tokenizer.decode(tokenizer.encode_text("chair\n\n 桌")) == "chair\n\n 桌"

    # With tokens that point, and without ground heads.
    pointing = dataclasses.replace(TINY_VIDEO3D, point_id=0, egocentric_point_id=0, ground_id=-1)
    loaded = load_model(write_random_checkpoint(tmp_path / "c", config=pointing))
    assert loaded.info.config.point_id == loaded.tokenizer.control_id(POINT_TOKENS[0]) > 0
    assert loaded.model.ground is None
    assert not loaded.tokenizer.is_text(loaded.info.config.egocentric_point_id)


def test_the_command_writes_this_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "tiny"), "--backbone", "video3dllm"]) == 0
    assert "random weights" in capsys.readouterr().out
    assert inspect_checkpoint(tmp_path / "tiny").config.backbone == "video3dllm"


def test_sums_beyond_float16_end_in_a_sentence(tmp_path: Path) -> None:
    """Qwen2 is trained in bfloat16, whose numbers reach further."""
    folder = write_random_checkpoint(tmp_path / "tiny", config=TINY_VIDEO3D)
    decoder = load_model(folder, dtype=torch.float16).model.decoder
    with torch.inference_mode():
        embeds = decoder.embed(torch.arange(12))
        prompt = PromptSequence(embeds, torch.arange(12), (2, 8))
        assert torch.isfinite(prefill(decoder, prompt).logits).all()
        decoder.layers[1].mlp.down_proj.weight.mul_(60_000.0)
    with pytest.raises(ModelError, match=r"float16.*bf16"):
        prefill(decoder, prompt)
