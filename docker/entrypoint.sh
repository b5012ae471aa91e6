#!/usr/bin/env bash
# Source the distribution, the Python environment and the workspace, then become the command that was asked for.
# ROS_ROOT, ADA3D_VENV and WORKSPACE are where the image has them; only tests say otherwise.
set -eo pipefail
source "${ROS_ROOT:-/opt/ros/${ROS_DISTRO:?the image of a ROS distribution sets ROS_DISTRO}}/setup.bash"
source "${ADA3D_VENV:-/opt/ada3d}/bin/activate"
source "${WORKSPACE:-/ws}/install/setup.bash"
if [ $# -eq 0 ]; then
  echo "nothing to run: name a command, for example: ros2 launch ada3d_ros agent.launch.py" >&2
  exit 2
fi
exec "$@"
