"""Start the agent node: `ros2 launch ada3d_ros agent.launch.py --show-args` lists every argument."""

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

NUMBERS = ("keep_ratio",)  # the other arguments are text
# Overrides of the parameter file; left empty, the file's value stays. argument -> parameter
OVERRIDES = {
    "model_path": "model.path",
    "device": "model.device",
    "precision": "model.precision",
    "pruning_strategy": "pruning.strategy",
    "keep_ratio": "pruning.keep_ratio",
    "world_frame": "world_frame",
    "pose_source": "pose_source",
    "rgb_transport": "rgb_transport",
    "depth_transport": "depth_transport",
}

SWITCH = ["true", "false", "True", "False"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="namespace of the node, for example the robot's name",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "agent.yaml"),
        description="parameter file (docs/parameters.md)",
    ),
    DeclareLaunchArgument(
        "model_path",
        default_value="",
        description="folder of the checkpoint; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:N; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "precision",
        default_value="",
        description="auto, fp32, bf16 or fp16; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "pruning_strategy",
        default_value="",
        description=(
            "how spatial tokens are pruned: none, adatoken3d, voxel_dpp, ... (docs/pruning.md);"
            " empty: as in params_file"
        ),
    ),
    DeclareLaunchArgument(
        "keep_ratio",
        default_value="",
        description=(
            "mean over layers of kept / total spatial tokens, 0.05 to 1; empty: as in params_file"
        ),
    ),
    DeclareLaunchArgument(
        "rgb_topic",
        default_value="camera/camera/color/image_raw",
        description=(
            "colour image, sensor_msgs/Image (without /compressed); a relative name lies in the"
            " namespace"
        ),
    ),
    DeclareLaunchArgument(
        "depth_topic",
        default_value="camera/camera/aligned_depth_to_color/image_raw",
        description="depth registered to colour, sensor_msgs/Image (without /compressedDepth)",
    ),
    DeclareLaunchArgument(
        "camera_info_topic",
        default_value="camera/camera/color/camera_info",
        description="of the colour camera",
    ),
    DeclareLaunchArgument(
        "pose_topic",
        default_value="pose",
        description="geometry_msgs/PoseStamped of the colour optical frame, for pose_source pose",
    ),
    DeclareLaunchArgument(
        "odom_topic", default_value="odom", description="nav_msgs/Odometry, for pose_source odom"
    ),
    DeclareLaunchArgument(
        "rgb_transport", default_value="", description="raw or compressed; empty: as in params_file"
    ),
    DeclareLaunchArgument(
        "depth_transport",
        default_value="",
        description="raw or compressedDepth; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "pose_source", default_value="", description="pose or odom; empty: as in params_file"
    ),
    DeclareLaunchArgument(
        "world_frame",
        default_value="",
        description="frame of poses and boxes, z up; empty: as in params_file",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=SWITCH,
        description="take time from /clock (bag replay, simulation)",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=SWITCH,
        description="configure and activate the node; false: leave that to a lifecycle manager",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=SWITCH,
        description="start RViz with the boxes and the camera pose",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="least severe messages to log",
    ),
]


def start_agent(context):
    """The node with its remappings, and the two transitions if autostart is on; RViz on request."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    def is_on(name):
        return value(name).lower() == "true"

    namespace = value("namespace")
    overrides = {
        parameter: to_number(argument, value(argument)) if argument in NUMBERS else value(argument)
        for argument, parameter in OVERRIDES.items()
        if value(argument)
    }
    full_namespace = prefix_namespace(context.launch_configurations.get("ros_namespace"), namespace)
    logger = f"{full_namespace.strip('/')}/ada3d_agent".lstrip("/").replace("/", ".")
    agent = LifecycleNode(
        package="ada3d_ros",
        executable="agent",
        name="ada3d_agent",
        namespace=namespace,
        output="screen",
        # autostart off in the node itself: the transitions below start it, never both
        parameters=[
            value("params_file"),
            {**overrides, "autostart": False, "use_sim_time": is_on("use_sim_time")},
        ],
        remappings=[
            ("rgb/image", value("rgb_topic")),
            ("rgb/image/compressed", value("rgb_topic") + "/compressed"),
            ("rgb/camera_info", value("camera_info_topic")),
            ("depth/image", value("depth_topic")),
            ("depth/image/compressedDepth", value("depth_topic") + "/compressedDepth"),
            ("pose", value("pose_topic")),
            ("odom", value("odom_topic")),
        ],
        ros_arguments=["--log-level", f"{logger}:={value('log_level')}"],
    )
    actions = [agent]
    if is_on("autostart"):
        actions += autostart(agent)
    if is_on("rviz"):
        actions.append(
            start_rviz(namespace, value("world_frame"), value("pose_topic"), is_on("use_sim_time"))
        )
    return actions


def to_number(argument, text):
    """A launch argument that must be a number: the node would take text for the wrong type."""
    try:
        return float(text)
    except ValueError:
        raise RuntimeError(
            f"{argument}:={text} is not a number; --show-args tells what it means."
        ) from None


def autostart(agent):
    """Configure, and activate once that has succeeded."""

    def change_state(transition):
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(agent), transition_id=transition
            )
        )

    # start_state="configuring": a later deactivate by hand is not undone
    activate = OnStateTransition(
        target_lifecycle_node=agent,
        start_state="configuring",
        goal_state="inactive",
        entities=[change_state(Transition.TRANSITION_ACTIVATE)],
    )
    return [RegisterEventHandler(activate), change_state(Transition.TRANSITION_CONFIGURE)]


def start_rviz(namespace, world_frame, pose_topic, use_sim_time):
    """RViz; the topics in its file are those of a node without namespace."""
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=namespace,
        arguments=[
            "-d",
            str(SHARE / "config" / "ada3d.rviz"),
            *(["-f", world_frame] if world_frame else []),
        ],
        parameters=[{"use_sim_time": use_sim_time}],
        remappings=[("/ada3d_agent/markers", "ada3d_agent/markers"), ("/pose", pose_topic)],
    )


def generate_launch_description():
    """Arguments, then the agent and RViz as they ask for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start_agent)])
