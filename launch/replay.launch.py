"""Play a bag into the agent: `ros2 launch ada3d_ros replay.launch.py bag:=FOLDER model_path:=FOLDER`.

Recorded stamps are years old, so the agent runs with use_sim_time and the player publishes /clock. Every argument of
agent.launch.py can be given too (topics, transports, model, ...).
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("ada3d_ros"))

SWITCH = ["true", "false", "True", "False"]

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 folder (mcap or sqlite3)"),
    DeclareLaunchArgument("rate", default_value="1.0", description="speed of the replay; 2.0 = twice as fast"),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=SWITCH, description="play until interrupted; stamps keep rising"
    ),
    DeclareLaunchArgument(
        "start_paused",
        default_value="false",
        choices=SWITCH,
        description="wait for the service /ada3d_replay/set_paused",
    ),
]


def start_player(context):
    """The player with the options that were asked for."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    flags = [
        flag
        for argument, flag in (("loop", "--loop"), ("start_paused", "--start-paused"))
        if value(argument).lower() == "true"
    ]
    # wait long: the agent may be loading its model
    arguments = [value("bag"), "--rate", value("rate"), "--wait-sec", "60", *flags]
    return [Node(package="ada3d_ros", executable="replay", output="screen", arguments=arguments)]


def generate_launch_description():
    """The agent in simulated time, and the player."""
    agent = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "agent.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*ARGUMENTS, agent, OpaqueFunction(function=start_player)])
