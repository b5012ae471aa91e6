"""Start the agent node; `ros2 launch ada3d_ros agent.launch.py --show-args` lists the arguments."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.utilities import prefix_namespace
from lifecycle_msgs.msg import Transition

SHARE = Path(get_package_share_directory("ada3d_ros"))

SWITCH = ["true", "false", "True", "False"]
# what config/ada3d.rviz shows, below the node
SHOWN = (
    *("cloud", "keyframe_markers", "markers", "object_markers", "camera_pose", "goal"),
    *("annotated", "annotated/compressed"),
)
NUMBERS = ("keep_ratio",)  # the other arguments are text

# Overrides of the parameter file; left empty, the file's value stays. argument -> parameter
OVERRIDES = {
    "model_path": "model.path",
    "vision_path": "model.vision_path",
    "detector": "detector.path",
    "detector_names": "detector.names",
    "device": "model.device",
    "precision": "model.precision",
    "pruning_strategy": "pruning.strategy",
    "keep_ratio": "pruning.keep_ratio",
    "world_frame": "world_frame",
    "scene": "scene.name",
    "autosave": "scene.autosave",
    "pose_source": "pose_source",
    "rgb_transport": "rgb_transport",
    "depth_transport": "depth_transport",
}


def argument(name, description, default="", **options):
    """One argument of this file; an override says that it may be left empty."""
    if name in OVERRIDES:
        description += "; empty: as in params_file"
    return DeclareLaunchArgument(name, default_value=default, description=description, **options)


ARGUMENTS = [
    argument("namespace", "namespace of the node, for example the robot's name"),
    argument("node_name", "name of the node", default="ada3d_agent"),
    argument(
        "params_file",
        "parameter file (docs/parameters.md)",
        default=str(SHARE / "config" / "agent.yaml"),
    ),
    argument(
        "model_path",
        "folder of the checkpoint; embedded: the small model of the package; none: a detector"
        " alone",
    ),
    argument(
        "detector",
        "what finds objects in the images: an ONNX file, a folder, or topic (docs/detectors.md)",
    ),
    argument("detector_names", "text file with the detector's kinds, one a line"),
    argument("vision_path", "CLIP folder, for a checkpoint that holds no vision tower"),
    argument("device", "auto, cpu, cuda or cuda:N"),
    argument("precision", "auto, fp32, bf16 or fp16"),
    argument(
        "pruning_strategy",
        "how spatial tokens are pruned: none, adatoken3d, voxel_dpp, ... (docs/pruning.md)",
    ),
    argument("keep_ratio", "mean over layers of kept / total spatial tokens, 0.0001 to 1"),
    argument(
        "rgb_topic",
        "colour image, sensor_msgs/Image (without /compressed); a relative name lies in the"
        " namespace",
        default="camera/camera/color/image_raw",
    ),
    argument(
        "depth_topic",
        "depth registered to colour, sensor_msgs/Image (without /compressedDepth)",
        default="camera/camera/aligned_depth_to_color/image_raw",
    ),
    argument(
        "camera_info_topic", "of the colour camera", default="camera/camera/color/camera_info"
    ),
    argument(
        "pose_topic",
        "geometry_msgs/PoseStamped of the colour optical frame, for pose_source pose",
        default="pose",
    ),
    argument("odom_topic", "nav_msgs/Odometry, for pose_source odom", default="odom"),
    argument("tf_topic", "tf2_msgs/TFMessage; tf where each robot has its own", default="/tf"),
    argument("tf_static_topic", "the same for what is static", default="/tf_static"),
    argument(
        "detections_topic",
        "vision_msgs/Detection2DArray of another node, for detector topic",
        default="~/detections_2d",
    ),
    argument("rgb_transport", "raw or compressed"),
    argument("depth_transport", "raw, compressedDepth or compressed"),
    argument("pose_source", "pose, odom or tf"),
    argument("world_frame", "frame of poses and boxes, z up"),
    argument("scene", "name of the scene to go on with, as kitchen"),
    argument("autosave", "folder that the scene is saved to while it grows, and loaded from"),
    argument(
        "use_sim_time",
        "take time from /clock (bag replay, simulation)",
        default="false",
        choices=SWITCH,
    ),
    argument(
        "autostart",
        "configure and activate the node; false: leave that to a lifecycle manager",
        default="true",
        choices=SWITCH,
    ),
    argument(
        "respawn",
        "start the node again two seconds after it ended; it then activates itself (autostart)",
        default="false",
        choices=SWITCH,
    ),
    argument(
        "rviz",
        "start RViz with the scene, the boxes and the camera pose",
        default="false",
        choices=SWITCH,
    ),
    argument(
        "web",
        "serve a page with the scene and questions to this machine's browsers",
        default="false",
        choices=SWITCH,
    ),
    argument("web_port", "where the page is: http://127.0.0.1:PORT/", default="8090"),
    argument(
        "log_level",
        "least severe messages to log",
        default="info",
        choices=["debug", "info", "warn", "error", "fatal"],
    ),
]


def start_agent(context):
    """The node with its remappings, the two transitions if autostart is on; what was asked for."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    def is_on(name):
        return value(name).lower() == "true"

    # What was asked for, over what the parameter file says.
    overrides = {
        parameter: to_number(name, value(name)) if name in NUMBERS else value(name)
        for name, parameter in OVERRIDES.items()
        if value(name)
    }

    # The node's own log level, not that of the middleware: by its full name.
    namespace = value("namespace")
    full_namespace = prefix_namespace(context.launch_configurations.get("ros_namespace"), namespace)
    name = value("node_name")
    logger = f"{full_namespace.strip('/')}/{name}".lstrip("/").replace("/", ".")

    # Who activates it: the transitions below or, of a node that comes back, the node; never both.
    activates_itself = is_on("autostart") and is_on("respawn")

    agent = LifecycleNode(
        package="ada3d_ros",
        executable="agent",
        name=name,
        namespace=namespace,
        output="screen",
        respawn=is_on("respawn"),
        respawn_delay=2.0,
        parameters=[
            value("params_file"),
            {**overrides, "autostart": activates_itself, "use_sim_time": is_on("use_sim_time")},
        ],
        remappings=[
            ("rgb/image", value("rgb_topic")),
            ("rgb/image/compressed", value("rgb_topic") + "/compressed"),
            ("rgb/camera_info", value("camera_info_topic")),
            ("depth/image", value("depth_topic")),
            ("depth/image/compressedDepth", value("depth_topic") + "/compressedDepth"),
            ("pose", value("pose_topic")),
            ("odom", value("odom_topic")),
            ("/tf", value("tf_topic")),
            ("/tf_static", value("tf_static_topic")),
            ("~/detections_2d", value("detections_topic")),
        ],
        ros_arguments=["--log-level", f"{logger}:={value('log_level')}"],
    )

    # What starts beside it.
    actions = [agent]
    if is_on("autostart") and not activates_itself:
        actions += autostart(agent)
    if is_on("rviz"):
        actions.append(start_rviz(value, is_on("use_sim_time")))
    if is_on("web"):
        actions.append(start_page(f"{full_namespace.rstrip('/')}/{name}", value("web_port")))
    return actions


def to_number(name, text):
    """A launch argument that must be a number: the node would take text for the wrong type."""
    try:
        return float(text)
    except ValueError:
        raise RuntimeError(
            f"{name}:={text} is not a number; --show-args tells what it means."
        ) from None


def autostart(agent):
    """Configure, and activate once that has succeeded."""

    def change_state(transition):
        matcher = matches_action(agent)
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matcher, transition_id=transition)
        )

    # start_state="configuring": a later deactivate by hand is not undone
    activate = OnStateTransition(
        target_lifecycle_node=agent,
        start_state="configuring",
        goal_state="inactive",
        entities=[change_state(Transition.TRANSITION_ACTIVATE)],
    )
    return [RegisterEventHandler(activate), change_state(Transition.TRANSITION_CONFIGURE)]


def start_rviz(value, use_sim_time):
    """RViz; the topics in its file are those of a node of the usual name without namespace."""
    frame = ["-f", value("world_frame")] if value("world_frame") else []
    name = value("node_name")
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=value("namespace"),
        arguments=["-d", str(SHARE / "config" / "ada3d.rviz"), *frame],
        parameters=[{"use_sim_time": use_sim_time}],
        remappings=[(f"/ada3d_agent/{topic}", f"{name}/{topic}") for topic in SHOWN],
    )


def start_page(agent, port):
    """The page in the browser: a process of its own, which finds the agent again by itself."""
    return Node(
        package="ada3d_ros",
        executable="web",
        output="screen",
        arguments=["--port", port, "--node", agent if agent.startswith("/") else f"/{agent}"],
    )


def generate_launch_description():
    """Arguments, then the agent and RViz as they ask for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start_agent)])
