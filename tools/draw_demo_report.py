"""The first screen of a report of `ada3d demo`, docs/images/demo_report.png, or another part of it.

    python tools/draw_demo_report.py [demo_out/report.html] [--out docs/images/demo_report.png]
        [--width 1280] [--top 0] [--height 790]

A name that ends in .jpg makes a JPEG, for photographs. Needs chromium, which lays the page out; it
asks nobody outside.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WIDTH_PX, HEIGHT_PX = 1280, 790
COLOURS = 128  # of the palette: a third of the bytes
QUALITY = 80  # of a JPEG


def main() -> None:
    parser = argparse.ArgumentParser(description="draw the first screen of the demo's report")
    parser.add_argument("report", type=Path, nargs="?", default=Path("demo_out/report.html"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/demo_report.png")
    parser.add_argument("--width", type=int, default=WIDTH_PX, help="of the window, px")
    parser.add_argument("--top", type=int, default=0, help="where the part begins, px")
    parser.add_argument("--height", type=int, default=HEIGHT_PX, help="of the part, px")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        parser.error("chromium is not installed: `sudo apt install chromium`.")

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        bottom = options.top + options.height
        command += [f"--screenshot={shot}", f"--window-size={options.width},{bottom}"]
        command += [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
        subprocess.run([*command, options.report.resolve().as_uri()], check=True, timeout=120)
        part = Image.open(shot).convert("RGB").crop((0, options.top, options.width, bottom))
        if options.out.suffix == ".jpg":
            part.save(options.out, quality=QUALITY, optimize=True)
        else:
            part.quantize(COLOURS).save(options.out, optimize=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
