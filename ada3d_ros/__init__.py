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
    installed it; of a wheel, which has none, what pip recorded beside it. A wheel may lie in an
    environment whose share/ has an older package.xml: its record goes first.
    """
    folders = Path(__file__).resolve().parents
    if found := _declared(folders[1]):
        return found
    for record in folders[1].glob(f"{__name__}-*.dist-info"):
        from importlib.metadata import Distribution

        return Distribution.at(record).version
    shared = (_declared(folder / "share" / __name__) for folder in folders)
    return next(filter(None, shared), "unknown")


def _declared(folder: Path) -> str:
    """The version in a folder's package.xml; '' where that is not ours."""
    file = folder / "package.xml"
    if not file.is_file():
        return ""
    found = re.search(r"<name>ada3d_ros</name>\s*<version>(.+?)</version>", file.read_text())
    return found[1] if found else ""


__version__ = _read_version()
