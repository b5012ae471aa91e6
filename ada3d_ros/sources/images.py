"""Pixel encodings to arrays: ROS raw images, JPEG and PNG, compressedDepth.

The only place that knows depth units. Plain values in (the fields of sensor_msgs Image and
CompressedImage), numpy out. Every malformed input raises FrameError with the reason to count;
nothing else leaves these functions.
"""

from __future__ import annotations

import array
import io
import struct
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ada3d_ros.config import DepthConfig
from ada3d_ros.errors import FrameError, FrameReason

Data: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[np.uint8] | array.array[int]"
Color = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

MAX_PIXELS = 64_000_000  # larger images are refused before any memory is taken
MIN_MEDIAN_M, MAX_MEDIAN_M = 0.05, 50.0  # of a depth image; outside, the unit must be wrong
NO_READING = 65535  # of 16-bit depth, besides 0: a mark, or a reading that no longer fitted
MIN_PLAUSIBLE = 0.05  # share of plausible readings that proves the unit; the others are marks

# channels, and OpenCV's way to RGB (None: it is RGB)
COLOR_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
}
DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
# compressed_depth_image_transport: format, quantisation a and b
COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")
PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


@dataclass(frozen=True, eq=False, slots=True)
class RawImage:
    """The fields of a sensor_msgs/Image; step: bytes of a row, padding included."""

    height: int
    width: int
    encoding: str
    is_bigendian: bool | int
    step: int
    data: Data


# -- raw images


def decode_color(image: RawImage) -> Color:
    """rgb (H, W, 3) uint8 RGB of a raw colour image, a copy that owns its memory.

    Raises FrameError: BAD_ENCODING, BAD_SIZE (no pixels, or more than MAX_PIXELS), CORRUPT (short
    data, wrong step).
    """
    pixels = color_pixels(image)
    to_rgb = COLOR_ENCODINGS[image.encoding][1]
    if to_rgb is None:
        return pixels.copy()
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), to_rgb), dtype=np.uint8)


def color_pixels(image: RawImage) -> Color:
    """The checked pixels of a raw colour image as they are coded: a view (H, W, channels) uint8.

    Raises as decode_color.
    """
    encoding, height, width = image.encoding, image.height, image.width
    if encoding not in COLOR_ENCODINGS:
        raise _bad_encoding("colour", encoding, tuple(COLOR_ENCODINGS))
    channels = COLOR_ENCODINGS[encoding][0]
    pixels = _without_padding(image, channels).reshape(height, width, channels)
    if encoding.startswith("bayer") and (height < 2 or width < 2):
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"a {encoding} image of {width}x{height} px has no full Bayer cell.",
        )
    return pixels


def decode_depth(image: RawImage, config: DepthConfig) -> Depth:
    """depth_m (H, W) float32 metres, NaN = no reading, of a raw depth image.

    16UC1 and mono16 are millimetres, 32FC1 metres; `scale` multiplies the metres; readings outside
    min_m..max_m (both inclusive), 0, 65535, negative and not finite become NaN. Raises FrameError:
    BAD_ENCODING, BAD_SIZE, CORRUPT, BAD_UNITS.
    """
    return depth_in_metres(depth_pixels(image), image.encoding, config)


def depth_pixels(image: RawImage) -> npt.NDArray[np.generic]:
    """The checked values (H, W) of a raw depth image in the message's unit and byte order.

    Raises as decode_depth.
    """
    if image.encoding not in DEPTH_ENCODINGS:
        raise _bad_encoding("depth", image.encoding, DEPTH_ENCODINGS)
    kind = np.dtype("f4" if image.encoding == "32FC1" else "u2")
    kind = kind.newbyteorder(">" if image.is_bigendian else "<")
    return np.ascontiguousarray(_without_padding(image, kind.itemsize)).view(kind)


def depth_in_metres(values: npt.NDArray[np.generic], encoding: str, config: DepthConfig) -> Depth:
    """depth_m (H, W) float32 metres, NaN = no reading, of depth values (H, W).

    Raises FrameError (BAD_UNITS).
    """
    is_float = encoding == "32FC1"
    return _valid_depth(values, 1.0 if is_float else 1000.0, config, has_mark=not is_float)


# -- files and compressed images


def decode_compressed_color(data: Data, format: str) -> Color:
    """rgb (H, W, 3) uint8 RGB of a CompressedImage (JPEG or PNG).

    `format` is the message's, e.g. "rgb8; jpeg compressed bgr8"; the pixels of such images are
    coded as their codec says, so only a depth format is refused by it. Raises FrameError:
    BAD_ENCODING, BAD_SIZE, CORRUPT.
    """
    if "compresseddepth" in format.lower() or format.startswith(DEPTH_ENCODINGS):
        raise FrameError(
            FrameReason.BAD_ENCODING,
            f"compressed colour has format {format!r}: that is depth; expected jpeg or png.",
        )
    image = _decode_codec(_as_bytes(data).tobytes(), ("JPEG", "PNG"))
    if image.mode not in ("RGB", "L", "RGBA", "P", "1", "LA"):
        raise FrameError(
            FrameReason.BAD_ENCODING,
            f"compressed colour holds {image.mode!r} pixels; expected 8-bit colour or grey (RGB,"
            " RGBA, L).",
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


def decode_compressed_depth(data: Data, format: str, config: DepthConfig) -> Depth:
    """depth_m (H, W) float32 metres, NaN = no reading, of a CompressedImage with a 16-bit PNG.

    With the 12-byte header of compressedDepth or without: millimetres for 16UC1 and mono16; for
    32FC1 inverse depth, quantised by the two numbers of the header. Raises FrameError:
    BAD_ENCODING, BAD_SIZE, CORRUPT, BAD_UNITS.
    """
    # What the format says, and where the PNG begins: its signature is unmistakable.
    encoding = _compressed_encoding(format)
    raw = _as_bytes(data).tobytes()
    start = 0 if raw.startswith(PNG_SIGNATURE) else COMPRESSED_DEPTH_HEADER.size
    if len(raw) <= start:
        raise FrameError(
            FrameReason.CORRUPT,
            f"compressed depth has {len(raw)} bytes: no image after the 12-byte header.",
        )
    if raw.startswith(JPEG_SIGNATURE) or raw.startswith(JPEG_SIGNATURE, start):
        raise _bad_compressed(format, "holds a JPEG, which does not keep depth")

    # The image.
    values = decode_grey16_png(raw[start:])
    if encoding != "32FC1":
        return depth_in_metres(values, encoding, config)
    if start == 0:
        raise FrameError(
            FrameReason.CORRUPT,
            "compressedDepth of 32FC1 lacks its 12-byte header with the numbers of quantisation:"
            " publish it by compressed_depth_image_transport, or send 16UC1 millimetres.",
        )
    _, quant_a, quant_b = COMPRESSED_DEPTH_HEADER.unpack_from(raw)
    metres = _dequantise(values.astype(np.float32), quant_a, quant_b)
    return depth_in_metres(metres, encoding, config)


def _compressed_encoding(format: str) -> str:
    """The encoding, one of DEPTH_ENCODINGS, of the format `16UC1; compressedDepth png`, `16UC1; png
    compressed`, or `png` alone (16UC1).

    Raises FrameError (BAD_ENCODING).
    """
    # The encoding stands before the semicolon; cv_bridge leaves it out.
    head, semicolon, tail = format.partition(";")
    name, codec = (head, tail) if semicolon else ("16UC1", format)
    encoding = next((e for e in DEPTH_ENCODINGS if e.lower() == name.strip().lower()), None)

    # Which codecs keep 16 bits.
    words = set(codec.lower().replace("/", " ").replace(".", " ").split())
    for lossy in ("rvl", "jpeg", "jpg", "tiff", "webp"):
        if lossy in words:
            raise _bad_compressed(format, f"is {lossy}, which is not read")
    known = {"png", "compresseddepth", "compressed", "image", "16uc1", "mono16", "32fc1"}
    if encoding is None or not words & {"png", "compresseddepth"} or not words <= known:
        raise _bad_compressed(format, "is not known")
    return encoding


def _bad_compressed(format: str, why: str) -> FrameError:
    return FrameError(
        FrameReason.BAD_ENCODING,
        f"compressed depth of format {format!r} {why}; expected a 16-bit PNG, format `16UC1;"
        " compressedDepth png` (mono16, 32FC1) or `16UC1; png compressed`. Set the publisher's"
        " parameter <depth topic, dots for slashes>.compressedDepth.format to png (of the plain"
        " transport: .compressed.format), or subscribe to raw depth.",
    )


def depth_from_units(
    values: npt.NDArray[np.uint16], units_per_m: float, min_m: float, max_m: float
) -> Depth:
    """depth_m (H, W) float32 metres, NaN = no reading, of a 16-bit depth image on disk.

    units_per_m: 5000 in TUM. Raises FrameError (BAD_UNITS) where the median is implausible.
    """
    return _valid_depth(values, units_per_m, DepthConfig(min_m=min_m, max_m=max_m))


def decode_grey16_png(content: bytes) -> npt.NDArray[np.uint16]:
    """Pixels (H, W) uint16 of a 16-bit grey PNG.

    Raises FrameError: BAD_ENCODING, BAD_SIZE, CORRUPT.
    """
    if content.startswith(JPEG_SIGNATURE):
        raise FrameError(
            FrameReason.BAD_ENCODING,
            "depth is a JPEG, which cannot hold depth; expected a 16-bit grey PNG.",
        )
    image = _decode_codec(content, ("PNG",))
    if not image.mode.startswith("I"):
        raise FrameError(
            FrameReason.BAD_ENCODING,
            f"depth is a PNG of {image.mode!r} pixels; expected 16-bit grey.",
        )
    return np.array(image, dtype=np.uint16)


def decode_grey(content: bytes) -> npt.NDArray[np.uint8]:
    """Pixels (H, W) uint8 of a grey PNG. Raises FrameError: BAD_SIZE, CORRUPT."""
    return np.array(_decode_codec(content, ("PNG",)).convert("L"), dtype=np.uint8)


def depth_units_plausible(depth_m: Depth, min_m: float = 0.0, max_m: float = np.inf) -> bool:
    """Whether the unit of the readings (H, W), metres, can be right; true where there are none.

    It can where one in twenty is plausible (within 0.05..50 m and min_m..max_m): the others are
    marks for `no reading`, or a simulator's far plane; the largest value is not counted. Else the
    median of all must lie in 0.05..50 m. Of every 4th row and column of a large image: the question
    is one of orders of magnitude.
    """
    # The plausible ones prove it.
    readings = _readings(depth_m)
    if readings.size == 0:
        return True
    low, high = max(MIN_MEDIAN_M, min_m), min(MAX_MEDIAN_M, max_m)
    plausible = np.count_nonzero((readings >= np.float32(low)) & (readings <= np.float32(high)))
    below_largest = np.count_nonzero(readings < readings.max())
    if plausible and plausible >= MIN_PLAUSIBLE * below_largest:
        return True
    return MIN_MEDIAN_M <= float(np.median(readings.astype(np.float64))) <= MAX_MEDIAN_M


def check_valid_fraction(depth_m: Depth, minimum: float) -> None:
    """Raises FrameError (LOW_VALID_DEPTH) where less than `minimum` (0..1) of depth_m is valid."""
    valid = float(np.isfinite(depth_m).mean())
    if valid < minimum:
        raise FrameError(
            FrameReason.LOW_VALID_DEPTH,
            f"{valid:.1%} of the depth is valid, below {minimum:.1%} (depth.min_valid_fraction); is"
            " the sensor covered, too near, or depth.min_m/max_m too narrow?",
        )


# -- pixels


def _without_padding(image: RawImage, bytes_per_pixel: int) -> npt.NDArray[np.uint8]:
    """The image's bytes without row padding, a view (H, W * bytes_per_pixel) uint8."""
    # A row fits into its step.
    height, width, step = image.height, image.width, image.step
    _check_pixels(height, width)
    row_bytes = width * bytes_per_pixel
    if step < row_bytes:
        raise FrameError(
            FrameReason.CORRUPT, f"step is {step} bytes, but a row of {width} px needs {row_bytes}."
        )

    # All rows are there.
    flat = _as_bytes(image.data)
    if flat.size < step * height:
        raise FrameError(
            FrameReason.CORRUPT,
            f"image data has {flat.size} bytes, expected step x height = {step * height}.",
        )
    return flat[: step * height].reshape(height, step)[:, :row_bytes]


def _as_bytes(data: Data) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8) if len(data) else np.empty(0, dtype=np.uint8)


def _check_pixels(height: int, width: int) -> None:
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise FrameError(
            FrameReason.BAD_SIZE,
            f"image is {width}x{height} px; allowed 1 to {MAX_PIXELS // 1_000_000} megapixels.",
        )


def _decode_codec(content: bytes, codecs: tuple[str, ...]) -> Image.Image:
    """A decoded picture.

    By Pillow, not OpenCV: it refuses a truncated file, where OpenCV fills up with grey.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=codecs)
        _check_pixels(image.height, image.width)
        image.load()
    except FrameError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow checks the size before we can.
        raise FrameError(
            FrameReason.BAD_SIZE, f"{error}; allowed are {MAX_PIXELS // 1_000_000} megapixels."
        ) from error
    except UnidentifiedImageError:  # its text is the address of an object
        start = content[:8].hex(" ") or "nothing"
        raise FrameError(
            FrameReason.CORRUPT,
            f"{len(content)} bytes are no {' or '.join(codecs)}: they begin with {start}.",
        ) from None
    except Exception as error:  # damaged files make the codecs raise almost anything
        raise FrameError(
            FrameReason.CORRUPT,
            f"{len(content)} bytes do not decode as {' or '.join(codecs)}: {error}",
        ) from error
    return image


def _readings(depth_m: Depth) -> Depth:
    sparse = depth_m[::4, ::4] if depth_m.size > 10_000 else depth_m
    return sparse[np.isfinite(sparse) & (sparse > 0)]


def _dequantise(values: Depth, quant_a: float, quant_b: float) -> Depth:
    if not (np.isfinite(quant_a) and np.isfinite(quant_b)) or quant_a <= 0:
        raise FrameError(
            FrameReason.CORRUPT,
            f"compressedDepth 32FC1 has quantisation a={quant_a} b={quant_b}; a must be above 0.",
        )
    with np.errstate(divide="ignore", over="ignore"):
        metres: Depth = np.float32(quant_a) / (values - np.float32(quant_b))
    return np.where(values > 0, metres, np.float32(0))


def _valid_depth(
    values: npt.NDArray[np.generic], units_per_m: float, config: DepthConfig, has_mark: bool = True
) -> Depth:
    """Metres within the limits, NaN elsewhere. Raises FrameError (BAD_UNITS)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # Metres.
        metres: Depth = values.astype(np.float32)
        if has_mark:
            metres[metres == NO_READING] = np.nan
        if units_per_m != 1.0:
            metres /= np.float32(units_per_m)
        if config.scale != 1.0:
            metres *= np.float32(config.scale)
        if not depth_units_plausible(metres, config.min_m, config.max_m):
            median_m = float(np.median(_readings(metres).astype(np.float64)))
            raise FrameError(
                FrameReason.BAD_UNITS,
                f"the depth's median is {median_m:.4g} m, plausible is {MIN_MEDIAN_M} to"
                f" {MAX_MEDIAN_M:g} m: metres and millimetres mixed up? 16UC1 must hold"
                " millimetres, 32FC1 metres; depth.scale corrects a camera that differs.",
            )

        # Valid readings.
        low, high = np.float32(config.min_m), np.float32(config.max_m)
        metres[~((metres > 0) & (metres >= low) & (metres <= high))] = np.nan
    return metres


def _bad_encoding(kind: str, got: str, expected: tuple[str, ...]) -> FrameError:
    return FrameError(
        FrameReason.BAD_ENCODING,
        f"{kind} image has encoding {got!r}; expected one of {', '.join(expected)}.",
    )
