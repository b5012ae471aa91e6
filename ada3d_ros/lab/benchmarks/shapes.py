"""Sizes of benchmarks: decoders of performance studies, and their scenes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.model.config import BackboneConfig, DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.startup import EMBEDDED, has_bfloat16
from ada3d_ros.model.video3dllm.config import Video3DConfig

MAX_POSITIONS, OTHER_POSITIONS = 4096, 1024  # of LLaVA-3D; beside a scene that is too large for it
NO_TOKEN_ENDS: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchShape:
    """Sizes of a decoder and its scenes.

    d, m and N shrink together, so that attention keeps its share. low_precision: bf16 where the
    processor has it. vision: with it, the time to the first token from pixels is measured too.
    trained: the weights are the embedded model's. backbone: whose decoder it is; one of Qwen2 has
    biases on queries, keys and values. num_kv_heads: 0 for as many as there are heads.
    """

    name: str
    hidden: int
    layers: int
    intermediate: int
    spatial: tuple[int, ...]
    low_precision: bool = True
    vision: VisionConfig | None = None
    head_dim: int = 128
    vocab: int = 32000
    trained: bool = False
    backbone: str = "llava3d"
    num_kv_heads: int = 0

    @property
    def config(self) -> DecoderConfig:
        """No token ends an answer, so that all have the same length; positions for every scene."""
        heads, qwen = self.hidden // self.head_dim, self.backbone == VIDEO3D
        return DecoderConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_layers=self.layers,
            num_heads=heads,
            num_kv_heads=self.num_kv_heads or heads,
            rms_norm_eps=1e-6 if qwen else 1e-5,
            rope_theta=1e6 if qwen else 1e4,
            max_positions=max(MAX_POSITIONS, max(self.spatial) + OTHER_POSITIONS),
            eos_ids=NO_TOKEN_ENDS,
            qkv_bias=qwen,
        )

    @property
    def model_config(self) -> BackboneConfig:
        """Of a model with this decoder, and the 7B's vision tower unless it has its own."""
        if self.backbone == VIDEO3D:
            return Video3DConfig(self.config)
        return LlavaConfig(self.config, self.vision or VisionConfig())


VIDEO3D = "video3dllm"
SHAPES = {
    "A": BenchShape("A", 1024, 8, 2752, (2560,)),
    "B": BenchShape("B", 1024, 32, 2752, (595,)),
    "C": BenchShape("C", 512, 32, 1376, (290,), low_precision=False),
    "W": BenchShape("W", 4096, 4, 11008, (1659,)),
    "7B": BenchShape("7B", 4096, 32, 11008, (850, 1700, 2560), vision=VisionConfig()),
    EMBEDDED: BenchShape(
        EMBEDDED, 192, 4, 512, (480,), low_precision=False, head_dim=64, vocab=1280, trained=True
    ),
}


# Of Qwen2-7B a quarter in every size (A with fewer layers and a longer scene), an eighth, its own
# widths; scenes of 16, 8, 4, 8 frames, and of 10, 20, 32, without their newlines.
FRAME = 196
_QUARTER = BenchShape("A", 896, 7, 4736, (16 * FRAME,), backbone=VIDEO3D, num_kv_heads=1)
VIDEO3D_SHAPES = {
    "A": _QUARTER,
    "B": dataclasses.replace(_QUARTER, name="B", layers=28, spatial=(8 * FRAME,)),
    "C": BenchShape(
        *("C", 448, 28, 2368, (4 * FRAME,)),
        low_precision=False,
        head_dim=64,
        backbone=VIDEO3D,
        num_kv_heads=1,
    ),
    "W": BenchShape("W", 3584, 4, 18944, (8 * FRAME,), backbone=VIDEO3D, num_kv_heads=4),
    "7B": BenchShape(
        *("7B", 3584, 28, 18944, (10 * FRAME, 20 * FRAME, 32 * FRAME)),
        vocab=151649,
        backbone=VIDEO3D,
        num_kv_heads=4,
    ),
}
SHAPES_OF = {"llava3d": SHAPES, VIDEO3D: VIDEO3D_SHAPES}


def choose_shape(
    name: str | None,
    device: torch.device,
    spatial: int | None = None,
    backbone: str = "llava3d",
) -> BenchShape:
    """The shape of a name; without one 7B on a GPU, C on a CPU. spatial: one scene of so many.

    Raises ConfigError for 7B on a CPU, for one that the backbone does not have, and for a scene
    without tokens.
    """
    shapes = SHAPES_OF[backbone]
    name = name or ("7B" if device.type == "cuda" else "C")
    if name == "7B" and device.type == "cpu":
        raise ConfigError(
            "shape 7B is for a CUDA GPU (a prefill would take minutes on a core); use A, B or C on"
            " a CPU."
        )
    if name not in shapes:
        raise ConfigError(
            f"--shape {name}: not one of --backbone {backbone}, which has {', '.join(shapes)}."
        )
    if spatial is None:
        return shapes[name]
    if spatial < 1:
        raise ConfigError(f"--spatial {spatial}: at least 1 token is needed.")
    return dataclasses.replace(shapes[name], spatial=(spatial,))


def choose_dtype(shape: BenchShape, precision: str, device: torch.device) -> torch.dtype:
    """The dtype of `auto`, `bf16` or `fp32`.

    `auto` is bfloat16 on a GPU, and on a processor that has it but for shapes that ask for float32.
    """
    if precision == "auto":
        low = shape.low_precision and (device.type == "cuda" or has_bfloat16())
        return torch.bfloat16 if low else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
