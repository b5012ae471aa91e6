"""ada3d_ros: a robot that can be asked about the place it is in (LLaVA-3D with AdaToken-3D pruning,
on ROS 2).
"""

import pkgutil

__version__ = "0.1.0"
# The generated interfaces (ada3d_ros.msg, .srv, .action) live in another folder: join both.
__path__ = pkgutil.extend_path(__path__, __name__)
