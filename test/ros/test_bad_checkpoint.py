"""Checkpoints that cannot be used: ERROR and a sentence, services that answer, a second try."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import torch
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from safetensors.torch import load_file, save_file
from std_srvs.srv import SetBool, Trigger

from ada3d_ros.errors import ErrorCode
from ada3d_ros.model.checkpoint import load_model, save_checkpoint
from ada3d_ros.msg import AgentStatus
from ada3d_ros.srv import GetModelInfo, GroundObject, QueryScene
from test.support.ros_harness import Harness, wait_until

Start = Callable[..., Harness]
Break = Callable[[Path], dict[str, Any] | None]


class Planted:
    """Unpickling this makes a folder: the smallest proof that code in a checkpoint ran."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def sharded(folder: Path) -> list[Path]:
    loaded = load_model(folder)
    (folder / "model.safetensors").unlink()
    save_checkpoint(loaded.model, loaded.tokenizer, folder, max_shard_bytes=3_000_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def missing_shard(folder: Path) -> None:
    sharded(folder)[1].unlink()


def wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(512, 7)
    save_file(tensors, folder / "model.safetensors")


def missing_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")


def half_copied(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_with_code(protocol: int) -> Break:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with (folder / "pytorch_model.bin").open("wb") as file:
            pickle.dump({"lm_head.weight": Planted(folder / "code_ran")}, file, protocol=protocol)

    return apply


def torch_file_with_code(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, "extra": Planted(folder / "code_ran")}, folder / "pytorch_model.bin")


def write(name: str, text: str) -> Break:
    return lambda folder: (folder / name).write_text(text) and None


def edit_config(**changes: Any) -> Break:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **changes}))

    return apply


def other_tokenizer(folder: Path) -> None:
    """As in an official checkpoint, whose config.json does not say which tokenizer it is for."""
    edit_config(ada3d_tokenizer_sha256="")(folder)
    write("tokenizer.model", "not sentencepiece")(folder)


FAULTS: dict[str, tuple[Break, str]] = {
    "a path that does not exist": (shutil.rmtree, "is not a folder"),
    "a file instead of a folder": (
        lambda f: shutil.rmtree(f) or (f.write_text("x") and None),
        "is not a folder",
    ),
    "an empty folder": (lambda f: shutil.rmtree(f) or f.mkdir(), "holds no weights"),
    "no path": (lambda f: {"model.path": ""}, "model.path is empty"),
    "a missing shard": (missing_shard, "shards"),
    "a wrong shape": (wrong_shape, "lm_head.weight has shape (512, 7)"),
    "a missing tensor": (missing_tensor, "model.layers.1.mlp.up_proj.weight"),
    "a half copied file": (half_copied, "cut short"),
    "a pickle with code": (pickle_with_code(2), "unsafe"),
    "a newer pickle with code": (pickle_with_code(4), "pytorch_model.bin"),
    "a torch file with code": (torch_file_with_code, "unsafe"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer.model"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "a config that is not JSON": (
        write("config.json", "{ hidden_size: 12"),
        "cannot be read as JSON",
    ),
    "a config that is a list": (write("config.json", "[1, 2]"), "expected a JSON object"),
    "a config without sizes": (write("config.json", "{}"), "config.json"),
    "a config with words for numbers": (
        edit_config(hidden_size="many"),
        "hidden_size = 'many' must be a whole number",
    ),
    "a config with no heads": (
        edit_config(num_attention_heads=0),
        "num_attention_heads = 0 must be above 0",
    ),
    "a config below zero": (edit_config(hidden_size=-192), "hidden_size = -192 must be above 0"),
    "a config of another size": (edit_config(num_hidden_layers=5), "missing"),
    "a tokenizer of another model": (
        write("tokenizer.model", "not sentencepiece"),
        "is not the one that this model was",
    ),
    "a tokenizer that is none": (other_tokenizer, "tokenizer.model"),
    "a device that is absent": (lambda f: {"model.device": "cuda:63"}, "cuda:63"),
}
LATE_FAULTS: dict[str, tuple[Break, str]] = {
    "another revision": (
        lambda f: {"model.revision_sha256": "0" * 64},
        "model.revision_sha256 expects 000000",
    ),
}


def start_broken(start_agent: Start, folder: Path, breaks: Break) -> Harness:
    parameters = breaks(folder) or {}
    return start_agent(**{"model.path": str(folder), **parameters})


def change(agent: Harness, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(agent.call(ChangeState, "change_state", request).success)


def state(agent: Harness) -> int:
    return int(agent.call(GetState, "get_state").current_state.id)


def assert_error_is_told(agent: Harness, words: str) -> None:
    """By ~/status, by every service that answers questions; and the other services answer."""
    assert wait_until(lambda: agent.node.state_and_detail()[0] == AgentStatus.ERROR), (
        agent.node.state_and_detail()
    )
    detail = agent.node.state_and_detail()[1]
    assert words in detail
    assert detail.endswith((".", "?")) or "(" in detail  # a sentence
    assert "Traceback" not in detail
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="What is there?")).answer
    assert answer.error_code == ErrorCode.MODEL_ERROR
    assert words in answer.error_msg
    response = agent.call(GroundObject, "ground", GroundObject.Request(phrase="the chair"))
    assert (response.success, response.error_code) == (False, ErrorCode.MODEL_ERROR)
    assert agent.call(Trigger, "reset_scene").success
    assert agent.call(SetBool, "set_paused", SetBool.Request(data=False)).success
    agent.call(GetModelInfo, "get_model_info")


def assert_second_try_works(agent: Harness, tiny_model: Path) -> None:
    good = [
        Parameter("model.path", value=str(tiny_model)),
        Parameter("model.revision_sha256", value=""),
        Parameter("model.device", value="auto"),
    ]
    assert all(result.successful for result in agent.node.set_parameters(good))
    assert change(agent, Transition.TRANSITION_CONFIGURE)
    assert change(agent, Transition.TRANSITION_ACTIVATE)
    agent.publish_scene(1)
    assert agent.call(
        QueryScene, "query", QueryScene.Request(question="What is there?")
    ).answer.success


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FAULTS)
def test_configure_fails_with_the_reason_and_works_the_second_time(
    start_agent: Start, folder: Path, tiny_model: Path, name: str
) -> None:
    breaks, words = FAULTS[name]
    agent = start_broken(start_agent, folder, breaks)
    assert_error_is_told(agent, words)
    inference = agent.node.inference
    assert inference.internal_errors == 0, inference.last_error  # no traceback per question
    assert not (folder / "code_ran").exists()
    assert state(agent) == State.PRIMARY_STATE_UNCONFIGURED
    assert not change(agent, Transition.TRANSITION_CONFIGURE)  # nothing was mended
    assert_error_is_told(agent, words)
    assert_second_try_works(agent, tiny_model)


@pytest.mark.parametrize("name", LATE_FAULTS)
def test_a_fault_found_while_loading(
    start_agent: Start, folder: Path, tiny_model: Path, name: str
) -> None:
    """Configure succeeded already: cleanup leads back."""
    breaks, words = LATE_FAULTS[name]
    agent = start_broken(start_agent, folder, breaks)
    assert_error_is_told(agent, words)
    assert state(agent) == State.PRIMARY_STATE_ACTIVE
    assert change(agent, Transition.TRANSITION_DEACTIVATE)
    assert change(agent, Transition.TRANSITION_CLEANUP)
    assert agent.node.state_and_detail()[0] == AgentStatus.UNCONFIGURED
    assert_second_try_works(agent, tiny_model)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nobody_is_advised_to_run_a_pickles_code(start_agent: Start, folder: Path) -> None:
    """torch's own text says that weights_only=False 'will likely succeed'."""
    agent = start_broken(start_agent, folder, pickle_with_code(4))
    detail = agent.node.state_and_detail()[1]
    assert "weights_only" not in detail
    assert "unsafe" in detail


def test_a_matching_revision_loads(start_agent: Start, tiny_model: Path) -> None:
    from ada3d_ros.model.checkpoint import weights_sha256

    digest = weights_sha256(tiny_model)
    agent = start_agent(**{"model.revision_sha256": digest})
    assert agent.ready()
    assert agent.call(GetModelInfo, "get_model_info").sha256 == digest


def test_a_model_that_cannot_fit_is_refused_before_loading(
    start_agent: Start, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ada3d_ros.model.startup.free_bytes", lambda device: 1_000_000.0)
    agent = start_agent()
    status, detail = agent.node.state_and_detail()
    assert status == AgentStatus.ERROR
    assert "has 1 MiB free" in detail
    answer = agent.call(QueryScene, "query", QueryScene.Request(question="hi")).answer
    assert answer.error_code == ErrorCode.MODEL_ERROR
    monkeypatch.undo()
    assert_second_try_works(agent, tiny_model)
