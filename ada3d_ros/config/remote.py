"""Settings of a robot whose questions a server answers (`model.remote`)."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.config.setting import setting


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    robot_id: str = setting(
        "",
        "this robot's name at the server, where its scene is kept under it; empty = the host name",
        pattern="([A-Za-z0-9][A-Za-z0-9._-]{0,63})?",
        form="1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit",
        read_only=True,
    )
    token_file: str = setting(
        "",
        "file with the token that the server gave this robot (`ada3d serve --token-of`); empty ="
        " none is sent",
        read_only=True,
    )
    ca_file: str = setting(
        "",
        "certificate (PEM) that the server's must be signed by; empty = those that the system"
        " trusts",
        read_only=True,
    )
    retry_sec: float = setting(
        8.0,
        "how long a question that lost its server is tried again before it fails, or the fall-back"
        " answers",
        unit="s",
        low=0.0,
        high=600.0,
    )
    fallback: str = setting(
        "",
        "model.path of a model that answers here while the server is lost (`embedded`, a folder);"
        " empty = the question fails. It is loaded when it is first needed",
        read_only=True,
    )
