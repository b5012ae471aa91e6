"""The tokenizer of a checkpoint folder: whether its files are there, and whether it is the one that
the config means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.architectures import Architecture, architecture_named
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.prompt import AnyTokenizer
from ada3d_ros.model.weight_files import POINTER, damaged

CHATML = b"<|im_start|>"  # a piece of tokenizers whose models are asked in another template
TOKENIZER_KEY = "ada3d_tokenizer_sha256"  # in config.json; official checkpoints have none


def check_tokenizer_file(
    folder: Path, data: Mapping[str, object], architecture: Architecture
) -> None:
    """Raises CheckpointError unless the tokenizer is there, and is that of config.json (`data`)."""
    sets = architecture.tokenizer_files
    found = [names for names in sets if all((folder / name).is_file() for name in names)]
    tokenizer = folder / sets[0][0]
    if not found:
        others = "".join(f" (or {' and '.join(names)})" for names in sets[1:])
        if tokenizer.suffix == ".model" and (folder / "tokenizer.json").is_file():
            from ada3d_ros.model.folder_faults import no_sentencepiece  # where it is needed

            raise damaged(tokenizer, no_sentencepiece(folder))
        hint = " (for LLaVA, that of Vicuna)" if tokenizer.suffix == ".model" else ""
        raise damaged(
            tokenizer,
            f"{folder} lacks {tokenizer.name}{others}: copy it from the checkpoint{hint}.",
        )
    if found[0] != sets[0]:
        return
    content = tokenizer.read_bytes()
    expected = data.get(TOKENIZER_KEY)
    if expected and expected != hashlib.sha256(content).hexdigest():
        raise damaged(
            tokenizer,
            f"{tokenizer} is not the one that this model was trained with"
            f" (config.json, {TOKENIZER_KEY}): copy the folder again.",
        )
    if content.startswith(POINTER):  # a checkpoint that does not say which
        raise damaged(tokenizer, f"{tokenizer} is not a sentencepiece model.")
    if tokenizer.suffix == ".model" and CHATML in content:
        from ada3d_ros.model.folder_faults import other_template

        raise CheckpointError(other_template(tokenizer))


def open_tokenizer(folder: Path, config: BackboneConfig) -> AnyTokenizer:
    """The tokenizer of a folder with this config.

    Raises CheckpointError where it cannot be read, or is not of the same checkpoint.
    """
    tokenizer = architecture_named(config.backbone).tokenizer(folder)
    # An embedding may be larger than the vocabulary, not smaller.
    decoder, file = config.decoder, f"{folder}: {tokenizer.file_name}"
    if tokenizer.vocab_size > decoder.vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.vocab_size} tokens, the model's embedding"
            f" only {decoder.vocab_size}: they are not of the same checkpoint."
        )

    # Prompts begin, where anything begins them, and answers end with these.
    bos = ("bos", tokenizer.bos_id, (decoder.bos_id,))
    eos = ("eos", tokenizer.eos_id, decoder.eos_ids)
    for name, ours, theirs in (bos, eos):
        if ours >= 0 and ours not in theirs:
            raise CheckpointError(
                f"{file} has {name} id {ours}, config.json has {name}_token_id"
                f" {', '.join(map(str, theirs))}: they are not of the same checkpoint."
            )

    # What points, or asks, by a name.
    for piece, key, token in config.named_ids:
        if token >= 0 and tokenizer.control_id(piece) != token:
            raise CheckpointError(
                f"{file} has {piece} as token {tokenizer.control_id(piece)}, config.json, {key},"
                f" as {token}: they are not of the same checkpoint."
            )

    # What points is no text: control pieces, or ids behind the vocabulary.
    for token_id in (config.point_id, config.egocentric_point_id):
        if token_id >= 0 and tokenizer.is_text(token_id):
            raise CheckpointError(
                f"{folder}: config.json, ada3d_point_ids names token {token_id}, which is text"
                f" in {tokenizer.file_name}: they are not of the same checkpoint."
            )
    return tokenizer
