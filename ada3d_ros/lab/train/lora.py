"""LoRA adapters on a checkpoint's decoder, and the tokens by which it is to point, by peft.

peft wraps the decoder's linear layers in place: the model runs as before, under the same names, and
with the adapters in it. The two tokens that point are rows of their own behind the embedding of the
checkpoint, whose tokenizer stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn

from ada3d_ros.errors import ConfigError
from ada3d_ros.model.layout import official_name
from ada3d_ros.model.llava3d import Llava3D

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

# The decoder's linear layers, as model.weights counts them; under the official names, too, where
# the vision tower has layers of the same last name.
TARGETS = r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
ALPHA_OVER_RANK = 2  # what an adapter adds is scaled by it
PEFT_PREFIX = "base_model.model."  # of peft's names
MAX_RANK = 1024


def require_peft() -> ModuleType:
    """peft. Raises ConfigError with the command that installs it."""
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "--lora needs the Python package peft, which is not installed: `pip install -c"
            " constraints/python.txt peft` (or `pip install .[train]`)."
        ) from None
    return peft


@torch.no_grad()
def add_point_tokens(model: Llava3D) -> tuple[int, int]:
    """The ids of the two tokens that point.

    A model without them gets two rows more in embedding and head, the mean of all others at first:
    the ids after its last one, which its tokenizer does not have. One that has both stays.
    """
    config, decoder = model.config, model.decoder
    if config.point_id >= 0 and config.egocentric_point_id >= 0:
        return config.point_id, config.egocentric_point_id

    # The rows: of an embedding and of a linear layer alike.
    first = config.decoder.vocab_size
    for layer in (decoder.embed_tokens, decoder.lm_head):
        old = layer.weight
        mean = old.float().mean(0, keepdim=True).to(old.dtype).expand(2, -1)
        layer.weight = nn.Parameter(torch.cat((old, mean)), requires_grad=False)
    decoder.embed_tokens.num_embeddings = decoder.lm_head.out_features = first + 2

    # What config.json will say.
    sizes = dataclasses.replace(config.decoder, vocab_size=first + 2)
    model.config = dataclasses.replace(
        config, decoder=sizes, point_id=first, egocentric_point_id=first + 1
    )
    decoder.config = sizes
    return first, first + 1


def add_adapters(model: Llava3D, rank: int, seed: int) -> PeftModel:
    """Wraps the decoder's linear layers, and the head's rows of the two tokens, in place.

    What was added is float32 and takes gradients; it changes nothing before it is trained. Raises
    ConfigError for a rank out of range, or without peft.
    """
    if not 1 <= rank <= MAX_RANK:
        raise ConfigError(f"--rank {rank}: allowed: 1 to {MAX_RANK} (16 is usual).")
    peft = require_peft()
    settings = _settings(rank, TARGETS, add_point_tokens(model))
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model.decoder, settings)
    for parameter in trained_parameters(model.decoder):
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return adapted


def _settings(rank: int, targets: str, ids: Sequence[int]) -> PeftConfig:
    # A place's embedding is its click, never that of its token: only the head's rows learn.
    made: PeftConfig = require_peft().LoraConfig(
        r=rank,
        lora_alpha=ALPHA_OVER_RANK * rank,
        target_modules=targets,
        trainable_token_indices={"lm_head": list(ids)},
    )
    return made


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that take gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def adapter_state(adapted: PeftModel) -> dict[str, torch.Tensor]:
    """What was added, by peft's names."""
    return dict(require_peft().get_peft_model_state_dict(adapted))


def load_adapter_state(adapted: PeftModel, state: dict[str, torch.Tensor]) -> None:
    """Puts values of `adapter_state` back."""
    require_peft().set_peft_model_state_dict(adapted, state)


def save_adapter(adapted: PeftModel, folder: Path) -> Path:
    """Writes adapter_config.json and adapter_model.safetensors, peft's files; returns the latter.

    By the official names: peft applies them to a LLaMA or LLaVA of transformers whose vocabulary
    has the two tokens more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used = adapted.peft_config["default"].to_dict()
    ids = used["trainable_token_indices"]["lm_head"]
    settings = _settings(used["r"], rf"model\.{TARGETS}", ids)
    settings.inference_mode = True
    settings.save_pretrained(str(folder))

    # The values.
    content = {
        PEFT_PREFIX + official_name("decoder." + name.removeprefix(PEFT_PREFIX)): value
        for name, value in adapter_state(adapted).items()
    }
    path = folder / "adapter_model.safetensors"
    save_file({n: v.detach().cpu().contiguous() for n, v in content.items()}, path)
    path.chmod(0o644)  # save_file makes it private
    return path
