"""Write .stamp.json, the commit and cleanness of this checkout, to be carried along to a machine
without git: python tools/write_stamp.py
"""

from __future__ import annotations

import sys

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.results import write_stamp

if __name__ == "__main__":
    try:
        print(f"wrote {write_stamp()}")
    except ConfigError as error:
        sys.exit(str(error))
