"""The scene as messages: keyframes with small pictures, their cameras as markers, the coloured
cloud, a picture with boxes, where to stand. Values only: no node, no clock, no publisher.
"""

from __future__ import annotations

import array
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CompressedImage, PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ada3d_ros.config.outputs import GoalConfig
from ada3d_ros.geometry.colour_cloud import ColourCloud
from ada3d_ros.geometry.pose import to_quaternion
from ada3d_ros.geometry.standing_place import Reach, standing_place
from ada3d_ros.measures import SceneObject
from ada3d_ros.msg import GroundedBox, KeyframeArray
from ada3d_ros.msg import Keyframe as KeyframeMsg
from ada3d_ros.ros.annotated import ANSWER_RGB, OBJECT_RGB, Drawn, annotate
from ada3d_ros.ros.conversions import box_from_msg, ns_to_time
from ada3d_ros.ros.markers import BLUE, GREEN, Drawing
from ada3d_ros.store.keyframe_bytes import encode_jpeg
from ada3d_ros.types import Intrinsics, Keyframe, RgbdFrame, SceneState

THUMBNAIL_PX = 160  # wide, as Keyframe.msg says
LINE_M = 0.01
Array = npt.NDArray[np.float64]


class ShownScene(NamedTuple):
    """The kept keyframes in time order, their state in numbers, and how high the floor lies."""

    keyframes: tuple[Keyframe, ...] = ()
    state: SceneState = SceneState(0, 0, 0)
    floor_z_m: float = 0.0

    @property
    def version(self) -> tuple[int, int]:
        return self.state.epoch, self.state.version


def scene_header(scene: ShownScene, world_frame: str) -> Header:
    """Of what is told of a whole scene: the newest image's stamp, 0 without a keyframe."""
    frame_id = scene.keyframes[-1].frame.frame_id if scene.keyframes else world_frame
    return Header(stamp=ns_to_time(scene.state.newest_ns), frame_id=frame_id)


def pose_to_msg(T: Array) -> Pose:
    """T (4, 4) as a Pose."""
    (x, y, z), (qx, qy, qz, qw) = (part.tolist() for part in to_quaternion(T))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def thumbnail(rgb: npt.NDArray[np.uint8], quality: int) -> bytes:
    """The picture THUMBNAIL_PX wide as JPEG, each pixel a mean of those that it stands for."""
    height, width = rgb.shape[:2]
    size = THUMBNAIL_PX, max(round(height * THUMBNAIL_PX / width), 1)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(np.asarray(small, dtype=np.uint8), quality)


def keyframes_to_msg(
    scene: ShownScene, jpegs: Mapping[int, bytes], world_frame: str
) -> KeyframeArray:
    """The keyframes, oldest first; jpegs: a thumbnail by keyframe index."""
    keyframes = []
    for keyframe in scene.keyframes:
        frame = keyframe.frame
        camera = frame.intrinsics
        keyframes.append(
            KeyframeMsg(
                id=keyframe.index,
                stamp=ns_to_time(frame.stamp_ns),
                pose=pose_to_msg(frame.T_world_cam),
                width=camera.width,
                height=camera.height,
                intrinsics=[camera.fx, camera.fy, camera.cx, camera.cy],
                jpeg=array.array("B", jpegs[keyframe.index]),
            )
        )
    return KeyframeArray(
        header=scene_header(scene, world_frame),
        scene_epoch=scene.state.epoch,
        scene_version=scene.state.version,
        keyframes=keyframes,
    )


def frustum(camera: Intrinsics, T_world_cam: Array, length_m: float) -> Array:
    """(5, 3) metres, world: the camera's centre, then the corners of its image at that depth, from
    the upper left one clockwise as the camera sees it. Pixels end half a pixel beyond their centre.
    """
    u = np.array([-0.5, camera.width - 0.5, camera.width - 0.5, -0.5])
    v = np.array([-0.5, -0.5, camera.height - 0.5, camera.height - 0.5])
    rays = np.column_stack(((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(4)))
    in_camera = np.concatenate((np.zeros((1, 3)), rays * length_m))
    corners: Array = in_camera @ T_world_cam[:3, :3].T + T_world_cam[:3, 3]
    return corners


def keyframes_to_markers(scene: ShownScene, length_m: float, world_frame: str) -> MarkerArray:
    """A pyramid of lines per keyframe, the newest one green."""
    drawing = Drawing(scene_header(scene, world_frame))
    for keyframe in scene.keyframes:
        frame = keyframe.frame
        center, *corners = (
            Point(x=x, y=y, z=z)
            for x, y, z in frustum(frame.intrinsics, frame.T_world_cam, length_m).tolist()
        )
        around = [*corners, corners[0]]
        lines = [point for pair in itertools.pairwise(around) for point in pair]
        lines += [point for corner in corners for point in (center, corner)]
        is_newest = keyframe is scene.keyframes[-1]
        drawing.lines("keyframes", lines, GREEN if is_newest else BLUE, LINE_M)
    return drawing.done()


def picture_to_msg(frame: RgbdFrame, boxes: Sequence[Drawn], quality: int) -> CompressedImage:
    """A frame's picture with boxes over it, stamped and framed as its colour image."""
    header = Header(stamp=ns_to_time(frame.stamp_ns), frame_id=frame.camera_frame_id)
    content = encode_jpeg(annotate(frame, boxes), quality)
    return CompressedImage(header=header, format="jpeg", data=array.array("B", content))


def drawn_answer(box: GroundedBox) -> Drawn:
    score = "" if math.isnan(box.score) else f" {box.score:.2f}"
    return Drawn(box_from_msg(box), box.label + score, ANSWER_RGB)


def drawn_object(item: SceneObject) -> Drawn:
    return Drawn(item.box, f"{item.label} #{item.id}", OBJECT_RGB)


def goal_for(box: GroundedBox, scene: ShownScene, config: GoalConfig, frame_id: str) -> PoseStamped:
    """Where to stand to face the box, coming from where the newest keyframe was taken; frame_id:
    of the box. Its stamp is 0, TF's newest: nav2 takes it into another frame at that time, and TF
    forgets after 10 s when the images were taken. Raises NotGroundedError, which says why there is
    no such place.
    """
    frames = [keyframe.frame for keyframe in scene.keyframes]
    x, y = frames[-1].T_world_cam[:2, 3].tolist() if frames else (0.0, 0.0)
    reach = Reach(config.distance_m, config.farther_m, config.robot_radius_m)
    place = standing_place(frames, box_from_msg(box), scene.floor_z_m, (x, y), reach)
    (x, y, z), half = place.xyz_m, place.yaw_rad / 2
    turn = Quaternion(z=math.sin(half), w=math.cos(half))
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=turn)
    return PoseStamped(header=Header(frame_id=frame_id), pose=pose)


def cloud_to_msg(cloud: ColourCloud, header: Header) -> PointCloud2:
    """x, y, z and `rgb` as float32, the colour's bytes 0x00RRGGBB in the last one: the form that
    RViz, PCL and Foxglove read.
    """
    count = len(cloud)
    points = np.empty(count, np.dtype([("xyz", "<f4", 3), ("rgb", "<u4")]))
    red, green, blue = cloud.rgb.astype(np.uint32).T
    points["xyz"], points["rgb"] = cloud.xyz_m, red << 16 | green << 8 | blue
    return PointCloud2(
        header=header,
        height=1,
        width=count,
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(("x", "y", "z", "rgb"))
        ],
        is_bigendian=False,
        point_step=points.itemsize,
        row_step=points.nbytes,
        data=array.array("B", points.tobytes()),
        is_dense=True,
    )
