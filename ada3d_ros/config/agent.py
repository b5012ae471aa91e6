"""The settings of the agent as one tree; nested classes give the dotted names (`sync.slop_sec`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.config.objects import DetectorConfig, ObjectsConfig
from ada3d_ros.config.outputs import (
    BoxesConfig,
    CameraPoseConfig,
    CloudConfig,
    DiagnosticUpdaterConfig,
    GoalConfig,
    MarkersConfig,
    PicturesConfig,
)
from ada3d_ros.config.poses import ExtrinsicConfig, PoseConfig, TfConfig
from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.config.remote import RemoteConfig
from ada3d_ros.config.scene import SceneConfig, WatchConfig
from ada3d_ros.config.setting import setting
from ada3d_ros.errors import ConfigError

HOST = r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]"
PORT = (  # 1 to 65535
    "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
)
RELIABILITY = ("auto", "reliable", "best_effort")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    path: str = setting(
        "",
        "folder of the checkpoint (official layout, or transformers'); `embedded` = the small model"
        " of the package; `none` = no language model: a detector alone; empty fails clearly",
        read_only=True,
    )
    vision_path: str = setting(
        "",
        "folder of a CLIP checkpoint, for weights that do not contain the vision tower; empty: the"
        " folder that config.json names as mm_vision_tower, if it is one",
        read_only=True,
    )
    revision_sha256: str = setting(
        "",
        "expected sha256 as `get_model_info` gives it: over the weight files, then `tower:` and"
        " `head:` where there are such files; empty = not checked",
        pattern="([0-9a-f]{64}( tower:[0-9a-f]{64})?( head:[0-9a-f]{64})?)?",
        read_only=True,
    )
    device: str = setting(
        "auto", "where the model runs", pattern="auto|cpu|cuda(:[0-9]+)?", read_only=True
    )
    precision: str = setting(
        "auto",
        "number format of the weights; auto = bf16 on cuda, and on a processor that has it from 100"
        " million parameters on; else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
        read_only=True,
    )
    weights: str = setting(
        "full",
        "storage of the decoder's linear layers: full = in `model.precision`; int8, int4 = less"
        " memory, less exact",
        choices=("full", "int8", "int4"),
        read_only=True,
    )
    compat: str = setting(
        "default",
        "reference = LLaVA-3D bit for bit, its quirks included (docs/conventions.md)",
        choices=("default", "reference"),
        read_only=True,
    )
    remote: str = setting(
        "",
        "server that answers in the place of a model here, as https://host:8000 (`ada3d serve`);"
        " empty = none",
        pattern=rf"(https?://({HOST})(:({PORT}))?)?",
        form="http:// or https://, a host, then :PORT from 1 to 65535; nothing behind it",
        read_only=True,
    )
    conversation: str = setting(
        "llava_v1", "prompt template", choices=("llava_v1", "vicuna_v1"), read_only=True
    )


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    max_new_tokens: int = setting(256, "tokens generated at most", unit="tokens", low=1, high=2048)
    temperature: float = setting(0.0, "0 = greedy, the same answer every time", low=0.0, high=2.0)
    top_p: float = setting(1.0, "nucleus sampling; 1 = off", low=0.01, high=1.0)
    repetition_penalty: float = setting(
        0.0,
        "logits of tokens said already are divided by it (negative ones multiplied); 1 = off, 0 ="
        " what the checkpoint's generation_config.json has, else off",
        low=0.0,
        high=2.0,
    )
    seed: int = setting(0, "of the sampler, used when temperature > 0", low=0, high=2**31 - 1)
    timeout_sec: float = setting(
        30.0, "time for one request, waiting included", unit="s", low=0.1, high=600.0
    )


@dataclass(frozen=True, slots=True)
class QuestionConfig:
    max_chars: int = setting(2000, "longest question", unit="characters", low=1, high=20000)
    measure: bool = setting(
        True,
        "answer from boxes by geometry where the question is read and all it names is found;"
        " false = the model alone answers",
    )
    point: bool = setting(
        True, "let the model point at things before it speaks of them, where it was taught to"
    )
    named_score: float = setting(
        0.2,
        "score from which a thing is taken to be there that a question names; boxes.min_score and"
        " the model's own threshold are for what it asks after",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True, slots=True)
class WorldConfig:
    floor_z: str = setting(
        "auto",
        "height of the floor in the world frame, for models that want it at 0; auto = estimated"
        " from depth",
        unit="m",
        choices=("auto",),
        low=-10_000.0,
        high=10_000.0,
        read_only=True,
    )


@dataclass(frozen=True, slots=True)
class QosConfig:
    rgb: str = setting(
        "auto",
        "reliability of the colour subscription; auto starts reliable and follows a best-effort"
        " publisher",
        choices=RELIABILITY,
        read_only=True,
    )
    depth: str = setting("auto", "same for depth", choices=RELIABILITY, read_only=True)
    camera_info: str = setting("auto", "same for camera_info", choices=RELIABILITY, read_only=True)
    pose: str = setting("auto", "same for pose, odom or /tf", choices=RELIABILITY, read_only=True)


@dataclass(frozen=True, slots=True)
class SyncConfig:
    slop_sec: float = setting(
        0.02,
        "largest stamp difference of colour and depth, inclusive; 0 = exact",
        unit="s",
        low=0.0,
        high=1.0,
    )
    queue_size: int = setting(
        30, "messages kept per input while waiting for partners", unit="messages", low=2, high=500
    )


@dataclass(frozen=True, slots=True)
class InputConfig:
    max_age_sec: float = setting(
        1.0, "older frames are dropped (node clock); 0 = off", unit="s", low=0.0, high=60.0
    )
    max_gap_sec: float = setting(
        3600.0,
        "stamps or a clock that go ahead by so much are of another recording: a jump in time"
        " (reset_on_time_jump); 0 = off",
        unit="s",
        low=0.0,
        high=1e9,
    )
    max_rate_hz: float = setting(
        5.0,
        "frames beyond this rate are dropped before decoding; with a detector those beyond three"
        " times the rate, while the camera moves",
        unit="Hz",
        low=0.1,
        high=60.0,
    )


@dataclass(frozen=True, slots=True)
class DepthConfig:
    scale: float = setting(
        1.0, "factor after the encoding's own rule (16UC1 mm, 32FC1 m)", low=1e-4, high=1e3
    )
    min_m: float = setting(0.1, "nearer readings are invalid", unit="m", low=0.0, high=100.0)
    max_m: float = setting(10.0, "farther readings are invalid", unit="m", low=0.0, high=100.0)
    min_valid_fraction: float = setting(
        0.05, "frames with less valid depth are dropped", low=0.0, high=1.0
    )


@dataclass(frozen=True, slots=True)
class CameraConfig:
    rectified: bool = setting(
        False,
        "colour and depth are rectified already: camera_info P holds, and its D is not applied"
        " (topics named image_rect); false = raw images, K and D hold",
        read_only=True,
    )


@dataclass(frozen=True, slots=True)
class KeyframeConfig:
    min_translation_m: float = setting(
        0.2, "a frame this far from every kept keyframe is admitted", unit="m", low=0.0, high=100.0
    )
    min_rotation_deg: float = setting(
        10.0,
        "or turned by this much against every keyframe near it",
        unit="deg",
        low=0.0,
        high=180.0,
    )
    max_interval_sec: float = setting(
        5.0, "or this long after the last admission; 0 = off", unit="s", low=0.0, high=3600.0
    )
    min_new_coverage: float = setting(
        0.0,
        "or with at least this share of its 0.2 m voxels new to the scene; 0 = off",
        low=0.0,
        high=1.0,
    )
    max_views: int = setting(
        20, "keyframes kept and given to the model", unit="views", low=1, high=64
    )


@dataclass(frozen=True, slots=True)
class ActionConfig:
    policy: str = setting(
        "queue", "what a request does when another runs", choices=("reject", "queue", "preempt")
    )
    queue_size: int = setting(
        8, "requests waiting at most; beyond it BUSY", unit="requests", low=0, high=64
    )
    batch_size: int = setting(
        1,
        "questions about the cached scene answered together, unpruned, where so many wait; 1 = one"
        " after the other",
        unit="questions",
        low=1,
        high=16,
    )


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All settings."""

    model: ModelConfig = ModelConfig()
    remote: RemoteConfig = RemoteConfig()
    pruning: PruningConfig = PruningConfig()
    generation: GenerationConfig = GenerationConfig()
    question: QuestionConfig = QuestionConfig()
    pose_source: str = setting(
        "pose",
        "which input gives the camera pose: PoseStamped, Odometry, or TF at the image's stamp",
        choices=("pose", "odom", "tf"),
        read_only=True,
    )
    world_frame: str = setting(
        "map",
        "frame of boxes and keyframes, z up; poses in another frame are refused",
        pattern=r"/*[^\s/]\S*",
        read_only=True,
    )
    world: WorldConfig = WorldConfig()
    pose_child_frame: str = setting(
        "",
        "frame that is posed, where it is not the image's: for odom, a message with another"
        " child_frame_id is refused (empty = any); for pose and tf, a body that carries the camera",
        read_only=True,
    )
    extrinsic: ExtrinsicConfig = ExtrinsicConfig()
    pose: PoseConfig = PoseConfig()
    tf: TfConfig = TfConfig()
    rgb_transport: str = setting(
        "raw",
        "compressed subscribes rgb/image/compressed",
        choices=("raw", "compressed"),
        read_only=True,
    )
    depth_transport: str = setting(
        "raw",
        "compressedDepth subscribes depth/image/compressedDepth, compressed subscribes"
        " depth/image/compressed (16-bit PNG)",
        choices=("raw", "compressedDepth", "compressed"),
        read_only=True,
    )
    qos: QosConfig = QosConfig()
    sync: SyncConfig = SyncConfig()
    input: InputConfig = InputConfig()
    camera: CameraConfig = CameraConfig()
    depth: DepthConfig = DepthConfig()
    keyframe: KeyframeConfig = KeyframeConfig()
    scene: SceneConfig = SceneConfig()
    watch: WatchConfig = WatchConfig()
    cache: CacheConfig = CacheConfig()
    reset_on_time_jump: bool = setting(
        True,
        "a clock that jumps back (bag loop), or ahead by input.max_gap_sec (another bag),"
        " clears the scene",
    )
    objects: ObjectsConfig = ObjectsConfig()
    detector: DetectorConfig = DetectorConfig()
    action: ActionConfig = ActionConfig()
    markers: MarkersConfig = MarkersConfig()
    cloud: CloudConfig = CloudConfig()
    pictures: PicturesConfig = PicturesConfig()
    camera_pose: CameraPoseConfig = CameraPoseConfig()
    goal: GoalConfig = GoalConfig()
    boxes: BoxesConfig = BoxesConfig()
    diagnostic_updater: DiagnosticUpdaterConfig = DiagnosticUpdaterConfig()
    autostart: bool = setting(
        False, "configure and activate at start, without a lifecycle manager", read_only=True
    )
    bond_heartbeat_period: float = setting(
        0.25,
        "of the bond with nav2's lifecycle manager, where bondpy is installed; 0 = no bond",
        unit="s",
        low=0.0,
        high=10.0,
        read_only=True,
    )

    def __post_init__(self) -> None:
        # frames are named without the slash that ROS 1 wrote before them
        for name in ("world_frame", "pose_child_frame"):
            object.__setattr__(self, name, getattr(self, name).lstrip("/"))
        if self.depth.min_m >= self.depth.max_m:
            raise ConfigError(
                f"depth.min_m = {self.depth.min_m} must be below depth.max_m = {self.depth.max_m}"
                " (metres)."
            )
        norm = math.sqrt(sum(q * q for q in self.extrinsic.quat_xyzw))
        if abs(norm - 1.0) > 1e-3:
            raise ConfigError(
                f"extrinsic.quat_xyzw = {self.extrinsic.quat_xyzw} has norm {norm:.4f}; it must be"
                " 1 within 1e-3."
            )
