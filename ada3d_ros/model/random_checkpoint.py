"""A tiny checkpoint with random weights: the whole path runs, its answers mean nothing.

For tests and for trying the node without a trained checkpoint; config.json says so
(`ada3d_random_weights`).
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import torch

from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.model.checkpoint import save_checkpoint, set_parameter
from ada3d_ros.model.config import BackboneConfig, DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.layout import build_meta_model
from ada3d_ros.model.llava_next.anyres import V1_6_PINPOINTS
from ada3d_ros.model.llava_next.config import LlavaNextConfig
from ada3d_ros.model.prompt import POINT_TOKENS, SYSTEM_PROMPTS, AnyTokenizer, Tokenizer
from ada3d_ros.model.video3dllm.config import SIGLIP_SO400M, Video3DConfig
from ada3d_ros.model.weight_files import read_json

TINY_CONFIG = LlavaConfig(
    decoder=DecoderConfig(
        vocab_size=512,
        hidden_size=192,
        intermediate_size=512,
        num_layers=4,
        num_heads=6,
        num_kv_heads=6,
    ),
    vision=VisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=112,
    ),
    random_weights=True,
)  # 2.6 million parameters

TINY_VIDEO3D = Video3DConfig(
    decoder=DecoderConfig(
        vocab_size=512,
        hidden_size=192,
        intermediate_size=512,
        num_layers=4,
        num_heads=6,
        num_kv_heads=2,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        qkv_bias=True,
    ),
    vision=dataclasses.replace(
        SIGLIP_SO400M,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=112,
    ),
    max_length=4096,
    coord_margin_px=0,
    random_weights=True,
)  # 2.3 million parameters; 4 x 4 tokens and 4 newlines a view
TINY_2D = dataclasses.replace(TINY_CONFIG, has_video_tower=False)
TINY_NEXT = LlavaNextConfig(
    decoder=TINY_CONFIG.decoder,
    vision=TINY_CONFIG.vision,
    random_weights=True,
    pinpoints=tuple((height // 3, width // 3) for height, width in V1_6_PINPOINTS),
)
TINY = {
    "llava3d": TINY_CONFIG,
    "video3dllm": TINY_VIDEO3D,
    "llava1.5": TINY_2D,
    "llava_next": TINY_NEXT,
}
VECTORS = ("class_embedding", "newline", "zero_target")  # that stand among features

OBJECTS = (
    "chair",
    "table",
    "desk",
    "cabinet",
    "bed",
    "sofa",
    "door",
    "window",
    "lamp",
    "shelf",
    "monitor",
    "keyboard",
    "bin",
    "box",
    "plant",
    "curtain",
    "mirror",
    "sink",
    "towel",
    "fridge",
    "microwave",
    "picture",
    "whiteboard",
    "backpack",
)
PATTERNS = (
    "What color is the {0} next to the {1}?",
    "How many of these are in the room: {0}, {1}?",
    "The {0} is in front of the {1}, behind it is another {0}.",
    "Find the {0} between the {1} and the wall, and give its coordinates.",
    "The related object is located at [1.250, -0.375, 0.860]. Describe the {0} in detail.",
    "It is localized at [-3.150, 2.905, 0.940, 0.601, 1.218, 1.938] near the {1}.",
)


def _sentences() -> list[str]:
    pairs = zip(OBJECTS, OBJECTS[7:] + OBJECTS[:7], strict=True)
    texts = [pattern.format(*pair) for pair in pairs for pattern in PATTERNS]
    prompt = " USER: Describe the scene concisely. ASSISTANT:"
    return texts + [system + prompt for system in SYSTEM_PROMPTS.values()]


def _random_value(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Scaled so that activations keep their size.

    1 +- 0.1 for norms, 1 / sqrt(inputs) for matrices, small biases.
    """
    value = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.02 * value
    if len(shape) == 1 and not name.endswith(VECTORS):
        return 1.0 + 0.1 * value
    if name.endswith(("embed_tokens.weight", "position_embedding.weight", *VECTORS)):
        return 0.5 * value
    return value * float(shape[1:].numel()) ** -0.5


def write_random_checkpoint(
    path: str | Path,
    seed: int = 0,
    config: BackboneConfig = TINY_CONFIG,
    max_shard_bytes: int = 5 * 10**9,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes config.json, the tokenizer and safetensors in `dtype`; the same bytes for a seed. The
    config gets the ids of the tokenizer made: those that begin and end, both tokens that point
    where it has a point_id, and those of Video-3D-LLM.

    Raises ConfigError where config.random_weights is not set (such a folder must say what it is),
    and for a folder that holds another checkpoint already.
    """
    # A folder that says what it is, and nothing of value overwritten.
    if not config.random_weights:
        raise ConfigError(
            "write_random_checkpoint: config.random_weights is False; set it, so that the folder"
            " says what it is."
        )
    folder = Path(path)
    known = folder / "config.json"
    if known.exists() and not read_json(known).get("ada3d_random_weights"):
        raise ConfigError(
            f"{folder} holds a checkpoint that is not of random weights; name another folder."
        )

    # The tokenizer first: its special tokens belong into the config.
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = min(config.decoder.vocab_size, 512)
    controls = POINT_TOKENS if config.point_id >= 0 else ()
    tokenizer: AnyTokenizer
    if isinstance(config, Video3DConfig):
        from ada3d_ros.model.qwen_tokenizer import END_OF_TEXT, train_qwen_tokenizer

        qwen = train_qwen_tokenizer(folder, _sentences(), vocab_size, controls)
        begin, tokenizer = qwen.control_id(END_OF_TEXT), qwen
        ground_id = qwen.ground_id if config.ground_id >= 0 else -1
        config = dataclasses.replace(config, coord_id=qwen.coord_id, ground_id=ground_id)
    else:
        path = folder / Tokenizer.file_name
        tokenizer = train_tokenizer(path, _sentences(), vocab_size, controls)
        begin = tokenizer.bos_id
    eos_ids = (tokenizer.eos_id,)
    decoder = dataclasses.replace(config.decoder, bos_id=begin, eos_ids=eos_ids)
    config = dataclasses.replace(config, decoder=decoder)
    if controls:
        ids = [tokenizer.control_id(piece) for piece in controls]
        config = dataclasses.replace(config, point_id=ids[0], egocentric_point_id=ids[1])

    # Weights in the order of the model's own names: the same bytes for the same seed.
    model, generator = build_meta_model(config), torch.Generator().manual_seed(seed)
    for name, parameter in list(model.named_parameters()):
        set_parameter(model, name, _random_value(name, parameter.shape, generator).to(dtype))
    save_checkpoint(model, tokenizer, folder, max_shard_bytes)
    return folder


def train_tokenizer(
    path: Path, texts: Sequence[str], vocab_size: int, controls: Sequence[str] = ()
) -> Tokenizer:
    """A sentencepiece BPE of these texts, written to `path`; the same every time.

    With byte fallback and LLaMA's special ids. At most vocab_size pieces, fewer where the texts do
    not give as many. controls: control pieces besides, which no text is encoded to and which
    decode to none (`Tokenizer.control_id`).
    """
    content = io.BytesIO()
    # One thread: several order equal merges differently.
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=content,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        control_symbols=list(controls),
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(content.getvalue())
    return Tokenizer(path)


def main(argv: list[str]) -> int:
    """`ada3d random-model FOLDER`: returns 0, or 2 where the folder cannot be written."""
    parser = argparse.ArgumentParser(
        prog="ada3d random-model",
        description=(
            "Writes a small checkpoint with random weights. Everything runs on it; its answers mean"
            " nothing."
        ),
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="where to write config.json, the tokenizer and model.safetensors",
    )
    parser.add_argument(
        "--backbone",
        choices=tuple(TINY),
        default="llava3d",
        help="the kind of model (default llava3d)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")

    # A sentence in place of a traceback.
    options = parser.parse_args(argv)
    try:
        folder = write_random_checkpoint(options.folder, options.seed, TINY[options.backbone])
    except (Ada3DError, OSError) as error:
        print(f"ada3d random-model: {error}", file=sys.stderr)
        return 2
    print(
        f"{folder}: random weights, seed {options.seed}; start the node with model.path:={folder}"
    )
    return 0
