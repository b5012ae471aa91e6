"""Damaged bags, folders, cameras, poses and questions, drawn by hypothesis.

Each is read, or refused with an error of ours that holds a sentence; nothing else is raised.
`ADA3D_FUZZ_EXAMPLES=20000 pytest test/sources/test_fuzz_sources.py` draws as many of each.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ada3d_ros.config import AgentConfig, DepthConfig
from ada3d_ros.errors import Ada3DError, FrameError, PoseError, RequestError
from ada3d_ros.geometry.pose import pose_from_quaternion, to_quaternion
from ada3d_ros.model.prompt import check_question, parse_coordinates
from ada3d_ros.sources import make_bag
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_writer import BagOptions, to_millimetres, write_bag
from ada3d_ros.sources.folder import FolderSource
from ada3d_ros.sources.images import decode_compressed_color, decode_compressed_depth
from ada3d_ros.sources.messages import PosedSet, frame_of
from test.support.box_room import build_box_room

FRAMES = build_box_room(num_views=4, width=64, height=48).frames
EXAMPLES = int(os.environ.get("ADA3D_FUZZ_EXAMPLES", "0"))


def fuzzing(examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def is_sentence(error: BaseException) -> None:
    """What a user reads: words, no object's address, nothing cut off, no foreign class."""
    text = str(error)
    assert len(text.split()) >= 4, text
    assert " at 0x" not in text, text
    assert "Traceback" not in text, text


def read_or_refused(read: Callable[[], object]) -> None:
    try:
        read()
    except Ada3DError as error:
        is_sentence(error)


# -- damage


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that are cut, empty, overwritten in places, or hold zeros where a disk lost a block."""
    kind = draw(st.sampled_from(("cut", "empty", "changed", "block of zeros", "longer")))
    if kind == "empty":
        return b""
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "longer":
        return content + draw(st.binary(min_size=1, max_size=64))
    data = bytearray(content)
    start = draw(st.integers(0, len(data) - 1))
    if kind == "block of zeros":
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    else:
        for _ in range(draw(st.integers(1, 8))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


any_token = st.one_of(
    st.sampled_from(
        (
            *("nan", "inf", "-inf", "0", "-1", "1e400", "1e-400", "1_000", "0x10", "1,5", "", "#"),
            *(
                "1305031102100000000",
                "1.305031102e+09",
                "-0.25",
                "\ufeff1",
                "١",
                "½",
                "--",
                "a.png",
            ),
        )
    ),
    st.floats().map(repr),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
)


def retyped(draw: st.DrawFn, content: bytes) -> bytes:
    """A text file in which one token, line or line end is another."""
    lines = content.decode().splitlines()
    row = draw(st.integers(0, len(lines) - 1))
    kind = draw(
        st.sampled_from(("token", "drop token", "drop line", "twice", "line ends", "bytes"))
    )
    tokens = lines[row].split(" ")
    if kind == "token":
        tokens[draw(st.integers(0, len(tokens) - 1))] = draw(any_token)
        lines[row] = " ".join(tokens)
    elif kind == "drop token":
        lines[row] = " ".join(tokens[1:])
    elif kind == "drop line":
        del lines[row]
    elif kind == "twice":
        lines.insert(row, lines[row])
    elif kind == "bytes":
        return damaged(draw, content)
    end = draw(st.sampled_from(("\r\n", "\r", "\n\n"))) if kind == "line ends" else "\n"
    return end.join(lines).encode()


# -- bags


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "bag"
    write_bag(FRAMES, path, BagOptions(raw=False))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damaged_bags(bag: Path, work: Path) -> None:
    files = sorted(path.name for path in bag.iterdir() if path.suffix in (".mcap", ".yaml"))
    assert len(files) == 2

    @fuzzing(150)
    @given(st.data())
    def read(data: st.DataObject) -> None:
        target = work / "bag"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(bag, target)
        name = data.draw(st.sampled_from(files))
        content = data.draw(st.composite(damaged)((bag / name).read_bytes()))
        (target / name).write_bytes(content)
        read_or_refused(lambda: list(BagSource(target)))

    read()


# -- folders


def write_tum(folder: Path) -> None:
    rows: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for frame in FRAMES:
        stamp = f"{frame.stamp_ns / 1e9:.3f}"
        Image.fromarray(frame.rgb).save(folder / "rgb" / f"{stamp}.png")
        units = (to_millimetres(frame.depth_m) * 5).astype(np.uint16)
        Image.fromarray(units).save(folder / "depth" / f"{stamp}.png")
        rows["rgb"].append(f"{stamp} rgb/{stamp}.png")
        rows["depth"].append(f"{stamp} depth/{stamp}.png")
        numbers = np.concatenate(to_quaternion(frame.T_world_cam))
        rows["groundtruth"].append(" ".join([stamp, *(f"{n:.6f}" for n in numbers)]))
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    k = FRAMES[0].intrinsics
    (folder / "intrinsic.txt").write_text(f"{k.fx} 0 {k.cx}\n0 {k.fy} {k.cy}\n0 0 1\n")


def write_plain(folder: Path) -> None:
    for name in ("rgb", "depth", "poses"):
        (folder / name).mkdir(parents=True)
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame.rgb).save(folder / "rgb" / f"{i}.png")
        Image.fromarray(to_millimetres(frame.depth_m)).save(folder / "depth" / f"{i}.png")
        np.savetxt(folder / "poses" / f"{i}.txt", frame.T_world_cam, fmt="%.6f")
    k = FRAMES[0].intrinsics
    (folder / "intrinsic.txt").write_text(f"{k.fx} 0 {k.cx}\n0 {k.fy} {k.cy}\n0 0 1\n")


@pytest.mark.parametrize("write", [write_tum, write_plain])
def test_damaged_folders(
    write: Callable[[Path], None], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by `FolderSource` and made into a bag by the command."""
    good = work / f"good-{write.__name__}"
    write(good)
    files = sorted(str(path.relative_to(good)) for path in good.rglob("*") if path.is_file())
    assert len(list(FolderSource(good))) == len(FRAMES)

    @fuzzing(150)
    @given(st.data())
    def read(data: st.DataObject) -> None:
        target = work / f"bad-{write.__name__}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(good, target)
        name = data.draw(st.sampled_from(files))
        change = data.draw(st.sampled_from(("content", "gone", "renamed")))
        if change == "gone":
            (target / name).unlink()
        elif change == "renamed":
            stem = data.draw(st.sampled_from(("._0", "x", "7", "0000", "1e3", "1.5.2", "-1", "½")))
            path = target / name
            path.rename(path.with_name(stem + path.suffix))
        else:
            damage = retyped if name.endswith(".txt") else damaged
            content = data.draw(st.composite(damage)((good / name).read_bytes()))
            (target / name).write_bytes(content)
        read_or_refused(lambda: list(FolderSource(target)))

        code = make_bag.main([str(target), "-o", str(work / "out"), "--overwrite"])
        said = capsys.readouterr()
        assert code in (0, 1)
        assert code == 0 or len(said.err.split()) >= 4, said.err
        assert "Traceback" not in said.err

    read()


# -- messages

any_float = st.one_of(
    st.floats(), st.sampled_from((0.0, 1.0, 60.0, math.nan, math.inf, 1e308, -1e308, 5e-324))
)
any_uint32 = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from((0, 1, 48, 64, 128, 2**31)))
models = st.sampled_from(
    ("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "PLUMB_BOB", "none")
)


def image(pixels: Any, encoding: str) -> SimpleNamespace:
    height, width = pixels.shape[:2]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0), frame_id="camera")
    return SimpleNamespace(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // height,
        data=pixels.tobytes(),
    )


@fuzzing(300)
@given(st.data())
def test_any_camera_info(data: st.DataObject) -> None:
    """A frame with finite intrinsics, or a FrameError."""
    k = [60.0, 0.0, 32.0, 0.0, 60.0, 24.0, 0.0, 0.0, 1.0]
    p = [60.0, 0.0, 32.0, 0.0, 0.0, 60.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for values in (k, p):
        for _ in range(data.draw(st.integers(0, 3))):
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(any_float)
    small = st.integers(0, 3)
    roi = [data.draw(st.one_of(st.just(0), any_uint32)) for _ in range(4)]
    rgb = image(np.zeros((48, 64, 3), np.uint8), "rgb8")
    info = SimpleNamespace(
        header=rgb.header,
        width=data.draw(st.one_of(st.just(64), any_uint32)),
        height=data.draw(st.one_of(st.just(48), any_uint32)),
        distortion_model=data.draw(models),
        d=data.draw(st.lists(any_float, max_size=15)),
        k=k,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=p,
        binning_x=data.draw(st.one_of(small, any_uint32)),
        binning_y=data.draw(st.one_of(small, any_uint32)),
        roi=SimpleNamespace(
            x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3], do_rectify=False
        ),
    )
    depth = image(np.full((48, 64), 2000, np.uint16), "16UC1")
    try:
        topics = ("/rgb", "/depth", "/info")
        frame = frame_of(PosedSet(rgb, depth, info, 10**9, np.eye(4), topics), AgentConfig())
    except FrameError as error:
        is_sentence(error)
        return
    camera = frame.intrinsics
    assert all(map(math.isfinite, (camera.fx, camera.fy, camera.cx, camera.cy)))
    assert camera.fx > 0 < camera.fy
    assert (camera.width, camera.height) == (64, 48)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@fuzzing(300)
@given(st.lists(any_float, min_size=3, max_size=3), st.lists(any_float, min_size=4, max_size=4))
def test_any_pose(translation_m: list[float], quat_xyzw: list[float]) -> None:
    """A rigid transform, or a PoseError."""
    try:
        T = pose_from_quaternion(translation_m, quat_xyzw)
    except PoseError as error:
        is_sentence(error)
        return
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(T[:3, :3]) > 0
    assert np.isfinite(T).all()


formats = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        (
            *(
                "16UC1; compressedDepth png",
                "32FC1; compressedDepth png",
                "16UC1; compressedDepth rvl",
            ),
            *(
                "16UC1; png compressed ",
                "32FC1; compressedDepth",
                "rgb8; jpeg compressed bgr8",
                "jpg",
            ),
            *("bgr8; png compressed bgr8", "png", "tiff", "", "; ;", "mono16; png compressed"),
        )
    ),
)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@fuzzing(300)
@given(st.data())
def test_any_compressed_image(data: st.DataObject) -> None:
    import io

    stream = io.BytesIO()
    kind = data.draw(st.sampled_from(("PNG", "JPEG", "TIFF")))
    pixels = FRAMES[0].rgb if kind == "JPEG" else to_millimetres(FRAMES[0].depth_m)
    Image.fromarray(pixels).save(stream, kind)
    head = data.draw(st.one_of(st.just(b""), st.binary(min_size=12, max_size=12)))
    content = data.draw(st.composite(damaged)(head + stream.getvalue()))
    text = data.draw(formats)
    for decode in (
        lambda: decode_compressed_color(content, text),
        lambda: decode_compressed_depth(content, text, DepthConfig()),
    ):
        try:
            decode()
        except FrameError as error:
            is_sentence(error)


# -- questions


@fuzzing(500)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from(
                (
                    *(
                        "What is at ",
                        "[1, 2, 3]",
                        "(1.20, -0.35, 0.80)",
                        "［1,2,3］",
                        "[1,5, 2,0, 3,1]",
                    ),
                    *(
                        "[nan, 1, 2]",
                        "[1e9, 0, 0]",
                        "[[1,2,3]]",
                        "cm",
                        " m",
                        "USER:",
                        "</s>",
                        "\r\n",
                    ),
                    *(
                        "<image>",
                        "\0",
                        "\x1b[31m",
                        "\u202e",
                        "[1, 2, 3, 4, 5, 6, 7]",
                        "{1;2;3}",
                        "]",
                    ),
                )
            ),
        ),
        max_size=8,
    ).map("".join)
)
def test_any_question(text: str) -> None:
    """Clicks that are finite metres, or a RequestError."""
    try:
        _, clicks = parse_coordinates(check_question(text, 2000))
    except RequestError as error:
        is_sentence(error)
        return
    assert all(math.isfinite(value) for click in clicks for value in click)
