"""Every error this package raises on purpose, and the number each gets at the ROS border.

    Ada3DError
    ├── ConfigError                 a setting, parameter or YAML value outside its range
    ├── RequestError                a question that cannot be answered
    │   ├── NotActiveError          the node is not active, or it is paused
    │   │   └── NodeStoppedError    the node's process ends
    │   ├── LoadingError            the weights are still loading
    │   ├── NoFramesError           no keyframe yet; the text names the missing input
    │   ├── StaleSceneError         the newest keyframe is older than scene.max_age_sec
    │   ├── InvalidRequestError     empty, control characters, model tokens, bad number
    │   ├── QuestionTooLongError    more characters or tokens than allowed
    │   ├── BusyError               the queue is full
    │   ├── RequestTimeoutError     the request's time ran out
    │   ├── CanceledError           the caller took the request back
    │   ├── PreemptedError          a newer request took its place
    │   ├── SceneResetError         the scene was reset while answering
    │   ├── NotGroundedError        no box survived the checks
    │   │   └── NotMeasurableError  there is no cached scene, or no grounding head, to look in
    │   ├── UnknownKindError        a kind of question that neither model nor measures know
    │   ├── AmbiguousError          a name that fits several objects where one is meant
    │   ├── RemoteLostError         the server that answers (model.remote) cannot be reached
    │   ├── AccessDeniedError       the server does not know this robot's token
    │   └── KeyframesMissingError   the server lacks keyframes of the scene that is asked about
    ├── FrameError                  one camera frame that cannot be used; has a `reason`
    ├── PoseError                   a pose that is not a rigid transform
    ├── SourceError                 a bag or folder that cannot be read or written
    └── ModelError                  the model failed
        ├── CheckpointError         weights missing, of another shape, or unsafe
        ├── DetectorError           a detector's file, folder or topic, or what it gives
        ├── DeviceLostError         the GPU no longer works in this process
        └── OutOfMemoryError        the device's memory does not suffice

Each class has one `code`, a number of msg/ErrorCode.msg (a test compares them).
This module imports nothing of the package.
"""

from enum import IntEnum, StrEnum


class ErrorCode(IntEnum):
    """The numbers of msg/ErrorCode.msg."""

    NONE = 0
    NOT_ACTIVE = 21001
    NO_FRAMES = 21002
    STALE_SCENE = 21003
    INVALID_REQUEST = 21004
    QUESTION_TOO_LONG = 21005
    BUSY = 21006
    TIMEOUT = 21007
    CANCELED = 21008
    PREEMPTED = 21009
    OUT_OF_MEMORY = 21010
    MODEL_ERROR = 21011
    NOT_GROUNDED = 21012
    POSE_ERROR = 21013
    SCENE_RESET = 21014
    LOADING = 21015
    UNKNOWN_KIND = 21016
    AMBIGUOUS = 21017
    REMOTE_LOST = 21018
    ACCESS_DENIED = 21019
    STORE_ERROR = 21020
    UNKNOWN_SCENE = 21021
    UNKNOWN = 21999


class FrameReason(StrEnum):
    """Why a frame was not used: the counter names in diagnostics (`dropped.<reason>`)."""

    NO_DEPTH = "no_depth"  # no depth image within sync.slop_sec of the colour image
    NO_INFO = "no_info"  # no camera_info has come
    NO_POSE = "no_pose"  # no pose, or none near enough, for the image stamp
    BAD_POSE = "bad_pose"  # not finite, or the quaternion is not a rotation
    LATE = "late"  # arrived after its partners were already gone
    STALE = "stale"  # older than input.max_age_sec
    RATE_LIMIT = "rate_limit"  # faster than input.max_rate_hz
    SUPERSEDED = "superseded"  # a newer frame arrived before the worker was free
    BAD_ENCODING = "bad_encoding"  # an encoding this input does not take
    BAD_SIZE = "bad_size"  # sizes of colour, depth and camera_info do not fit together
    CORRUPT = "corrupt"  # truncated, wrong step, or the codec refused it
    FRAME_MISMATCH = "frame_mismatch"  # colour, depth, camera_info or pose of another frame
    BAD_INTRINSICS = "bad_intrinsics"  # K is zero, not finite or of another image size
    BAD_DISTORTION = "bad_distortion"  # a model that is not known, or without so many coefficients
    LOW_VALID_DEPTH = "low_valid_depth"  # less valid depth than depth.min_valid_fraction
    BAD_UNITS = "bad_units"  # the depth's median is implausible: metres and millimetres mixed up?
    ZERO_STAMP = "zero_stamp"  # header.stamp is not set
    BACKWARD_STAMP = "backward_stamp"  # not newer than the stamp before it
    FUTURE_STAMP = "future_stamp"  # ahead of the other inputs; its own did not go on there
    SCENE_ERROR = "scene_error"  # an unexpected error while taking the frame in


class Ada3DError(Exception):
    """Base of all; the text is a sentence that says what was wrong and what to do."""

    code: ErrorCode = ErrorCode.UNKNOWN


class ConfigError(Ada3DError, ValueError):
    code = ErrorCode.INVALID_REQUEST


class RequestError(Ada3DError):
    code = ErrorCode.INVALID_REQUEST


class NotActiveError(RequestError):
    code = ErrorCode.NOT_ACTIVE


class NodeStoppedError(NotActiveError):
    pass


class LoadingError(RequestError):
    code = ErrorCode.LOADING


class NoFramesError(RequestError):
    code = ErrorCode.NO_FRAMES


class StaleSceneError(RequestError):
    code = ErrorCode.STALE_SCENE


class InvalidRequestError(RequestError):
    code = ErrorCode.INVALID_REQUEST


class OutOfReachError(InvalidRequestError):
    """Nothing that a request names lies where the model knows places."""


class QuestionTooLongError(RequestError):
    code = ErrorCode.QUESTION_TOO_LONG


class BusyError(RequestError):
    """retry_after_s: when to ask again, where that is known."""

    code = ErrorCode.BUSY

    def __init__(self, message: str, retry_after_s: float = float("nan")) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestTimeoutError(RequestError):
    code = ErrorCode.TIMEOUT


class CanceledError(RequestError):
    code = ErrorCode.CANCELED


class PreemptedError(RequestError):
    code = ErrorCode.PREEMPTED


class SceneResetError(RequestError):
    code = ErrorCode.SCENE_RESET


class NotGroundedError(RequestError):
    code = ErrorCode.NOT_GROUNDED


class NotMeasurableError(NotGroundedError):
    pass


class UnknownKindError(RequestError):
    code = ErrorCode.UNKNOWN_KIND


class AmbiguousError(RequestError):
    code = ErrorCode.AMBIGUOUS


class RemoteLostError(RequestError):
    code = ErrorCode.REMOTE_LOST


class AccessDeniedError(RequestError):
    code = ErrorCode.ACCESS_DENIED


class StoreError(RequestError):
    """The store of scenes: full, read-only, of another version or map frame, damaged."""

    code = ErrorCode.STORE_ERROR


class UnknownSceneError(RequestError):
    """No scene of that name; the text lists those there are."""

    code = ErrorCode.UNKNOWN_SCENE


class KeyframesMissingError(RequestError):
    """Between robot and server alone: the robot sends them and asks again. stamps_ns: of those that
    are missing, () where the whole scene is unknown.
    """

    def __init__(self, message: str, stamps_ns: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.stamps_ns = stamps_ns


class FrameError(Ada3DError):
    """One frame that cannot be used. `reason` names the counter that grows."""

    code = ErrorCode.NO_FRAMES

    def __init__(self, reason: FrameReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PoseError(Ada3DError, ValueError):
    code = ErrorCode.POSE_ERROR


class SourceError(Ada3DError):
    code = ErrorCode.NO_FRAMES


class ModelError(Ada3DError):
    code = ErrorCode.MODEL_ERROR


class CheckpointError(ModelError):
    code = ErrorCode.MODEL_ERROR


class DetectorError(ModelError):
    """A detector's file, folder or topic is at fault, or what it gives."""

    code = ErrorCode.MODEL_ERROR


class DeviceLostError(ModelError):
    """The GPU gave an error that lasts: nothing runs on it again in this process."""

    code = ErrorCode.MODEL_ERROR


class OutOfMemoryError(ModelError):
    code = ErrorCode.OUT_OF_MEMORY
