"""ROS parameters from the config dataclasses: one source of default, text, unit and range."""

from __future__ import annotations

import difflib
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ada3d_ros.config import SETTINGS, AgentConfig, PruningConfig, Setting, from_flat, to_flat
from ada3d_ros.config.cache import CacheConfig
from ada3d_ros.errors import Ada3DError, ConfigError

FIXED = "{name} is fixed while the node is configured; call cleanup, set it, configure again."


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` shows. We check ranges too, with a sentence that helps."""
    text = setting.description + (f" [{setting.unit}]" if setting.unit else "")
    text += f"; {setting.allowed}" if setting.choices or setting.pattern or setting.length else ""
    text += "; fixed while configured" if setting.read_only else ""
    result = ParameterDescriptor(name=setting.name, description=text, dynamic_typing=True)

    low, high = setting.low, setting.high
    if low is not None and high is not None:
        if isinstance(setting.default, float):
            floats = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            result.floating_point_range = [floats]
        elif type(setting.default) is int:  # a bool is an int too
            integers = IntegerRange(from_value=int(low), to_value=int(high), step=1)
            result.integer_range = [integers]
    return result


class ParameterBridge:
    """Keeps an AgentConfig equal to the node's parameters.

    A value that came with the start (YAML, command line) and does not pass is remembered in
    `errors`; configure fails on it and says so, and setting a good value clears it. Changes are
    checked all together, then applied; `check` raises ConfigError for what only the loaded model
    can refuse.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        on_change: Callable[[AgentConfig, set[str]], None],
        check: Callable[[AgentConfig], None] = lambda config: None,
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._check = check
        self._on_change = on_change
        self._lock = threading.Lock()

        # What the node was started with.
        self.errors: dict[str, str] = {}
        self.config = self._declare()
        self._warn_unknown()

        # What changes from here on.
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _declare(self) -> AgentConfig:
        declare = self._node.declare_parameter
        for name, setting in SETTINGS.items():
            value = setting.default
            default = list(value) if isinstance(value, tuple) else value
            try:
                declare(name, default, descriptor(setting))
            except (InvalidParameterValueException, InvalidParameterTypeException) as error:
                self.errors[name] = str(error)
                declare(name, default, descriptor(setting), ignore_override=True)
        return self._read()

    def _read(self) -> AgentConfig:
        """What the parameters say; the default replaces what does not pass, `errors` says why."""
        # Each value by itself.
        values = {}
        for name, value in _ours(self._node.get_parameters(list(SETTINGS))).items():
            try:
                values[name] = SETTINGS[name].check(value)
            except ConfigError as error:
                self.errors[name] = str(error)

        # All of them together: leave out those that the error names until the rest fits.
        while True:
            try:
                return from_flat(values)
            except ConfigError as error:
                self.errors["(together)"] = str(error)
                fitting = {name: value for name, value in values.items() if name not in str(error)}
                if len(fitting) == len(values):
                    raise
                values = fitting

    def _warn_unknown(self) -> None:
        given = getattr(self._node, "_parameter_overrides", {})
        for name in given:
            if not self._node.has_parameter(name):
                near = difflib.get_close_matches(name, SETTINGS, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "; see docs/parameters.md."
                self._node.get_logger().warning(f"unknown parameter {name!r} is ignored{hint}")

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Never raises: that would end the node."""
        try:
            self._judge(_ours(parameters))
        except Ada3DError as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # of ours; the setting is not taken
            self._node.get_logger().error(traceback.format_exc())
            return SetParametersResult(successful=False, reason=f"internal error: {error!r}")
        return SetParametersResult(successful=True)

    def _judge(self, changed: dict[str, Any]) -> None:
        """Raise ConfigError where these changes cannot be taken."""
        try:
            config = from_flat(changed, self.config)
        except ConfigError:  # what is fixed now is not to be mended by another setting
            for name in changed if self._is_configured() else ():
                if SETTINGS[name].read_only:
                    raise ConfigError(FIXED.format(name=name)) from None
            raise
        wanted, current = to_flat(config), to_flat(self.config)

        # What the model can refuse, asked only where pruning changes: a file of a calibration
        # or of queries gone missing must not refuse anything else.
        if _pruned(config) != _pruned(self.config):
            self._check(config)

        # What is fixed while configured.
        for name in changed if self._is_configured() else ():
            if SETTINGS[name].read_only and wanted[name] != current[name]:
                raise ConfigError(FIXED.format(name=name))

    def _apply(self, parameters: Sequence[Parameter]) -> None:
        changed = _ours(parameters)
        if not changed:
            return
        with self._lock:
            for name in (*changed, "(together)"):
                self.errors.pop(name, None)
            self.config = self._read()
        self._on_change(self.config, set(changed))


def _pruned(config: AgentConfig) -> tuple[PruningConfig, CacheConfig]:
    """What decides which spatial tokens a question or the cached scene keeps."""
    return config.pruning, config.cache.as_built()


def _ours(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Values by name, arrays as lists; without parameters of rclpy or of other people."""
    return {
        p.name: list(p.value) if hasattr(p.value, "tolist") else p.value
        for p in parameters
        if p.name in SETTINGS
    }
