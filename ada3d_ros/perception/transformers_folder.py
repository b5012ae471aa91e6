"""What a folder of a transformers detector holds, looked at before anything of it is loaded.

Each fault is a DetectorError that says what is there and the way out. Loads neither torch nor
transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ada3d_ros.errors import DetectorError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
POINTER = b"version https://git-lfs.github.com/spec/"  # how a Git LFS pointer begins
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# model_type of config.json -> score that suits it: what the examples of its authors use.
PHRASE_FAMILIES = {
    "grounding-dino": 0.3,
    "mm-grounding-dino": 0.3,
    "owlv2": 0.2,
    "owlvit": 0.1,
}
KIND_FAMILIES = {
    "conditional_detr": 0.5,
    "d_fine": 0.5,
    "dab-detr": 0.5,
    "deformable_detr": 0.5,
    "deimv2": 0.5,
    "detr": 0.8,
    "lw_detr": 0.5,
    "rf_detr": 0.5,
    "rt_detr": 0.5,
    "rt_detr_v2": 0.5,
    "yolos": 0.8,
}
HOW_TO_GET_ONE = (
    "Nothing is downloaded by this package: fetch the model where there is a network (`hf download"
    " NAME --local-dir FOLDER`, or git with LFS) and give detector.path that FOLDER."
)


@dataclass(frozen=True, slots=True)
class DetectorFolder:
    """A folder whose files are all there.

    name: as it was given; model_type: of its config.json; takes_phrases: whether free phrases are
    looked for; min_score: what suits its family; weights: its safetensors files.
    """

    path: Path
    name: str
    model_type: str
    takes_phrases: bool
    min_score: float
    weights: tuple[Path, ...]

    def sha256(self) -> str:
        """Of the weights: of the one file, or of all of them one after the other."""
        digest = hashlib.sha256()
        for file in self.weights:
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def find_folder(path: str) -> DetectorFolder:
    """The detector at a path, or of a name that transformers has in its local cache.

    Raises DetectorError.
    """
    folder = _folder_of(path)
    facts = _read_json(folder / "config.json", "config.json says what model this is")
    model_type = str(facts.get("model_type", ""))
    min_score = PHRASE_FAMILIES.get(model_type, KIND_FAMILIES.get(model_type))
    if min_score is None:
        raise DetectorError(_no_detector(folder, facts))

    # All its files.
    takes_phrases = model_type in PHRASE_FAMILIES
    weights = _weights_of(folder)
    if not any((folder / name).is_file() for name in PREPROCESSORS):
        raise DetectorError(
            f"{folder} holds no {PREPROCESSORS[0]}, which says how images are scaled: copy it from"
            " where the folder came from."
        )
    if takes_phrases:
        _check_tokenizer(folder, model_type)
    return DetectorFolder(folder, path, model_type, takes_phrases, min_score, weights)


def _folder_of(path: str) -> Path:
    """The folder meant by a path or a cached name."""
    given = Path(path).expanduser()
    if given.is_dir():
        return given
    if given.is_file():
        raise DetectorError(
            f"{given} is neither an ONNX file nor a folder: name a file that ends in .onnx, or the"
            f" folder of a transformers detector, perhaps {given.parent}."
        )
    if not HUB_NAME.fullmatch(path) or given.parent.is_dir():
        raise DetectorError(
            f"{path} is not there: detector.path names an ONNX file, the folder of a transformers"
            f" detector, or `topic`. {HOW_TO_GET_ONE}"
        )
    return _cached(path)


def _cached(name: str) -> Path:
    """The folder of a name in transformers' local cache."""
    from huggingface_hub import constants, try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json")
    if not isinstance(file, str):
        raise DetectorError(
            f"{name} is no folder here, and no model of this name is in the local cache"
            f" {constants.HF_HUB_CACHE}. {HOW_TO_GET_ONE}"
        )
    return Path(file).parent


def _read_json(file: Path, purpose: str) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DetectorError(
            f"{file.parent} is no transformers detector: {purpose}, and it holds none. Name the"
            " folder that holds config.json, the weights and the preprocessor."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DetectorError(
            f"{file} cannot be read as JSON ({error}): copy the file again."
        ) from error
    if not isinstance(data, dict):
        raise DetectorError(f"{file} holds a {type(data).__name__}, expected a JSON object.")
    return data


def _no_detector(folder: Path, facts: dict[str, Any]) -> str:
    """The text for a folder of another kind of model."""
    classes = facts.get("architectures")
    what = ", ".join(map(str, classes)) if isinstance(classes, list) and classes else "no class"
    is_language = "CausalLM" in what or "Llava" in what
    hint = " A language model belongs into model.path." if is_language else ""
    families = ", ".join([*KIND_FAMILIES, *PHRASE_FAMILIES])
    return (
        f"{folder} is no detector that is known here: its config.json says {what}, model_type"
        f" {facts.get('model_type')!r}.{hint} Known: {families}."
    )


def _weights_of(folder: Path) -> tuple[Path, ...]:
    """The safetensors files. Raises DetectorError for pickles, pointers and missing shards."""
    if (folder / WEIGHTS).exists():
        files = [folder / WEIGHTS]
    elif (folder / WEIGHTS_INDEX).exists():
        shards = _read_json(folder / WEIGHTS_INDEX, "the index lists the weights")
        names = shards.get("weight_map")
        if not isinstance(names, dict) or not names:
            raise DetectorError(f"{folder / WEIGHTS_INDEX} lists no weights: copy it again.")
        files = [folder / Path(str(name)).name for name in sorted(set(map(str, names.values())))]
    elif pickles := [name for name in PICKLES if (folder / name).exists()]:
        raise DetectorError(
            f"{folder} holds its weights as a pickle, {pickles[0]}, and loading one could run"
            " code: it is not loaded. Take the safetensors version of the model, or convert it"
            " where you trust it (transformers: from_pretrained, then save_pretrained)."
        )
    else:
        raise DetectorError(
            f"{folder} holds no weights: expected {WEIGHTS} or {WEIGHTS_INDEX}. {HOW_TO_GET_ONE}"
        )

    # Each of them a real file.
    for file in files:
        try:
            with file.open("rb") as handle:
                head = handle.read(len(POINTER))
        except OSError as error:
            raise DetectorError(
                f"{file} cannot be read ({error.strerror}): copy it from where the folder came"
                " from."
            ) from error
        if head == POINTER:
            raise DetectorError(
                f"{file} is a Git LFS pointer, not the file itself: run `git lfs install` and `git"
                f" lfs pull` in {folder}."
            )
    return tuple(files)


def _check_tokenizer(folder: Path, model_type: str) -> None:
    """Raises DetectorError that names the missing file of the tokenizer that phrases need."""
    pieces = ("vocab.json", "merges.txt") if model_type.startswith("owl") else ("vocab.txt",)
    missing = [name for name in pieces if not (folder / name).is_file()]
    if not (folder / "tokenizer.json").is_file() and missing:
        raise DetectorError(
            f"{folder} lacks the tokenizer that phrases need: neither tokenizer.json nor"
            f" {' and '.join(pieces)} (missing: {', '.join(missing)}). Copy tokenizer.json from"
            " where the folder came from."
        )
