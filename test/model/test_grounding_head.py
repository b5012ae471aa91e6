"""The head's file, its round trip and faults; its arithmetic: padding, moved worlds, width."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.grounding_head import (
    HEAD_FILE,
    GroundingHead,
    load_grounding_head,
    save_grounding_head,
)


@pytest.fixture
def head() -> GroundingHead:
    torch.manual_seed(0)
    head = GroundingHead(24, 16)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return head


def test_round_trip_is_exact(head: GroundingHead, tmp_path: Path) -> None:
    save_grounding_head(head, tmp_path, 0.4, trained_on="rooms")
    loaded = load_grounding_head(tmp_path, 24)
    assert loaded is not None
    assert (loaded.threshold, loaded.trained_on) == (0.4, "rooms")
    for name, value in head.state_dict().items():
        assert torch.equal(value, loaded.head.state_dict()[name])


def test_no_file_is_no_head(tmp_path: Path) -> None:
    assert load_grounding_head(tmp_path, 24) is None


def test_a_head_of_another_width_is_refused(head: GroundingHead, tmp_path: Path) -> None:
    save_grounding_head(head, tmp_path, 0.4)
    with pytest.raises(CheckpointError, match="hidden size of 24, the model has 4096"):
        load_grounding_head(tmp_path, 4096)


def test_a_damaged_file_is_refused(head: GroundingHead, tmp_path: Path) -> None:
    path = save_grounding_head(head, tmp_path, 0.4)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=f"{HEAD_FILE} is damaged"):
        load_grounding_head(tmp_path, 24)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / HEAD_FILE)
    with pytest.raises(CheckpointError, match="not a grounding head"):
        load_grounding_head(tmp_path, 24)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_wrong_tensors_are_named(head: GroundingHead, tmp_path: Path, change: str) -> None:
    tensors = dict(head.state_dict())
    if change == "missing":
        del tensors["box.2.bias"]
    elif change == "unexpected":
        tensors["more"] = torch.zeros(1)
    else:
        tensors["box.2.bias"] = torch.zeros(7)
    facts = {"format": "ada3d_grounding_head_1", "width": 24, "head_width": 16, "threshold": 0.5}
    save_file(tensors, tmp_path / HEAD_FILE, {"head": json.dumps(facts)})
    with pytest.raises(CheckpointError, match="more" if change == "unexpected" else "box.2.bias"):
        load_grounding_head(tmp_path, 24)


@pytest.mark.parametrize(
    "facts",
    [
        [],
        1,
        {"format": "ada3d_grounding_head_1", "width": 24},
        {"format": "ada3d_grounding_head_1", "width": 24, "head_width": 16},
        {"format": "ada3d_grounding_head_1", "width": 24, "head_width": -3, "threshold": 0.5},
        {"format": "ada3d_grounding_head_1", "width": 24, "head_width": "16", "threshold": 0.5},
        {"format": "ada3d_grounding_head_1", "width": 24, "head_width": 16, "threshold": "x"},
        {
            "format": "ada3d_grounding_head_1",
            "width": 24,
            "head_width": 16,
            "threshold": float("nan"),
        },
    ],
    ids=str,
)
def test_a_header_of_nonsense_is_refused(
    head: GroundingHead, tmp_path: Path, facts: object
) -> None:
    save_file(head.state_dict(), tmp_path / HEAD_FILE, {"head": json.dumps(facts)})
    with pytest.raises(CheckpointError, match=r"not a grounding head|is damaged"):
        load_grounding_head(tmp_path, 24)


def test_padding_changes_nothing(head: GroundingHead) -> None:
    queries, tokens = torch.randn(1, 2, 24), torch.randn(1, 9, 24)
    alone, there = head.point(queries, tokens[:, :6])
    mask = torch.arange(9)[None] < 6
    padded, there_padded = head.point(queries, tokens, mask)
    torch.testing.assert_close(padded[..., :6], alone)
    torch.testing.assert_close(there_padded, there)


def test_boxes_move_with_the_world(head: GroundingHead) -> None:
    queries, tokens, xyz = torch.randn(1, 2, 24), torch.randn(1, 9, 24), torch.rand(1, 9, 3)
    weights = torch.softmax(torch.randn(1, 2, 9), -1)
    offset = torch.tensor([20.0, -30.0, 1.0])
    center, size = head.boxes(queries, tokens, weights, xyz)
    moved, same = head.boxes(queries, tokens, weights, xyz + offset)
    torch.testing.assert_close(moved, center + offset, atol=1e-4, rtol=0)
    torch.testing.assert_close(same, size, atol=1e-3, rtol=0)
    assert bool((size > 0).all())


def test_it_fits_the_7b() -> None:
    logits, there = GroundingHead(4096).point(torch.randn(1, 1, 4096), torch.randn(1, 5, 4096))
    assert logits.shape == (1, 1, 5)
    assert there.shape == (1, 1)


@pytest.mark.parametrize("damage", ["width", "format", "cut", "empty", "noise"])
def test_every_refusal_names_the_file(head: GroundingHead, tmp_path: Path, damage: str) -> None:
    path = save_grounding_head(head, tmp_path, 0.4)
    if damage == "format":
        save_file(
            head.state_dict(), path, {"head": json.dumps({"format": "ada3d_grounding_head_9"})}
        )
    elif damage != "width":
        path.write_bytes(
            {"cut": path.read_bytes()[:-40], "empty": b"", "noise": bytes(range(256)) * 9}[damage]
        )
    with pytest.raises(CheckpointError) as caught:
        load_grounding_head(tmp_path, 25 if damage == "width" else 24)
    assert str(caught.value).startswith(str(path))


def test_what_stands_in_the_padding_does_not_matter(head: GroundingHead) -> None:
    queries, tokens = torch.randn(2, 3, 24), torch.randn(2, 9, 24)
    mask = torch.arange(9)[None] < torch.tensor([[9], [4]])
    logits, there = head.point(queries, tokens.masked_fill(~mask[..., None], 100.0), mask)
    for row, count in enumerate((9, 4)):
        alone = head.point(queries[row : row + 1], tokens[row : row + 1, :count])
        torch.testing.assert_close(logits[row : row + 1, :, :count], alone[0])
        torch.testing.assert_close(there[row : row + 1], alone[1])
