"""Undistortion against the forward lens models, written out from their definitions."""

import numpy as np
import pytest

from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.geometry.camera import undistort_color, undistort_depth
from ada3d_ros.types import Intrinsics

CAMERA = Intrinsics(250.0, 240.0, 160.3, 118.7, 320, 240)
CASES = {
    "plumb_bob": [-0.2, 0.05, 0.001, -0.002, 0.01],
    "rational_polynomial": [0.1, -0.05, 0.001, -0.001, 0.02, 0.2, -0.04, 0.01],
    "equidistant": [0.02, -0.01, 0.003, -0.001],
}


def distort(model, D, x, y):
    """Normalised pinhole coordinates to normalised distorted ones."""
    if model == "equidistant":
        r = np.hypot(x, y)
        theta = np.arctan(r)
        k1, k2, k3, k4 = D
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        factor = np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)
        return x * factor, y * factor
    k1, k2, p1, p2, k3, k4, k5, k6 = [*D, *[0.0] * (8 - len(D))]
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def source_pixels(model, D):
    """Where in the distorted image each undistorted pixel comes from."""
    v, u = np.mgrid[:240, :320].astype(float)
    x, y = distort(model, D, (u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy)
    return x * CAMERA.fx + CAMERA.cx, y * CAMERA.fy + CAMERA.cy


@pytest.mark.parametrize("model", CASES)
def test_undistortion_inverts_the_lens(model):
    D = CASES[model]
    v, u = np.mgrid[:240, :320].astype(np.float32)
    from_u, from_v = source_pixels(model, D)
    inside = (from_u > 1) & (from_u < 318) & (from_v > 1) & (from_v < 238)
    assert inside.mean() > 0.8
    # an image that holds its own coordinates
    depth_u, depth_v = undistort_depth(u, CAMERA, model, D), undistort_depth(v, CAMERA, model, D)
    assert np.abs(depth_u - from_u)[inside].max() <= 0.51
    assert np.abs(depth_v - from_v)[inside].max() <= 0.51
    rgb = np.stack((u / 2, v / 2, u * 0), axis=-1).astype(np.uint8)
    color = undistort_color(rgb, CAMERA, model, D).astype(float)
    assert np.abs(color[..., 0] - from_u / 2)[inside].max() <= 1.1
    assert np.abs(color[..., 1] - from_v / 2)[inside].max() <= 1.1


def test_depth_is_never_mixed_and_nan_is_kept():
    depth = np.where(np.arange(320) < 160, 1.0, 5.0).astype(np.float32) * np.ones(
        (240, 1), np.float32
    )
    depth[100:120] = np.nan
    out = undistort_depth(depth, CAMERA, "plumb_bob", CASES["plumb_bob"])
    assert set(np.unique(out[~np.isnan(out)])) == {1.0, 5.0}
    assert np.isnan(out[105:115]).all()


def test_what_the_lens_did_not_see_is_nan():
    pincushion = [0.5, 0.0, 0.0, 0.0]
    out = undistort_depth(np.ones((240, 320), np.float32), CAMERA, "plumb_bob", pincushion)
    from_u, from_v = source_pixels("plumb_bob", pincushion)
    outside = (from_u < -1) | (from_u > 320) | (from_v < -1) | (from_v > 240)
    assert outside.any()
    assert np.isnan(out[outside]).all()


@pytest.mark.parametrize(
    ("model", "D"), [("plumb_bob", []), ("plumb_bob", [0.0] * 5), ("", []), ("unheard_of", [0.0])]
)
def test_no_distortion_is_the_same_array(model, D):
    depth = np.ones((240, 320), np.float32)
    assert undistort_depth(depth, CAMERA, model, D) is depth


@pytest.mark.parametrize(
    ("model", "D", "words"),
    [
        ("kannala", [0.1] * 4, "'kannala'"),
        ("", [0.1], "not known"),
        ("plumb_bob", [0.1] * 8, "8 distortion coefficients"),
        ("equidistant", [0.1] * 5, "equidistant"),
        ("rational_polynomial", [float("nan")] * 8, "finite"),
    ],
)
def test_unknown_distortion_is_refused_by_name(model, D, words):
    with pytest.raises(FrameError, match=words) as caught:
        undistort_color(np.zeros((240, 320, 3), np.uint8), CAMERA, model, D)
    assert caught.value.reason is FrameReason.BAD_DISTORTION
    assert "rational_polynomial (8" in str(caught.value)


def test_a_size_that_differs_from_the_camera_is_refused():
    with pytest.raises(FrameError, match="100x50") as caught:
        undistort_depth(np.zeros((50, 100), np.float32), CAMERA, "plumb_bob", CASES["plumb_bob"])
    assert caught.value.reason is FrameReason.BAD_SIZE


@pytest.mark.parametrize(
    ("model", "counts"), [("plumb_bob", (5, 8, 12, 14)), ("rational_polynomial", (8, 9, 12, 14))]
)
@pytest.mark.parametrize("equal_to", ["shortest", "zeros"])
def test_zeros_behind_the_coefficients_change_nothing(model, counts, equal_to):
    """Some drivers fill D up; every such frame was refused."""
    rgb = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    depth = np.random.default_rng(2).uniform(1, 3, (240, 320)).astype(np.float32)
    D = CASES[model] if equal_to == "shortest" else [0.0] * counts[0]
    for count in counts:
        longer = [*D, *[0.0] * (count - len(D))]
        np.testing.assert_array_equal(
            undistort_color(rgb, CAMERA, model, longer), undistort_color(rgb, CAMERA, model, D)
        )
        np.testing.assert_array_equal(
            undistort_depth(depth, CAMERA, model, longer), undistort_depth(depth, CAMERA, model, D)
        )


def test_zeros_behind_equidistant_change_nothing():
    depth = np.random.default_rng(2).uniform(1, 3, (240, 320)).astype(np.float32)
    for zeros in (1, 2, 8):
        longer = [*CASES["equidistant"], *[0.0] * zeros]
        np.testing.assert_array_equal(
            undistort_depth(depth, CAMERA, "equidistant", longer),
            undistort_depth(depth, CAMERA, "equidistant", CASES["equidistant"]),
        )


@pytest.mark.parametrize("count", [12, 14])
def test_the_long_forms_of_the_rational_model_are_computed(count):
    """Thin prism: s1 r^2 + s2 r^4 in x, s3 r^2 + s4 r^4 in y; the tilt of 14 turns the sensor."""
    prism = [0.02, -0.01, -0.03, 0.01]
    D = [*CASES["rational_polynomial"], *prism, *[0.0] * (count - 12)]
    v, u = np.mgrid[:240, :320].astype(np.float32)
    x, y = (u.astype(float) - CAMERA.cx) / CAMERA.fx, (v.astype(float) - CAMERA.cy) / CAMERA.fy
    r2 = x * x + y * y
    bent_x, bent_y = distort("rational_polynomial", CASES["rational_polynomial"], x, y)
    from_u = (bent_x + prism[0] * r2 + prism[1] * r2**2) * CAMERA.fx + CAMERA.cx
    from_v = (bent_y + prism[2] * r2 + prism[3] * r2**2) * CAMERA.fy + CAMERA.cy
    inside = (from_u > 1) & (from_u < 318) & (from_v > 1) & (from_v < 238)
    out = undistort_depth(u, CAMERA, "rational_polynomial", D)
    assert np.abs(out - from_u)[inside].max() <= 0.51
    tilted = [*D[:12], 0.05, -0.05]
    difference = np.abs(undistort_depth(u, CAMERA, "rational_polynomial", tilted) - out)
    assert np.nanmax(difference) > 2.0


@pytest.mark.parametrize(
    ("model", "D"),
    [
        ("plumb_bob", [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e-9]),
        ("equidistant", [0.1, 0.0, 0.0, 0.0, 1e-9]),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 4 + [0.1]),
        ("rational_polynomial", [0.1] * 5),
    ],
)
def test_a_surplus_that_is_not_zero_is_refused_with_numbers_and_cure(model, D):
    with pytest.raises(FrameError, match=f"{len(D)} distortion coefficients") as caught:
        undistort_depth(np.ones((240, 320), np.float32), CAMERA, model, D)
    assert f"'{model}', which has" in str(caught.value)
    assert "camera.rectified" in str(caught.value)
