"""Folders of tiny transformers detectors with random weights, written with save_pretrained.

Each with its processor; tokenizers are made here from a few words, nothing is downloaded.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.types import Intrinsics, RgbdFrame

SIZE = 64  # pixels that images are scaled to
KINDS = ("Cup", "chair", "tvmonitor")
STAGES: dict[str, Any] = {"out_features": ["stage2", "stage3", "stage4"]}  # of a backbone
WORDS = ("a", "an", "cup", "chair", "office", "door", "red", "trash", "can", "of", "photo")


def frame_of(width: int = 60, height: int = 48, seed: int = 0) -> RgbdFrame:
    """A frame of noise without depth."""
    rgb = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    intrinsics = Intrinsics(50.0, 50.0, width / 2, height / 2, width, height)
    depth = np.full((height, width), np.nan, np.float32)
    return RgbdFrame(0, rgb, depth, intrinsics, np.eye(4), "map")


def write_rt_detr(folder: Path, kinds: tuple[str, ...] | None = KINDS, queries: int = 10) -> Path:
    """RT-DETR with a small ResNet. kinds None: config.json names no kinds."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        **STAGES,
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=queries,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_denoising=0,
        **_labels(kinds),
    )
    _seeded(lambda: RTDetrForObjectDetection(config)).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def write_yolos(folder: Path, kinds: tuple[str, ...] = ("N/A", *KINDS)) -> Path:
    """YOLOS, whose first class names nothing, as in the folders of DETR."""
    from transformers import YolosConfig, YolosForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[SIZE, SIZE],
        num_detection_tokens=10,
        **_labels(kinds),
    )
    _seeded(lambda: YolosForObjectDetection(config)).save_pretrained(folder)
    size = {"shortest_edge": SIZE, "longest_edge": SIZE + 32}
    YolosImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def write_owlv2(folder: Path) -> Path:
    """OWLv2 with CLIP's tokenizer of single letters, of which it reads 16 + 16."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.clip.tokenization_clip import CLIPTokenizer
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = Owlv2Config(
        text_config={**tower, "vocab_size": len(vocabulary), "max_position_embeddings": 32},
        vision_config={**tower, "image_size": SIZE, "patch_size": 16},
        projection_dim=16,
    )
    _seeded(lambda: Owlv2ForObjectDetection(config)).save_pretrained(folder)
    Owlv2Processor(
        image_processor=Owlv2ImageProcessorPil(size={"height": SIZE, "width": SIZE}),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32),
    ).save_pretrained(folder)
    return folder


def write_grounding_dino(folder: Path, max_tokens: int = 64) -> Path:
    """Grounding DINO with BERT's tokenizer of a few words; `.` has its number in BERT, 1012."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        SwinConfig,
    )
    from transformers.models.grounding_dino import image_processing_pil_grounding_dino as images

    tokens = [f"[unused{number}]" for number in range(1030)]
    tokens[0], tokens[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens[1012], tokens[1029] = ".", "?"
    tokens += [*WORDS, *(f"##{letter}" for letter in string.ascii_lowercase)]
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        image_size=SIZE,
        **STAGES,
    )
    text = BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        max_text_len=max_tokens,
    )
    _seeded(lambda: GroundingDinoForObjectDetection(config)).save_pretrained(folder)
    size = {"shortest_edge": SIZE, "longest_edge": SIZE + 32}
    GroundingDinoProcessor(
        image_processor=images.GroundingDinoImageProcessorPil(size=size),
        tokenizer=BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}),
    ).save_pretrained(folder)
    return folder


def _labels(kinds: tuple[str, ...] | None) -> dict[str, Any]:
    if kinds is None:
        return {"num_labels": 3}
    numbered = dict(enumerate(kinds))
    return {"id2label": numbered, "label2id": {name: n for n, name in numbered.items()}}


def _seeded(make: Callable[[], torch.nn.Module]) -> Any:
    """The model with weights that tell images and phrases apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    return model
