"""Pinhole cameras on torch tensors: pixels with depth to points, and back.

Pixel centres lie at integers: u = column index, v = row index, no half-pixel shift (LLaVA-3D
`llava/model/multimodal_encoder/unproject.py`). Depth is z along the optical axis, not ray length.
"""

from __future__ import annotations

import torch


def unproject_depth(
    depth_m: torch.Tensor, K: torch.Tensor, T_world_cam: torch.Tensor
) -> torch.Tensor:
    """World points of every pixel.

    depth_m (..., H, W) metres; K (..., 3, 3) px; T_world_cam (..., 4, 4), camera to world. Returns
    (..., H, W, 3) metres, in depth_m's dtype. NaN depth gives NaN points; zero depth gives the
    camera centre.
    """
    height, width = depth_m.shape[-2:]
    rows = torch.arange(height, dtype=depth_m.dtype, device=depth_m.device)
    columns = torch.arange(width, dtype=depth_m.dtype, device=depth_m.device)
    return unproject_grid(rows, columns, depth_m, K, T_world_cam)


def unproject_grid(
    rows: torch.Tensor,
    columns: torch.Tensor,
    depth_m: torch.Tensor,
    K: torch.Tensor,
    T_world_cam: torch.Tensor,
) -> torch.Tensor:
    """The same of the pixels in some rows (H,) and columns (W,), in depth_m's dtype; depth_m (...,
    H, W) is theirs.
    """
    # Points (..., H, W, 3) in the camera frame, then in the world.
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    fx, fy = K[..., 0, 0, None, None], K[..., 1, 1, None, None]
    cx, cy = K[..., 0, 2, None, None], K[..., 1, 2, None, None]
    points = torch.stack(((u - cx) * depth_m / fx, (v - cy) * depth_m / fy, depth_m), dim=-1)
    rotation, translation = T_world_cam[..., :3, :3], T_world_cam[..., :3, 3]
    return points @ rotation.transpose(-1, -2).unsqueeze(-3) + translation[..., None, None, :]


def project_points(
    xyz_m: torch.Tensor, K: torch.Tensor, T_world_cam: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels uv (..., N, 2) and depth z (..., N) metres of world points xyz_m (..., N, 3).

    z <= 0: behind the camera.
    """
    rotation, translation = T_world_cam[..., :3, :3], T_world_cam[..., :3, 3]
    points = (xyz_m - translation[..., None, :]) @ rotation  # R^T p, row vectors
    z = points[..., 2]
    u = points[..., 0] / z * K[..., 0, 0, None] + K[..., 0, 2, None]
    v = points[..., 1] / z * K[..., 1, 1, None] + K[..., 1, 2, None]
    return torch.stack((u, v), dim=-1), z


# -- K and the image's size
