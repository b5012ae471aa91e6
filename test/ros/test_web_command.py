"""`ada3d web` before it serves: what is missing, taken or open to everybody is refused."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("uvicorn", reason="uvicorn is absent: pip install 'ada3d_ros[web]'")

from ada3d_ros.errors import ConfigError
from ada3d_ros.web import server
from ada3d_ros.web.command import address_of, listen, main, read_token


def test_no_token_no_other_machines(capsys: Any) -> None:
    assert main(["--host", "0.0.0.0", "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "--host 0.0.0.0" in said
    assert "--token" in said


def test_a_port_that_is_taken_is_an_error(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70000, "--port 70000; allowed: 0 to 65535"),
        ("127.0.0.1", -1, "--port -1; allowed"),
        ("192.0.2.1", 0, "cannot listen at port 0 of 192.0.2.1"),  # of no machine
    ],
)
def test_where_nobody_can_listen(host: str, port: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        listen(host, port)


def test_three_js_that_is_not_installed(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert main(["--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "nicegui, which is not installed" in said
    assert "constraints/web.txt" in said


def test_three_js_of_another_version(monkeypatch: Any, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("nicegui", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(server, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match="another version"):
        server.find_three()


def test_the_installed_three_js_has_what_the_page_uses() -> None:
    text = server.find_three().read_text()
    exported = text[text.rindex("export{") :]
    assert "as THREE" in exported
    assert "OrbitControls" in exported


def test_tokens(tmp_path: Path) -> None:
    assert read_token("") == ""
    assert len(read_token("new")) >= 24
    assert read_token("new") != read_token("new")
    file = tmp_path / "token"
    file.write_text("abcdefgh12345678\n")
    assert read_token(str(file)) == "abcdefgh12345678"
    for wrong in ("short", "x" * 15, "with spaces in it all", "semicolon;semicolon"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="16 or more"):
            read_token(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "nothing"))


def test_addresses() -> None:
    assert address_of("127.0.0.1", 8090, "") == "http://127.0.0.1:8090/"
    assert address_of("::1", 8090, "abc") == "http://[::1]:8090/?token=abc"
    for every in ("0.0.0.0", "::", ""):
        assert address_of(every, 1, "") == f"http://{socket.gethostname()}:1/"
