"""The data that crosses a folder boundary: frozen dataclasses with shape, dtype, unit and frame.

Knows nothing of ROS, and imports torch only for type checkers. Conventions: `T_a_b` maps
b-coordinates to a; camera frames are optical (x right, y down, z forward); the world is z up; pixel
centres lie at integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import FrameError, FrameReason
from ada3d_ros.rigid import rigid_pose
from ada3d_ros.usage import StageTimings, TokenUsage

if TYPE_CHECKING:
    import torch

    from ada3d_ros.measures import Measurement
    from ada3d_ros.token_rows import TokenRows

NAN = float("nan")


def _freeze(*arrays: npt.NDArray[np.generic]) -> None:
    for array in arrays:
        array.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera. fx fy cx cy in px, pixel centres at integers; size in px.

    Raises FrameError (BAD_INTRINSICS) for a focal length below 1 px or not finite, or a size of 0.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not all(np.isfinite(values)) or min(self.fx, self.fy) < 1.0:  # K of 0, or normalised
            raise FrameError(
                FrameReason.BAD_INTRINSICS,
                f"camera_info K has fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}: the camera"
                " is not calibrated in px (fx and fy must be finite and at least 1). Publish a"
                " calibrated camera_info.",
            )
        if self.width <= 0 or self.height <= 0:
            size = f"image size {self.width}x{self.height} px; both must be above 0."
            raise FrameError(FrameReason.BAD_INTRINSICS, size)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """K, (3, 3) float64, px."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False, slots=True)
class RgbdFrame:
    """One RGB-D capture with its pose, undistorted, depth registered to colour.

    rgb (H, W, 3) uint8 RGB; depth_m (H, W) float32 metres along the optical axis, NaN = no reading;
    T_world_cam (4, 4) float64; frame_id names the world frame, camera_frame_id the optical frame.
    depth_stamp_ns: of the depth image where it has its own. Raises FrameError, PoseError.
    """

    stamp_ns: int
    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    intrinsics: Intrinsics
    T_world_cam: npt.NDArray[np.float64]
    frame_id: str
    camera_frame_id: str = ""
    depth_stamp_ns: int | None = None

    def __post_init__(self) -> None:
        height, width = self.intrinsics.height, self.intrinsics.width
        if self.rgb.shape != (height, width, 3) or self.rgb.dtype != np.uint8:
            raise FrameError(
                FrameReason.BAD_SIZE,
                f"rgb is {self.rgb.shape} {self.rgb.dtype}, expected ({height}, {width}, 3) uint8.",
            )
        if self.depth_m.shape != (height, width) or self.depth_m.dtype != np.float32:
            raise FrameError(
                FrameReason.BAD_SIZE,
                f"depth is {self.depth_m.shape} {self.depth_m.dtype}, expected ({height}, {width})"
                " float32.",
            )
        object.__setattr__(self, "T_world_cam", rigid_pose(self.T_world_cam))
        _freeze(self.rgb, self.depth_m, self.T_world_cam)


class KeyframeReason(StrEnum):
    """Which threshold admitted a keyframe."""

    FIRST = "first"
    TRANSLATION = "translation"
    ROTATION = "rotation"
    TIME = "time"
    COVERAGE = "coverage"


@dataclass(frozen=True, eq=False, slots=True)
class Keyframe:
    """A frame admitted to the keyframe buffer. `index` grows by one per admission and is never
    reused.
    """

    frame: RgbdFrame
    index: int
    reason: KeyframeReason


@dataclass(frozen=True, eq=False, slots=True)
class MultiViewInput:
    """Views ready for the model: square images of side S and the geometry that belongs to them.

    pixels (V, 3, S, S) float32, CLIP-normalised; depth_m (V, S, S) float32 metres; K (V, 3, 3)
    float32 px at side S; T_world_cam (V, 4, 4) float32; stamp_ns (V,) int64. Depth is NaN where
    there is no reading (0 under the `reference` preset, which does not mask).
    """

    pixels: torch.Tensor
    depth_m: torch.Tensor
    K: torch.Tensor
    T_world_cam: torch.Tensor
    stamp_ns: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        views, _, side, _ = self.pixels.shape
        shapes = {
            "depth_m": (views, side, side),
            "K": (views, 3, 3),
            "T_world_cam": (views, 4, 4),
            "stamp_ns": (views,),
        }
        for name, shape in shapes.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"MultiViewInput.{name} has shape {found}, expected {shape}.")


@dataclass(frozen=True, eq=False, slots=True)
class SpatialTokens:
    """One token per occupied voxel, in ascending x, y, z order of the world frame.

    features (N, C) in the model's dtype: mean of (patch feature + 3D position embedding) before the
    projector; xyz_m (N, 3) float32 world, mean of the patch points; num_patches (N,) int64. Of a
    newline, which has no place, xyz_m is NaN and num_patches 0. rows: of `token_rows.rows_of`.
    """

    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor
    voxel_size_m: float
    rows: TokenRows | None = None

    def __post_init__(self) -> None:
        count = self.features.shape[0]
        xyz, patches = tuple(self.xyz_m.shape), tuple(self.num_patches.shape)
        if xyz != (count, 3) or patches != (count,):
            raise ValueError(
                f"SpatialTokens: {count} features, xyz_m {xyz}, num_patches {patches}."
            )

    def at(self, index: torch.Tensor) -> SpatialTokens:
        """Those of index (n,) int64, in its order."""
        features, xyz_m, patches = self.features[index], self.xyz_m[index], self.num_patches[index]
        return SpatialTokens(features, xyz_m, patches, self.voxel_size_m)


@dataclass(frozen=True, eq=False, slots=True)
class PromptSequence:
    """What the decoder reads: embeds (T, D); positions (T,) int64; the span [start, stop) of the N
    spatial tokens in it; xyz_m (N, 3) float32 of those tokens in the world frame, of an image's
    patches (column, row, 0), of newlines NaN, None where unknown. rows: of `token_rows.rows_of`.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    spatial_span: tuple[int, int]
    xyz_m: torch.Tensor | None = None
    rows: TokenRows | None = None

    def __post_init__(self) -> None:
        start, stop = self.spatial_span
        length = self.embeds.shape[0]
        if not 0 <= start <= stop <= length or self.positions.shape[0] != length:
            raise ValueError(
                f"PromptSequence: span {self.spatial_span}, {length} embeds,"
                f" {self.positions.shape[0]} positions."
            )
        if self.xyz_m is not None and tuple(self.xyz_m.shape) != (stop - start, 3):
            raise ValueError(
                f"PromptSequence: {stop - start} spatial tokens, xyz_m {tuple(self.xyz_m.shape)}."
            )


class StopReason(IntEnum):
    """Why generation ended; the numbers of Answer.msg."""

    UNKNOWN = 0
    EOS = 1
    MAX_TOKENS = 2
    TIMEOUT = 3
    CANCELED = 4


class AnswerMethod(IntEnum):
    """How an answer came about; the numbers of Answer.msg."""

    MODEL = 0  # the words of the language model
    MEASURED = 1  # read from boxes by geometry


class GroundingMethod(IntEnum):
    """How a box was found; the numbers of GroundedBox.msg."""

    UNKNOWN = 0
    TEXT = 1  # parsed from the answer text
    HEAD = 2  # grounding decoder
    RELEVANCE = 3  # training-free relevance peak
    DETECTOR = 4  # a 2D detector, lifted by depth
    PROPOSAL = 5  # a proposed box that the model's own ground heads chose


@dataclass(frozen=True, eq=False, slots=True)
class Box3D:
    """A box in the world frame: center_m (3,) float64 metres; size_m (3,) float64 FULL extents in
    metres along the box axes; yaw_rad about world z. score 0..1 or NaN if the model gives none.
    support_points: valid depth points inside, summed over the keyframes; 0 = not checked.
    """

    center_m: npt.NDArray[np.float64]
    size_m: npt.NDArray[np.float64]
    yaw_rad: float = 0.0
    label: str = ""
    score: float = NAN
    support_points: int = 0
    method: GroundingMethod = GroundingMethod.UNKNOWN
    evidence_stamps_ns: tuple[int, ...] = ()
    evidence_xyz_m: tuple[tuple[float, float, float], ...] = ()
    evidence_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.center_m.shape != (3,) or self.size_m.shape != (3,):
            raise ValueError(
                f"Box3D: center_m {self.center_m.shape} and size_m {self.size_m.shape} must both be"
                " (3,)."
            )
        _freeze(self.center_m, self.size_m)


class Scope(IntEnum):
    """What a question is about; the numbers of the services."""

    SCENE = 0  # all keyframes, in 3D
    LATEST_IMAGE = 1  # the newest keyframe's colour image alone, in 2D


class Stage(Enum):
    """Progress of a question, as the action's feedback reports it."""

    QUEUED = 0
    ENCODING = 1
    PREFILL = 2
    DECODING = 3
    POSTPROCESS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A request as the pipeline sees it. NaN and 0 mean: use the configured default."""

    text: str
    scope: Scope = Scope.SCENE
    want_boxes: bool = True
    max_new_tokens: int = 0
    keep_ratio: float = NAN
    max_boxes: int = 0
    min_score: float = 0.0
    phrase: str = ""  # what to point at, where text asks for a box
    proposals: tuple[Box3D, ...] = ()  # a detector's, that the head chooses among for the phrase
    # seconds from now on that the answer should take at most; the engine picks a budget for it
    deadline_s: float = NAN
    routed: bool = True  # False: the model answers, whatever is asked

    @property
    def shareable(self) -> bool:
        """Whether it can run in a batch: on the scene, without phrase, budget or deadline."""
        own_budget = not (np.isnan(self.keep_ratio) and np.isnan(self.deadline_s))
        return self.scope is Scope.SCENE and not self.phrase and not own_budget


def _nothing(*args: object) -> None:
    """The default hook."""


@dataclass(frozen=True, slots=True)
class AskHooks:
    """How a caller follows and stops a question. All are called on the asking thread.

    check() raises a RequestError to stop (between stages and before each token); on_stage(stage);
    on_text(delta, num_tokens) gets each new piece of text.
    """

    check: Callable[[], None] = _nothing
    on_stage: Callable[[Stage], None] = _nothing
    on_text: Callable[[str, int], None] = _nothing


@dataclass(frozen=True, slots=True)
class SceneState:
    """The keyframes in numbers; stamps are -1 where there is no keyframe."""

    num_keyframes: int
    epoch: int  # grows at every reset
    version: int  # grows at every change within an epoch
    oldest_ns: int = -1
    newest_ns: int = -1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a checkpoint; sha256 (checkpoint.revision_sha256) is empty until loaded.
    backbone: the model's name (model/architectures.py), '' where a detector answers alone.
    """

    name: str
    revision: str
    sha256: str
    device: str
    precision: str
    parameters: int
    memory_bytes: int
    max_input_tokens: int
    random_weights: bool
    has_3d: bool
    has_grounding_head: bool
    backbone: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """Everything known about one answered question.

    stamp_ns: newest image used; frame_id: world frame of the boxes; scene_cached: answered from the
    scene cache, then scene_staleness is the share of spatial tokens that it does not hold as the
    keyframes now have them. cache_mode: how it was pruned: build, question or none on the cached
    scene, paper without; cold_reason: why that did not serve, '' where it did.
    scene_epoch: grows at every reset and load, not where the model's origin moves.
    confidence: mean probability of the generated tokens. deadline_kept: False where none was asked.
    method: whether the model said it or it was measured, then `measurement` has the numbers.
    places: what the model pointed at before it spoke, in that order.
    kept_xyz_m (K, 3) float32: where the spatial tokens lie that the last layer kept, world frame;
    None for an image alone.
    """

    question: str
    text: str
    boxes: tuple[Box3D, ...]
    stamp_ns: int
    frame_id: str
    keyframe_stamps_ns: tuple[int, ...]
    stop_reason: StopReason
    tokens: TokenUsage
    timings: StageTimings
    scene_epoch: int = 0
    scene_version: int = 0
    scene_cached: bool = False
    scene_staleness: float = NAN
    cache_mode: str = "paper"
    cold_reason: str = ""
    confidence: float = NAN
    deadline_kept: bool = False
    method: AnswerMethod = AnswerMethod.MODEL
    places: tuple[Box3D, ...] = ()
    measurement: Measurement | None = None
    kept_xyz_m: npt.NDArray[np.float32] | None = None
