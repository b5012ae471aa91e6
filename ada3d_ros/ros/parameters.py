"""ROS parameters declared from the config dataclasses: one source for default, description, unit and range."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ada3d_ros.config import SETTINGS, AgentConfig, Setting, from_flat, to_flat
from ada3d_ros.errors import ConfigError


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` shows. Ranges are also checked by us, with a sentence that helps."""
    text = setting.description + (f" [{setting.unit}]" if setting.unit else "")
    text += f"; {setting.allowed}" if setting.choices or setting.pattern or setting.length else ""
    text += "; fixed while configured" if setting.read_only else ""
    result = ParameterDescriptor(name=setting.name, description=text, dynamic_typing=True)
    if setting.low is not None and setting.high is not None:
        if isinstance(setting.default, float):
            result.floating_point_range = [
                FloatingPointRange(from_value=float(setting.low), to_value=float(setting.high), step=0.0)
            ]
        elif type(setting.default) is int:
            result.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
    return result


class ParameterBridge:
    """Keeps an AgentConfig equal to the node's parameters.

    A value that came with the start (YAML, command line) and does not pass is remembered in `errors`; configure fails
    on it and says so, and setting a good value clears it. Changes are checked all together, then applied.
    """

    def __init__(
        self, node: Node, is_configured: Callable[[], bool], on_change: Callable[[AgentConfig, set[str]], None]
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._on_change = on_change
        self._lock = threading.Lock()
        self.errors: dict[str, str] = {}
        self.config = self._declare()
        self._warn_unknown()
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _declare(self) -> AgentConfig:
        values = {}
        for name, setting in SETTINGS.items():
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            try:
                value = self._node.declare_parameter(name, default, descriptor(setting)).value
                values[name] = setting.check(value)
            except (ConfigError, InvalidParameterValueException, InvalidParameterTypeException) as error:
                self.errors[name] = str(error)
                if not self._node.has_parameter(name):
                    self._node.declare_parameter(name, default, descriptor(setting), ignore_override=True)
        try:
            return from_flat(values)
        except ConfigError as error:
            self.errors["(together)"] = str(error)
            return AgentConfig()

    def _warn_unknown(self) -> None:
        given = getattr(self._node, "_parameter_overrides", {})
        for name in given:
            if not self._node.has_parameter(name):
                near = difflib.get_close_matches(name, SETTINGS, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "; see docs/parameters.md."
                self._node.get_logger().warning(f"unknown parameter {name!r} is ignored{hint}")

    def _ours(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        return {
            p.name: list(p.value) if hasattr(p.value, "tolist") else p.value for p in parameters if p.name in SETTINGS
        }

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        changed = self._ours(parameters)
        if self._is_configured():
            for name, value in changed.items():
                if SETTINGS[name].read_only and value != to_flat(self.config)[name]:
                    return SetParametersResult(
                        successful=False,
                        reason=f"{name} is fixed while the node is configured; call cleanup, set it, configure again.",
                    )
        try:
            from_flat(changed, self.config)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: Sequence[Parameter]) -> None:
        changed = self._ours(parameters)
        if not changed:
            return
        with self._lock:
            self.config = from_flat(changed, self.config)
            for name in changed:
                self.errors.pop(name, None)
            self.errors.pop("(together)", None)
        self._on_change(self.config, set(changed))
