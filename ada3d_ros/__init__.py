"""ada3d_ros: a robot that can be asked about the place it is in (LLaVA-3D with AdaToken-3D pruning,
on ROS 2).
"""

import pkgutil
import re
from pathlib import Path

# The generated interfaces (ada3d_ros.msg, .srv, .action) live in another folder: join both.
__path__ = pkgutil.extend_path(__path__, __name__)


def _read_version() -> str:
    """The version that package.xml says: beside this folder in a checkout, in share/ where colcon
    installed it; of a wheel, which has none, what pip recorded.
    """
    folders = Path(__file__).resolve().parents
    for candidate in (folders[1], *(f / "share" / __name__ for f in folders)):
        file = candidate / "package.xml"
        if file.is_file():
            found = re.search(
                r"<name>ada3d_ros</name>\s*<version>(.+?)</version>", file.read_text()
            )
            if found:
                return found[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"


__version__ = _read_version()
