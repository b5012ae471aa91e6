"""vision_msgs, which need not be there: its types where they import, else how to get them."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec

INSTALL = f"apt install ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-vision-msgs"


def vision_type(name: str) -> tuple[type | None, str]:
    """A message type of vision_msgs by its name, else None; and which, in words."""
    if find_spec("vision_msgs") is None:
        return None, "vision_msgs is not installed"
    try:
        found: type = getattr(importlib.import_module("vision_msgs.msg"), name)
    except Exception as error:  # also: built for another Python
        return None, f"vision_msgs does not import: {error!r}"
    return found, "present"
