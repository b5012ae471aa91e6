"""Small posed folders as data sets and tools write them: every file tells its frame.

Colour's green is 10 + 20 i, depth 3.0 - 0.1 i m, the pose's x 0.3 i m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ada3d_ros.types import RgbdFrame

WIDTH, HEIGHT, FOCAL_PX = 32, 24, 30.0
N = 6
K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1.0]])
QUATERNION = "-0.5 0.5 -0.5 0.5"  # a level camera that looks along +x
STRAY_QUATERNION = "0.70710678, 0.0, 0.70710678, 0.0"
FIRST_NS = 1_305_031_102_100_000_000


def rows_of(matrix: np.ndarray) -> list[str]:
    return [" ".join(repr(float(value)) for value in row) for row in matrix]


K4_ROWS = rows_of(np.block([[K, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))


def pose(i: int) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]
    T[:3, 3] = [0.3 * i, 0.0, 1.2]
    return T


def rgb(i: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    pixels = np.full((height, width, 3), 100, np.uint8)
    pixels[..., 1] = 10 + 20 * i
    return pixels


def depth(i: int, scale: float = 1000.0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width), round((3.0 - 0.1 * i) * scale), np.uint16)


def confidence() -> np.ndarray:
    """None in the left half."""
    pixels = np.full((HEIGHT, WIDTH), 2, np.uint8)
    pixels[:, : WIDTH // 2] = 0
    return pixels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_text(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in np.ravel(values))


def write_plain(
    folder: Path,
    names: Sequence[str] = ("rgb", "depth", "poses"),
    stem: Callable[[int], object] = str,
    depth_stem: Callable[[int], object] | None = None,
) -> Path:
    for i in range(N):
        save(folder / names[0] / f"{stem(i)}.png", rgb(i))
        save(folder / names[1] / f"{(depth_stem or stem)(i)}.png", depth(i))
        (folder / names[2]).mkdir(exist_ok=True)
        np.savetxt(folder / names[2] / f"{stem(i)}.txt", pose(i))
    np.savetxt(folder / "K.txt", K)
    return folder


def write_list(
    folder: Path, row: Callable[[int], str], name: str = "poses.txt", rows: Sequence[int] = range(N)
) -> Path:
    for i in range(N):
        save(folder / "rgb" / f"{i}.png", rgb(i))
        save(folder / "depth" / f"{i}.png", depth(i))
    save_text(folder / name, *(row(i) for i in rows))
    np.savetxt(folder / "K.txt", K)
    return folder


def write_tum(
    folder: Path,
    stamp: Callable[[int], str] = lambda i: f"{FIRST_NS // 10**9}.{1 + i}",
    pose_row: Callable[[int], str] = lambda i: f"{0.3 * i:.4f} 0.0 1.2 {QUATERNION}",
    depth_stamp: Callable[[int], str] | None = None,
) -> Path:
    for i in range(N):
        save(folder / "rgb" / f"{i}.png", rgb(i))
        save(folder / "depth" / f"{i}.png", depth(i, 5000.0))
    save_text(folder / "rgb.txt", "# colour", *(f"{stamp(i)} rgb/{i}.png" for i in range(N)))
    depth_stamp = depth_stamp or stamp
    save_text(folder / "depth.txt", *(f"{depth_stamp(i)} depth/{i}.png" for i in range(N)))
    rows = (f"{stamp(i)} {pose_row(i)}" for i in range(N))
    save_text(folder / "groundtruth.txt", "# timestamp tx ty tz qx qy qz qw", *rows)
    np.savetxt(folder / "K.txt", K)
    return folder


def write_scannet(folder: Path) -> Path:
    write_plain(folder, ("color", "depth", "pose"))
    (folder / "K.txt").unlink()
    for name in ("color", "depth"):
        save_text(folder / "intrinsic" / f"intrinsic_{name}.txt", *K4_ROWS)
    return folder


def write_one_folder(folder: Path, stem: str, kinds: Sequence[str]) -> Path:
    """Colour, depth and pose of all frames side by side; kinds: what follows the stem of each."""
    for i in range(N):
        color, deep, text = (folder / f"{stem.format(i)}{kind}" for kind in kinds)
        save(color, rgb(i))
        save(deep, depth(i))
        save_text(text, *rows_of(pose(i)))
    return folder


def write_posed(folder: Path) -> Path:
    """posed_images of LLaVA-3D."""
    write_one_folder(folder, "{:05d}", (".jpg", ".png", ".txt"))
    for name in ("intrinsic", "depth_intrinsic"):
        save_text(folder / f"{name}.txt", *K4_ROWS)
    return folder


def write_7scenes(folder: Path) -> Path:
    write_one_folder(folder, "frame-{:06d}", (".color.png", ".depth.png", ".pose.txt"))
    np.savetxt(folder / "K.txt", K)
    return folder


def write_replica(folder: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    for i in range(N):
        save(folder / "results" / f"frame{i:06d}.jpg", rgb(i, width, height))
        save(folder / "results" / f"depth{i:06d}.png", depth(i, 6553.5, width, height))
    save_text(folder / "traj.txt", *(numbers(pose(i)) for i in range(N)))
    return folder


def write_stray(folder: Path, first: int = 0) -> Path:
    """A recording of Stray Scanner: y up, camera axes as OpenCV's, colour twice as large."""
    rows = ["timestamp, frame, x, y, z, qx, qy, qz, qw"]
    for i in range(N):
        save(folder / "rgb" / f"{i + first:06d}.png", rgb(i, 2 * WIDTH, 2 * HEIGHT))
        save(folder / "depth" / f"{i:06d}.png", depth(i))
        save(folder / "confidence" / f"{i:06d}.png", confidence())
        # pose(i) in a y-up world: a level camera that looks along +x.
        rows.append(f"{50.0 + 0.1 * i:.1f}, {i:06d}, {0.3 * i}, 1.2, 0.0, {STRAY_QUATERNION}")
    save_text(folder / "odometry.csv", *rows)
    save_text(folder / "camera_matrix.csv", "60.0, 0.0, 31.5", "0.0, 60.0, 23.5", "0.0, 0.0, 1.0")
    return folder


def told_by(frame: RgbdFrame) -> tuple[int, int, int]:
    """Which frame colour, depth and pose are of."""
    green = float(frame.rgb[..., 1].mean())
    metres = float(np.nanmedian(frame.depth_m))
    return (
        round((green - 10) / 20),
        round((3.0 - metres) / 0.1),
        round(float(frame.T_world_cam[0, 3]) / 0.3),
    )


def all_of(*frames: int) -> list[tuple[int, int, int]]:
    return [(i, i, i) for i in frames]
