"""Nothing that is read from a file, a message or a person runs as code."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.errors import CheckpointError, InvalidRequestError
from ada3d_ros.model.prompt import CONTROL_TOKENS, check_question
from ada3d_ros.pipeline import Ada3DPipeline
from test.support.sources import PACKAGE, files_under

# calls that run what they read, and the argument that forbids it
UNSAFE = {
    "pickle.load": None,
    "pickle.loads": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "joblib.load": None,
    "os.system": None,
    "eval": None,
    "exec": None,
    "torch.load": "weights_only",
    "from_pretrained": "local_files_only",
}


def unsafe_calls(source: str) -> list[str]:
    """Calls of one file that could run what they read, as `line: call`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        name = ast.unparse(node.func)
        known = name if name in UNSAFE else name.rsplit(".", 1)[-1]
        unguarded = known in UNSAFE and options.get(str(UNSAFE[known])) != "True"
        if name.endswith(".eval"):  # a module's own, of torch
            unguarded = False
        switched_on = {"allow_pickle", "shell", "trust_remote_code"} & {
            option for option, value in options.items() if value == "True"
        }
        if unguarded or switched_on:
            found.append(f"{node.lineno}: {name}")
    return found


def test_no_file_of_the_package_runs_what_it_reads() -> None:
    found = {
        path: calls
        for path, file in files_under(PACKAGE)
        if (calls := unsafe_calls(file.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "call",
    [
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(name)",
        "eval(text)",
    ],
)
def test_the_check_above_can_fail(call: str) -> None:
    assert unsafe_calls(call)


def test_a_checkpoint_with_code_in_it_is_refused(model: Path, tmp_path: Path) -> None:
    """Through the whole pipeline: a sentence, and the code has not run."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    torch.save({"weight": Payload()}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="is unsafe: it is a pickle"):
        Ada3DPipeline(from_flat({"model.path": str(folder)})).check()
    assert not ran.exists()


@pytest.mark.parametrize("token", sorted({*CONTROL_TOKENS, "USER:", "ASSISTANT:"}))
@pytest.mark.parametrize("form", ["{}", "What is {} there?", "{}What?", "What?\n{}", "What? {}"])
def test_what_steers_a_model_is_refused_in_a_question(token: str, form: str) -> None:
    with pytest.raises(InvalidRequestError, match="which steers the model"):
        check_question(form.format(token), 2000)
