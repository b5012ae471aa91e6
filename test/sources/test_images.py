"""Pixel decoding: every encoding against arrays made here, bad input to its reason, and fuzz."""

import array
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ada3d_ros.config import DepthConfig
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.sources.images import (
    COLOR_ENCODINGS,
    DEPTH_ENCODINGS,
    RawImage,
    check_valid_fraction,
    decode_color,
    decode_compressed_color,
    decode_compressed_depth,
    decode_depth,
    depth_from_units,
    depth_units_plausible,
)

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)
LIMITS = DepthConfig(scale=1.0, min_m=0.1, max_m=10.0)


def color(encoding, pixels, padding=0):
    rows = pixels.reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    height, width = pixels.shape[:2]
    return decode_color(RawImage(height, width, encoding, 0, padded.shape[1], padded.tobytes()))


def encoded(pixels, codec, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec, **options)
    return buffer.getvalue()


def smooth_image():
    v, u = np.mgrid[:60, :80]
    return np.stack((u * 3, v * 4, 255 - u * 3), axis=-1).astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
def test_colour_encodings(padding):
    alpha = np.full((6, 10, 1), 9, np.uint8)
    np.testing.assert_array_equal(color("rgb8", RGB, padding), RGB)
    np.testing.assert_array_equal(color("bgr8", RGB[..., ::-1], padding), RGB)
    np.testing.assert_array_equal(color("rgba8", np.concatenate((RGB, alpha), -1), padding), RGB)
    np.testing.assert_array_equal(
        color("bgra8", np.concatenate((RGB[..., ::-1], alpha), -1), padding), RGB
    )
    np.testing.assert_array_equal(
        color("mono8", RGB[..., 0], padding), np.repeat(RGB[..., :1], 3, -1)
    )


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_bayer_patterns_give_the_right_channels(encoding):
    """ROS names a pattern by its first row, OpenCV's old constants by another: red against blue."""
    red_green_blue = {"r": 200, "g": 120, "b": 40}
    pattern = encoding.removeprefix("bayer_").removesuffix("8")
    mosaic = np.array(
        [[red_green_blue[c] for c in pattern[:2]], [red_green_blue[c] for c in pattern[2:]]],
        np.uint8,
    )
    out = color(encoding, np.tile(mosaic, (6, 8)))
    np.testing.assert_array_equal(
        out[3:-3, 3:-3], np.broadcast_to(np.uint8([200, 120, 40]), out[3:-3, 3:-3].shape)
    )


def test_data_as_messages_carry_it_and_the_result_owns_its_memory():
    data = array.array("B", RGB.tobytes())  # rclpy; rosbags gives numpy arrays
    out = decode_color(RawImage(6, 10, "rgb8", 0, 30, data))
    data[0] ^= 255
    np.testing.assert_array_equal(out, RGB)
    for data in (RGB.reshape(-1), memoryview(RGB.tobytes())):
        np.testing.assert_array_equal(decode_color(RawImage(6, 10, "rgb8", 0, 30, data)), RGB)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_millimetres_become_metres_and_zero_nan(encoding, big):
    mm = np.array([[0, 99, 100, 1234], [5000, 10000, 10001, 65535]], dtype=">u2" if big else "<u2")
    padded = np.pad(mm, ((0, 0), (0, 1)))  # the step is longer than the row
    out = decode_depth(RawImage(2, 4, encoding, big, 10, padded.tobytes()), LIMITS)
    nan = np.nan
    np.testing.assert_array_equal(out, np.float32([[nan, nan, 0.1, 1.234], [5, 10, nan, nan]]))
    assert out.dtype == np.float32


@pytest.mark.parametrize("big", [0, 1])
def test_float_metres_and_their_invalid_values(big):
    metres = np.array(
        [[np.nan, np.inf, -np.inf, -1.0], [0.0, 0.05, 1.5, 11.0]], dtype=">f4" if big else "<f4"
    )
    image = RawImage(2, 4, "32FC1", big, 16, metres.tobytes())
    out = decode_depth(image, LIMITS)
    expected = np.full((2, 4), np.nan, np.float32)
    expected[1, 2] = 1.5
    np.testing.assert_array_equal(out, expected)
    doubled = decode_depth(image, DepthConfig(scale=2.0, min_m=0.1, max_m=10.0))
    assert doubled[1, 1] == np.float32(0.1)
    assert doubled[1, 2] == 3.0


@pytest.mark.parametrize(
    ("values", "encoding"),
    [(np.full((4, 4), 2000, "<f4"), "32FC1"), (np.full((4, 4), 2, "<u2"), "16UC1")],
    ids=["millimetres as 32FC1", "metres as 16UC1"],
)
def test_mixed_up_units_are_refused(values, encoding):
    with pytest.raises(FrameError, match="metres and millimetres") as caught:
        decode_depth(RawImage(4, 4, encoding, 0, values.strides[0], values.tobytes()), LIMITS)
    assert caught.value.reason is FrameReason.BAD_UNITS


def test_units_check_alone():
    assert depth_units_plausible(np.full((3, 3), np.nan, np.float32))
    assert depth_units_plausible(np.float32([[0.05, 0.05, np.nan]]))
    assert not depth_units_plausible(np.float32([[0.049, np.nan]]))
    assert not depth_units_plausible(np.full((480, 640), 50.5, np.float32))
    np.testing.assert_array_equal(
        depth_from_units(np.uint16([[5000, 0]]), 5000, 0, 9), np.float32([[1, np.nan]])
    )


MARKED = {
    "16UC1": (3000, 65535, "<u2"),
    "mono16": (3000, 65535, "<u2"),
    "32FC1 far plane": (3.0, 1000.0, "<f4"),
    "32FC1 far plane at 100": (3.0, 100.0, "<f4"),
    "32FC1 inf": (3.0, np.inf, "<f4"),
    "32FC1 largest": (3.0, 3.4e38, "<f4"),
}


@pytest.mark.parametrize("share", [0.33, 0.66, 0.98])
@pytest.mark.parametrize("name", MARKED)
def test_marks_for_no_reading_are_none_and_prove_no_unit(name, share):
    """They refused a frame as wrong units, or stayed as a wall at 65 m."""
    reading, mark, dtype = MARKED[name]
    values = np.full((10, 200), reading, dtype)
    values[:, : round(share * 200)] = mark
    encoding = name.split()[0]
    out = decode_depth(RawImage(10, 200, encoding, 0, values.strides[0], values.tobytes()), LIMITS)
    np.testing.assert_array_equal(np.isnan(out), values == mark)
    assert float(np.nanmax(np.abs(out - 3.0))) < 1e-3


def test_65535_in_files_and_compressed_depth():
    values = np.full((4, 4), 15000, np.uint16)
    values[0] = 65535  # 13.1 m in TUM's units, within max_m
    out = depth_from_units(values, 5000.0, 0.0, 100.0)
    np.testing.assert_array_equal(np.isnan(out), values == 65535)
    data = struct.pack("<iff", 0, 0.0, 0.0) + encoded(values, "PNG")
    wide = DepthConfig(min_m=0.1, max_m=70.0)
    out = decode_compressed_depth(data, "16UC1; compressedDepth png", wide)
    np.testing.assert_array_equal(np.isnan(out), values == 65535)


def test_mixed_up_units_are_refused_beside_marks():
    """Millimetres as metres with a mark, and with one stray reading that would be plausible."""
    values = np.linspace(1500, 4000, 400).astype("<f4").reshape(20, 20)
    values[:5] = 65535.0
    values[19, 19] = 2.0
    with pytest.raises(FrameError, match="metres and millimetres"):
        decode_depth(RawImage(20, 20, "32FC1", 0, 80, values.tobytes()), LIMITS)


def test_too_little_depth_is_refused():
    depth = np.full((10, 10), np.nan, np.float32)
    depth[0, :5] = 1
    check_valid_fraction(depth, 0.05)
    with pytest.raises(FrameError, match=r"5\.0%") as caught:
        check_valid_fraction(depth, 0.06)
    assert caught.value.reason is FrameReason.LOW_VALID_DEPTH


@pytest.mark.parametrize(
    "format", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", ""]
)
def test_jpeg(format):
    pixels = smooth_image()
    out = decode_compressed_color(encoded(pixels, "JPEG", quality=95), format)
    assert np.abs(out.astype(int) - pixels).mean() < 3


def test_png_is_exact_and_grey_becomes_rgb():
    np.testing.assert_array_equal(
        decode_compressed_color(encoded(RGB, "PNG"), "bgr8; png compressed bgr8"), RGB
    )
    grey = decode_compressed_color(encoded(RGB[..., 0], "PNG"), "mono8; png compressed ")
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, -1))


MM = np.array([[0, 500, 1000], [2000, 3000, 9999]], np.uint16)


def test_compressed_depth_in_millimetres():
    data = struct.pack("<iff", 0, 0.0, 0.0) + encoded(MM, "PNG")
    for format in ("16UC1; compressedDepth", "16UC1; compressedDepth png"):
        out = decode_compressed_depth(data, format, LIMITS)
        np.testing.assert_array_equal(
            out, np.where(MM > 0, MM / np.float32(1000), np.float32(np.nan))
        )


def test_compressed_depth_of_floats_is_dequantised():
    """compressed_depth_image_transport: value = a / depth + b.

    a = quantisation (q + 1), b = 1 - a / depth_max.
    """
    depth, depth_max, quantisation = np.float32([[0.5, 1, 2], [4, 8, 9.5]]), 10.0, 100.0
    a = quantisation * (quantisation + 1.0)
    b = 1.0 - a / depth_max
    values = np.rint(a / depth + b).astype(np.uint16)
    values[0, 0] = 0
    data = struct.pack("<iff", 0, a, b) + encoded(values, "PNG")
    out = decode_compressed_depth(data, "32FC1; compressedDepth", LIMITS)
    assert np.isnan(out[0, 0])
    np.testing.assert_allclose(out.ravel()[1:], depth.ravel()[1:], rtol=6e-3)


HEADER = struct.pack("<iff", 0, 0.0, 0.0)


@pytest.mark.parametrize("header", [b"", HEADER], ids=["bare", "header"])
@pytest.mark.parametrize(
    "format",
    [
        "16UC1; compressedDepth",
        "16UC1; compressedDepth png",
        "mono16; compressedDepth png",
        "16UC1; png compressed ",
        "16UC1; png compressed 16UC1",
        "16uc1;PNG",
        "mono16; png compressed ",
        "png",
        "image/png",
    ],
)
def test_every_16_bit_png_is_read(header, format):
    """A Python publisher sends it without the header; the plain transport under other words."""
    out = decode_compressed_depth(header + encoded(MM, "PNG"), format, LIMITS)
    np.testing.assert_array_equal(out, np.where(MM > 0, MM / np.float32(1000), np.float32(np.nan)))


JPEG_DEPTH = encoded((MM // 64).astype(np.uint8), "JPEG")


@pytest.mark.parametrize(
    ("data", "format", "words"),
    [
        (HEADER + b"\x18" * 40, "16UC1; compressedDepth rvl", "is rvl"),
        (HEADER + b"\x18" * 40, "32FC1; compressedDepth RVL", "is rvl"),
        (JPEG_DEPTH, "16UC1; jpeg compressed ", "is jpeg"),
        (JPEG_DEPTH, "jpeg", "is jpeg"),
        (JPEG_DEPTH, "16UC1; compressedDepth png", "holds a JPEG"),
        (HEADER + JPEG_DEPTH, "16UC1; compressedDepth", "holds a JPEG"),
        (encoded(MM, "PNG"), "32FC1; tiff compressed", "is tiff"),
        (encoded(MM, "PNG"), "16UC1; zstd", "'16UC1; zstd' is not known"),
        (encoded(MM, "PNG"), "8UC1; png compressed", "is not known"),
        (encoded(MM, "PNG"), "", "'' is not known"),
        (encoded(MM, "PNG"), "; png", "is not known"),
    ],
)
def test_other_compressed_depth_names_the_parameter_that_switches_to_png(data, format, words):
    refused(
        FrameReason.BAD_ENCODING, decode_compressed_depth, data, format, LIMITS,
        match=f"{words}.*compressedDepth.format to png",
    )  # fmt: skip


def test_floats_without_the_header_have_no_scale():
    refused(
        FrameReason.CORRUPT, decode_compressed_depth, encoded(MM, "PNG"),
        "32FC1; compressedDepth png", LIMITS, match="lacks its 12-byte header",
    )  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, HEADER + b"noise" * 9, b"GIF89a" + b"x" * 40])
def test_no_text_holds_the_address_of_an_object(data):
    for decode, format in ((decode_compressed_color, "jpeg"), (decode_compressed_color, "png")):
        with pytest.raises(FrameError) as caught:
            decode(data, format)
        assert "object at" not in str(caught.value)
    with pytest.raises(FrameError) as caught:
        decode_compressed_depth(data, "16UC1; compressedDepth", LIMITS)
    assert "object at" not in str(caught.value)
    assert "0x" not in str(caught.value)


def refused(reason, function, *arguments, match=None):
    with pytest.raises(FrameError, match=match) as caught:
        function(*arguments)
    assert caught.value.reason is reason


def test_malformed_raw_images():
    data = RGB.tobytes()

    def color_refused(reason, *fields, match=None):
        refused(reason, decode_color, RawImage(*fields), match=match)

    def depth_refused(reason, *fields, match=None):
        refused(reason, decode_depth, RawImage(*fields), LIMITS, match=match)

    bad_encoding, corrupt = FrameReason.BAD_ENCODING, FrameReason.CORRUPT
    color_refused(bad_encoding, 6, 10, "16UC1", 0, 30, data, match="'16UC1'.*rgb8")
    depth_refused(bad_encoding, 6, 10, "rgb8", 0, 30, data, match="'rgb8'.*16UC1")
    color_refused(corrupt, 6, 10, "rgb8", 0, 30, data[:-1], match="179 bytes.*180")
    color_refused(corrupt, 6, 10, "rgb8", 0, 29, data, match="step is 29")
    color_refused(corrupt, 6, 10, "rgb8", 0, 0, data)
    depth_refused(corrupt, 6, 10, "32FC1", 0, 40, b"")

    bad_size, side = FrameReason.BAD_SIZE, 100_000
    color_refused(bad_size, 0, 10, "rgb8", 0, 30, data)
    color_refused(bad_size, side, side, "rgb8", 0, 3 * side, data, match="64 megapixels")
    color_refused(bad_size, 1, 10, "bayer_rggb8", 0, 10, data)


def test_malformed_compressed_images():
    jpeg = encoded(smooth_image(), "JPEG")
    png = encoded(smooth_image(), "PNG")
    bad_encoding, corrupt = FrameReason.BAD_ENCODING, FrameReason.CORRUPT

    def color_refused(reason, data, format, match=None):
        refused(reason, decode_compressed_color, data, format, match=match)

    for size in (0, 1, 10, len(jpeg) // 2, len(jpeg) - 20):
        color_refused(corrupt, jpeg[:size], "jpeg")
    for size in (8, 40, len(png) // 2):
        color_refused(corrupt, png[:size], "png")
    color_refused(corrupt, encoded(smooth_image(), "BMP"), "jpeg")
    depth = struct.pack("<iff", 0, 0, 0) + encoded(MM, "PNG")
    color_refused(bad_encoding, depth, "16UC1; compressedDepth png", match="depth")
    color_refused(bad_encoding, encoded(MM, "PNG"), "png")

    def depth_refused(reason, data, format, match=None):
        refused(reason, decode_compressed_depth, data, format, LIMITS, match=match)

    depth_refused(corrupt, depth[:12], "16UC1; compressedDepth")
    depth_refused(corrupt, depth[:-30], "16UC1; compressedDepth")
    depth_refused(bad_encoding, depth, "16UC1; compressedDepth rvl", match="rvl")
    depth_refused(bad_encoding, depth, "jpeg")
    eight_bit = struct.pack("<iff", 0, 0, 0) + png
    depth_refused(bad_encoding, eight_bit, "16UC1; compressedDepth")
    depth_refused(corrupt, depth, "32FC1; compressedDepth", match="a=0")


def test_a_decompression_bomb_is_refused_before_it_unpacks():
    header = encoded(np.zeros((2, 2), np.uint8), "PNG")
    huge = header[:16] + struct.pack(">II", 60_000, 60_000) + header[24:]
    huge = huge[:29] + struct.pack(">I", zlib.crc32(huge[12:29])) + huge[33:]
    words = "3600000000 pixels.*64 megapixels"
    refused(FrameReason.BAD_SIZE, decode_compressed_color, huge, "png", match=words)


sizes = st.one_of(st.integers(-2, 12), st.sampled_from([2**16, 2**31, 2**32 - 1]))
encodings = st.one_of(
    st.sampled_from([*COLOR_ENCODINGS, *DEPTH_ENCODINGS, "yuv422", "8UC3"]), st.text(max_size=8)
)


images = st.builds(
    RawImage,
    height=sizes,
    width=sizes,
    encoding=encodings,
    is_bigendian=st.integers(0, 255),
    step=st.one_of(st.integers(-3, 60), sizes),
    data=st.binary(max_size=300),
)


@settings(max_examples=400, deadline=None)
@given(images, st.sampled_from([1.0, 1e-4, 1e3]))
def test_random_messages_decode_or_raise_frame_error(image, scale):
    limits = DepthConfig(scale=scale, min_m=0.1, max_m=10.0)
    for decode in (decode_color, lambda image: decode_depth(image, limits)):
        try:
            out = decode(image)
        except FrameError:
            continue
        assert out.shape[:2] == (image.height, image.width)


GOOD = {
    "jpeg": encoded(smooth_image(), "JPEG"),
    "png": encoded(smooth_image(), "PNG"),
    "depth": struct.pack("<iff", 0, 10100.0, -1009.0) + encoded(MM, "PNG"),
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(GOOD)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.one_of(st.none(), st.integers(0, 4000)),
    st.sampled_from(
        ["jpeg", "16UC1; compressedDepth", "32FC1; compressedDepth png", "mono16; compressedDepth"]
    ),
)
@example("depth", [], None, "32FC1; compressedDepth png")
def test_damaged_files_decode_or_raise_frame_error(kind, edits, cut, format):
    data = bytearray(GOOD[kind][:cut])
    for at, value in edits:
        if data:
            data[at % len(data)] = value
    for decode in (
        lambda: decode_compressed_color(bytes(data), "jpeg"),
        lambda: decode_compressed_depth(bytes(data), format, LIMITS),
    ):
        try:
            out = decode()
        except FrameError:
            continue
        assert out.ndim in (2, 3)


def test_jpeg_equals_opencv():
    """The node's other decoder must give the same picture."""
    jpeg = encoded(smooth_image(), "JPEG", quality=95)
    other = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_compressed_color(jpeg, "jpeg").astype(int) - other).max() <= 2
