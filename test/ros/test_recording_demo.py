"""`ada3d demo --bag`: the real node on a recording with a real detector, and what it refuses."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnxruntime", reason="the extra [detect] is not installed")

from ada3d_ros.lab.demo import main


def test_a_desk_is_played_looked_at_and_asked_about(
    shared_dir: Path, tmp_path: Path, domain_id: int
) -> None:
    """As the page on real rooms has it; from a posed folder, at half the speed."""
    data = shared_dir / "data"
    lens = "0.2624 -0.9531 -0.0054 0.0026 1.1633"
    command = [sys.executable, "-m", "ada3d_ros", "demo", "--bag", str(data / "tum_fr1_rpy")]
    command += ["--detector", str(data / "detectors" / "picodet_s_416_coco.onnx")]
    command += ["--intrinsics", "517.3", "516.5", "318.6", "255.3", "--distortion", *lens.split()]
    command += ["--out", str(tmp_path), "--rate", "0.5", "--note", "CC BY 4.0"]
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr

    # The large things of the desk, each once, and what is not there.
    listed = re.findall(
        r"^(.+): [\d.]+ m from the camera, \d+(?: or more)? views$", done.stdout, re.MULTILINE
    )
    for kind in ("tv", "keyboard"):
        assert sum(name.endswith(kind) for name in listed) == 1, listed
    assert any(name.endswith("chair") for name in listed), listed
    assert "> Is there a couch?\nNo, none has been seen.\n" in done.stdout
    assert "> Who bought the " in done.stdout
    assert "\nUNKNOWN_KIND (" in done.stdout

    # The same on the page, and nothing from outside.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "|", page))
    assert f"|{len(listed)}||objects|" in text
    assert "CC BY 4.0" in text
    assert "http" not in page
    assert page.count("data:image/jpeg;base64,") >= 8


def test_what_cannot_be_played_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.onnx").write_bytes(b"no network")
    out = ["--out", str(tmp_path / "out")]
    detector = ["--detector", str(tmp_path / "none.onnx")]
    assert main(["--bag", str(tmp_path / "missing"), *detector, *out]) == 1
    assert (
        "missing is not there; name a rosbag2 or a posed RGB-D folder." in capsys.readouterr().err
    )
    with pytest.raises(SystemExit) as ended:
        main(["--bag", str(tmp_path)])
    assert ended.value.code == 2
    assert "--bag and --detector go together" in capsys.readouterr().err
