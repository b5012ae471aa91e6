"""One golden case folder recorded from the Video-3D-LLM reference code, as it lies on disk.

Sizes and parameters come from the folder: config.json (`vision_config`, `geometry`, `llm`, `mm`,
`scene`, `capture`), inputs, expected and weights as safetensors, text.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.parity.golden_case import read_json, read_tensors
from ada3d_ros.model.checkpoint import inspect_files, load_weights
from ada3d_ros.model.config import DecoderConfig, VisionConfig
from ada3d_ros.model.prompt import CLICK_ID
from ada3d_ros.model.qwen_tokenizer import TOKENIZER_FILE, QwenTokenizer
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.weight_files import read_headers
from ada3d_ros.scene.views import RecordedViews


def is_video3dllm(data: Any) -> bool:
    """Whether a case's config.json is of this recorder."""
    return isinstance(data, dict) and {"vision_config", "llm", "geometry"} <= data.keys()


def video3d_config(data: Mapping[str, Any], has_heads: bool = True) -> Video3DConfig:
    """The golden config format as our config. Raises SourceError for a missing field."""
    try:
        llm, vision, mm = data["llm"], data["vision_config"], data["mm"]
        eos = llm["eos_token_id"]
        config = Video3DConfig(
            decoder=DecoderConfig(
                vocab_size=llm["vocab_size"],
                hidden_size=llm["hidden_size"],
                intermediate_size=llm["intermediate_size"],
                num_layers=llm["num_hidden_layers"],
                num_heads=llm["num_attention_heads"],
                num_kv_heads=llm["num_key_value_heads"],
                rms_norm_eps=llm["rms_norm_eps"],
                rope_theta=llm["rope_theta"],
                max_positions=llm["max_position_embeddings"],
                bos_id=llm["bos_token_id"],
                eos_ids=tuple(eos) if isinstance(eos, list) else (eos,),
                qkv_bias=True,
            ),
            vision=VisionConfig(
                hidden_size=vision["hidden_size"],
                intermediate_size=vision["intermediate_size"],
                num_hidden_layers=vision["num_hidden_layers"],
                num_attention_heads=vision["num_attention_heads"],
                patch_size=vision["patch_size"],
                image_size=vision["image_size"],
                hidden_act=vision["hidden_act"],
                layer_norm_eps=vision["layer_norm_eps"],
                select_layer=vision["layers_used"],
                image_mean=_triple(vision["image_mean"]),
                image_std=_triple(vision["image_std"]),
            ),
            voxel_size_m=mm["voxel_size"],
            max_length=mm["tokenizer_model_max_length"],
            min_xyz_m=_triple(mm["min_xyz_range"]),
            max_xyz_m=_triple(mm["max_xyz_range"]),
            coord_margin_px=data["geometry"]["coord_crop_margin"],
            coord_id=mm["coord_token_ids"][0],
            ground_id=mm["ground_token_ids"][0] if has_heads else -1,
            ground_temperature=mm["ground_head_temperature"],
        )
    except (KeyError, IndexError) as error:
        raise SourceError(f"config.json lacks {error}.") from None
    geometry = data["geometry"]
    ours = {"grid": config.vision.patches_per_side, "pooled_grid": config.cells_per_side}
    for name, value in (ours | {"coord_window": config.cell_px}).items():
        if geometry.get(name, value) != value:
            raise SourceError(f"config.json: geometry.{name} is {geometry[name]}, ours {value}.")
    return config


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z


class Video3DCase:
    """One case folder, loaded: its configuration, arrays and texts, and the model of its weights.

    Raises SourceError, CheckpointError for a folder that is incomplete or does not fit itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: dict[str, Any] = read_json(folder / "config.json")
        self.inputs = read_tensors(folder / "inputs.safetensors")
        self.expected = read_tensors(folder / "expected.safetensors")
        self.text = read_json(folder / "text.json") if (folder / "text.json").is_file() else {}
        weights = folder / "weights.safetensors"
        has_heads = any(name.startswith("ground_head") for name in read_headers([weights]))
        self.config = video3d_config(self.data, has_heads)
        self.checkpoint = inspect_files(self.config, [weights])
        self.model = cast(Video3DLLM, load_weights(self.checkpoint, compat="reference"))

    @property
    def views(self) -> RecordedViews:
        return recorded_views(self.inputs, self.data.get("scene", {}).get("depth_scale", 1000))

    def ids(self, name: str) -> list[int]:
        """Recorded ids of a prompt, those of places as CLICK_ID."""
        coord = self.config.coord_id
        ids = self.inputs[name].flatten().tolist()
        return [CLICK_ID if token == coord else token for token in ids]

    def clicks(self, ids: list[int]) -> list[list[float]]:
        """The place of each CLICK_ID: the first one for all, as the reference has it."""
        boxes, count = self.inputs.get("box_input"), ids.count(CLICK_ID)
        return [] if boxes is None else boxes[:1, :3].expand(count, 3).tolist()


def recorded_views(inputs: Mapping[str, Any], depth_scale: float) -> RecordedViews:
    """The frames of a case: raw_rgb, raw_depth, poses, intrinsic_depth, axis_align_matrix."""
    rgb, depth = inputs["raw_rgb"].numpy(), inputs["raw_depth"].numpy()
    return RecordedViews(
        list(rgb),
        list(depth),
        np.broadcast_to(inputs["intrinsic_depth"].numpy(), (len(rgb), 4, 4)),
        (depth.shape[2], depth.shape[1]),
        inputs["poses"].numpy(),
        depth_scale,
        inputs["axis_align_matrix"].numpy() if "axis_align_matrix" in inputs else None,
    )


def find_qwen_tokenizer(folder: Path) -> QwenTokenizer:
    """Of the case, or of tokenizer/ beside it. Raises SourceError without one."""
    places = (folder, *(parent / "tokenizer" for parent in (folder, *folder.parents[:2])))
    found = next((place for place in places if (place / TOKENIZER_FILE).is_file()), None)
    if found is None:
        raise SourceError(f"no {TOKENIZER_FILE} in {folder} or in tokenizer/ beside it.")
    return QwenTokenizer(found)
