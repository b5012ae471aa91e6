"""Raw images through cv_bridge and through our own decoders give the same frames.

cv_bridge has no wheel; rosbags-image, which nobody here wrote, has the same conversions and stands
in its place. Where a distribution provides cv_bridge, it is compared too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rosbags.image import message_to_cvimage

from ada3d_ros.config import DepthConfig
from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.sources.images import COLOR_ENCODINGS, DEPTH_ENCODINGS
from ada3d_ros.sources.messages import ImageBridge, color_of, depth_of

H, W = 12, 10
RNG = np.random.default_rng(0)


class RosbagsBridge:
    """CvBridge over rosbags-image, which does not know row padding: give it tight rows."""

    def imgmsg_to_cv2(
        self, img_msg: Any, desired_encoding: str = "passthrough"
    ) -> npt.NDArray[Any]:
        return np.asarray(
            message_to_cvimage(
                img_msg, None if desired_encoding == "passthrough" else desired_encoding
            )
        )


def bridges() -> list[ImageBridge]:
    found: list[ImageBridge] = [RosbagsBridge()]
    try:
        from cv_bridge import CvBridge

        found.append(CvBridge())
    except ImportError:
        pass
    return found


def image(encoding: str, pixels: npt.NDArray[Any], big: bool = False) -> Any:
    data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    return SimpleNamespace(
        height=H, width=W, encoding=encoding, is_bigendian=int(big), step=len(data) // H, data=data
    )


@pytest.mark.parametrize("bridge", bridges(), ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("encoding", COLOR_ENCODINGS)
def test_colour_is_the_same(encoding: str, bridge: ImageBridge) -> None:
    message = image(
        encoding, RNG.integers(0, 256, (H, W, COLOR_ENCODINGS[encoding][0]), dtype=np.uint8)
    )
    np.testing.assert_array_equal(color_of(message, bridge), color_of(message))


@pytest.mark.parametrize("bridge", bridges(), ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", DEPTH_ENCODINGS)
def test_depth_is_the_same(encoding: str, big: bool, bridge: ImageBridge) -> None:
    millimetres = RNG.integers(0, 9000, (H, W))
    values: npt.NDArray[Any] = millimetres.astype(np.uint16)
    if encoding == "32FC1":
        values = (millimetres / 1000).astype(np.float32)
    message, config = image(encoding, values, big), DepthConfig()
    np.testing.assert_array_equal(depth_of(message, config, bridge), depth_of(message, config))


def test_a_bridge_that_raises_is_a_corrupt_frame() -> None:
    class Broken:
        def imgmsg_to_cv2(
            self, img_msg: Any, desired_encoding: str = "passthrough"
        ) -> npt.NDArray[Any]:
            raise TypeError("planted")

    message = image("rgb8", np.zeros((H, W, 3), np.uint8))
    with pytest.raises(FrameError, match="planted") as caught:
        color_of(message, Broken())
    assert caught.value.reason is FrameReason.CORRUPT
    message.data = message.data[:-1]
    with pytest.raises(FrameError, match="bytes"):  # checked before the bridge sees it
        color_of(message, RosbagsBridge())
