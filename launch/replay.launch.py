"""Play a bag into the agent.

`ros2 launch ada3d_ros replay.launch.py bag:=FOLDER model_path:=FOLDER`

Recorded stamps are years old, so the agent runs with use_sim_time and the player publishes /clock.
The player starts when the agent is active. Every argument of agent.launch.py can be given too
(topics, transports, model, ...).
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition

SHARE = Path(get_package_share_directory("ada3d_ros"))

SWITCH = ["true", "false", "True", "False"]

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 folder (mcap or sqlite3)"),
    DeclareLaunchArgument(
        "rate", default_value="1.0", description="speed of the replay; 2.0 = twice as fast"
    ),
    DeclareLaunchArgument(
        "loop",
        default_value="false",
        choices=SWITCH,
        description="play until interrupted; stamps keep rising",
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
    arguments = [value("bag"), "--rate", value("rate"), *flags]
    return [Node(package="ada3d_ros", executable="replay", output="screen", arguments=arguments)]


def generate_launch_description():
    """The agent in simulated time, and the player once the agent is active."""
    agent = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "agent.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    # Not before the agent listens: the player would take any other subscriber, RViz for one, as the
    # sign to begin.
    play = OnStateTransition(
        goal_state="active", entities=[OpaqueFunction(function=start_player)], handle_once=True
    )
    return LaunchDescription([*ARGUMENTS, RegisterEventHandler(play), agent])
