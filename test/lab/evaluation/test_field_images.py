"""A benchmark's image as the pipeline is shown it, and what is asked about it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ada3d_ros.errors import SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Item
from ada3d_ros.lab.evaluation.field.images import (
    SHORT_PROMPT,
    ImageBenchmark,
    image_frame,
    image_of,
    said,
)
from ada3d_ros.types import Scope

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, "PNG")
    return out.getvalue()


def test_an_image_of_a_folder_and_one_of_the_official_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/1.png").write_bytes(png())
    assert np.array_equal(image_of(Item("1", "sub/1.png", "?"), tmp_path), RGB)
    inside = Item("1", "row 1", "?", extra={"image": base64.b64encode(png()).decode()})
    assert np.array_equal(image_of(inside, None), RGB)


def test_a_grey_jpeg_has_three_channels(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 200, dtype=np.uint8)).save(tmp_path / "grey.jpg")
    rgb = image_of(Item("1", "grey.jpg", "?"), tmp_path)
    assert rgb.shape == (5, 7, 3)
    assert np.abs(rgb.astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("item", "content", "match"),
    [
        (Item("7", "no.png", "?"), None, r"item '7' is not there: .*no\.png.*--images"),
        (Item("7", "../a.png", "?"), None, r"'\.\./a\.png', outside of the folder"),
        (Item("7", "/etc/a.png", "?"), None, "outside of the folder"),
        (Item("7", "broken.png", "?"), b"\x89PNG\r\n\x1a\nxx", r"item '7' \(broken\.png\) cannot"),
        (Item("7", "row", "?", extra={"image": "QUJ"}), None, "not base64"),
        (Item("7", "row", "?", extra={"image": "QUJD"}), None, r"\(row\) cannot be read"),
    ],
)
def test_images_that_cannot_be_had(
    item: Item, content: bytes | None, match: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / item.source).write_bytes(content)
    with pytest.raises(SourceError, match=match):
        image_of(item, tmp_path)


def test_without_a_folder_it_is_asked_for() -> None:
    with pytest.raises(SourceError, match=r"'a\.jpg': name its folder with --images"):
        image_of(Item("1", "a.jpg", "?"), None)


def test_the_frame_has_no_depth() -> None:
    frames = [image_frame(RGB, number) for number in range(2)]
    assert frames[0].stamp_ns < frames[1].stamp_ns
    assert np.isnan(frames[0].depth_m).all()
    assert (frames[0].intrinsics.width, frames[0].intrinsics.height) == (6, 4)
    assert np.array_equal(frames[0].rgb, RGB)


def test_what_is_asked() -> None:
    """The prompt on a line of its own; brackets would be places."""
    benchmark = ImageBenchmark()
    benchmark.prompt = SHORT_PROMPT
    question = benchmark.question(Item("1", "a.jpg", "Is a[0] red?"))
    assert question.text == f"Is a(0) red?\n{SHORT_PROMPT}"
    assert question.scope is Scope.LATEST_IMAGE
    assert not question.routed
    assert not question.want_boxes
    assert ImageBenchmark().question(Item("1", "a.jpg", "Why?")).text == "Why?"


def test_what_was_said() -> None:
    assert said({"text": "red"}) == "red"
    assert said({"text": "", "error": "timeout"}) is None
