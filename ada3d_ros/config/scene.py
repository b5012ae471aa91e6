"""Settings of the scene: how old it may be, and where it is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ada3d_ros.config.setting import setting
from ada3d_ros.errors import ConfigError, InvalidRequestError

SCENE_NAME = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"  # a folder's name on every disk, no option
UNNAMED = "default"  # the scene that is saved by itself without a scene.name
ONLY_STORE = (
    "scene.store = {store!r} and scene.autosave = {autosave!r}: a node has one store. Name the same"
    " folder, or leave scene.store empty."
)


@dataclass(frozen=True, slots=True)
class SceneConfig:
    max_age_sec: float = setting(
        0.0,
        "questions about an older scene get STALE_SCENE; 0 = keep for ever",
        unit="s",
        low=0.0,
        high=86400.0,
    )
    autosave: str = setting(
        "",
        "folder of the store that the scene is saved to while it grows, and loaded from at start;"
        " empty = it is not saved by itself",
        read_only=True,
    )
    store: str = setting(
        "",
        "folder of the store for ~/save_scene, ~/load_scene and questions that name a scene; empty"
        " = that of scene.autosave",
        read_only=True,
    )
    name: str = setting(
        "",
        "scene of the store to go on with, as `kitchen`; empty = `default` with scene.autosave,"
        " else none",
        pattern=f"({SCENE_NAME})?",
        read_only=True,
    )
    images: str = setting(
        "jpeg",
        "how keyframes are saved: jpeg = colour as JPEG of quality 90, depth to the millimetre;"
        " lossless = as they are",
        choices=("jpeg", "lossless"),
        read_only=True,
    )
    max_mb: float = setting(
        2000.0,
        "size of a saved scene; beyond it the oldest keyframes that are not in use are deleted; 0 ="
        " no limit",
        unit="MB",
        low=0.0,
        high=1e6,
        read_only=True,
    )

    def __post_init__(self) -> None:
        if self.store and self.autosave and self.store != self.autosave:
            raise ConfigError(ONLY_STORE.format(store=self.store, autosave=self.autosave))
        if self.name and not self.folder:
            raise ConfigError(
                f"scene.name = {self.name!r} and there is no store: set scene.autosave (or"
                " scene.store) to its folder."
            )

    @property
    def folder(self) -> str:
        """Of the store; '' without one."""
        return self.store or self.autosave

    @property
    def name_in_use(self) -> str:
        """Of the scene to go on with; '' = none."""
        return self.name or (UNNAMED if self.autosave else "")


@dataclass(frozen=True, slots=True)
class WatchConfig:
    min_period_sec: float = setting(
        5.0,
        "a standing question (~/watch) is not asked again sooner, unless it says otherwise",
        unit="s",
        low=0.1,
        high=86400.0,
    )
    max_count: int = setting(20, "standing questions at once", low=0, high=1000)
    moved_m: float = setting(
        0.25,
        "a box this far from where it was told last is news",
        unit="m",
        low=0.01,
        high=100.0,
    )


def quoted(text: str) -> str:
    """What somebody sent, in a sentence: quoted, and cut where it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:76]!r}... ({len(text)} characters)"


def check_scene_name(name: str) -> str:
    """The name. Raises InvalidRequestError for one that scenes cannot have."""
    if not re.fullmatch(SCENE_NAME, name):
        raise InvalidRequestError(
            f"scene = {quoted(name)}; allowed: 1 to 64 letters, digits, _ and -, not - first, as in"
            " 'kitchen-2'."
        )
    return name
