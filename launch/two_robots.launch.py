"""Two robots, one agent each: `ros2 launch ada3d_ros two_robots.launch.py model_path:=FOLDER`

An example to copy. Each agent lives in its robot's namespace, so that nothing of one reaches the
other: topics, services and parameters are relative names, TF as well (tf_topic:=/tf
tf_static_topic:=/tf_static where both are in one tree). The port of the page is its own, and so is
the scene that autosave:=FOLDER saves, which has the namespace's name. Other arguments of
agent.launch.py hold for both; `first` and `second` are the namespaces.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource

AGENT = Path(get_package_share_directory("ada3d_ros")) / "launch" / "agent.launch.py"
# argument -> namespace, port of the page
ROBOTS = {"first": ("robot1", "8090"), "second": ("robot2", "8091")}
TF = {"tf_topic": "tf", "tf_static_topic": "tf_static"}  # relative: each robot's own


def start_agent(context, robot):
    """One agent; what it sets stays in its group."""
    name = context.launch_configurations[robot]
    given = {"namespace": name, "web_port": ROBOTS[robot][1]}
    if context.launch_configurations.get("autosave"):  # a scene without a store has no name
        given["scene"] = name.strip("/").replace("/", "_")
    agent = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(AGENT)), launch_arguments=given.items()
    )
    return [GroupAction([agent])]


def generate_launch_description():
    """The two namespaces, and an agent in each."""
    arguments = [
        DeclareLaunchArgument(robot, default_value=name, description="namespace of this robot")
        for robot, (name, _) in ROBOTS.items()
    ]
    arguments += [
        DeclareLaunchArgument(topic, default_value=name, description="tf2_msgs/TFMessage")
        for topic, name in TF.items()
    ]
    agents = [OpaqueFunction(function=start_agent, args=[robot]) for robot in ROBOTS]
    return LaunchDescription([*arguments, *agents])
