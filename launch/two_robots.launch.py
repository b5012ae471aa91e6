"""Two robots, one agent each: `ros2 launch ada3d_ros two_robots.launch.py model_path:=FOLDER`

An example to copy. Each agent lives in its robot's namespace, so that nothing of one reaches the
other: topics, services and parameters are relative names. Arguments of agent.launch.py hold for
both; `first` and `second` are the namespaces.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

AGENT = Path(get_package_share_directory("ada3d_ros")) / "launch" / "agent.launch.py"
ROBOTS = {"first": "robot1", "second": "robot2"}  # argument -> namespace


def start_agent(robot):
    """One agent; what it sets stays in its group."""
    agent = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(AGENT)),
        launch_arguments={"namespace": LaunchConfiguration(robot)}.items(),
    )
    return GroupAction([agent])


def generate_launch_description():
    """The two namespaces, and an agent in each."""
    arguments = [
        DeclareLaunchArgument(robot, default_value=name, description="namespace of this robot")
        for robot, name in ROBOTS.items()
    ]
    return LaunchDescription([*arguments, *map(start_agent, ROBOTS)])
