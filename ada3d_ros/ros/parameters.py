"""ROS parameters declared from the config dataclasses: one source for default, description, unit
and range.
"""

from __future__ import annotations

import difflib
import threading
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
                FloatingPointRange(
                    from_value=float(setting.low), to_value=float(setting.high), step=0.0
                )
            ]
        elif type(setting.default) is int:
            result.integer_range = [
                IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)
            ]
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
        self.errors: dict[str, str] = {}
        self.config = self._declare()
        self._warn_unknown()
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _declare(self) -> AgentConfig:
        for name, setting in SETTINGS.items():
            default = (
                list(setting.default) if isinstance(setting.default, tuple) else setting.default
            )
            try:
                self._node.declare_parameter(name, default, descriptor(setting))
            except (InvalidParameterValueException, InvalidParameterTypeException) as error:
                self.errors[name] = str(error)
                self._node.declare_parameter(
                    name, default, descriptor(setting), ignore_override=True
                )
        return self._read()

    def _read(self) -> AgentConfig:
        """What the parameters say; the default stands in for a value that does not pass, which goes
        to `errors`.
        """
        values = {}
        for name, value in self._ours(
            [self._node.get_parameter(name) for name in SETTINGS]
        ).items():
            try:
                values[name] = SETTINGS[name].check(value)
            except ConfigError as error:
                self.errors[name] = str(error)
        while True:
            try:
                return from_flat(values)
            except ConfigError as error:  # settings that do not fit together: the text names them
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

    def _ours(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        return {
            p.name: list(p.value) if hasattr(p.value, "tolist") else p.value
            for p in parameters
            if p.name in SETTINGS
        }

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        changed = self._ours(parameters)
        try:
            config = from_flat(changed, self.config)
            wanted, current = to_flat(config), to_flat(self.config)
            if (
                config.pruning != self.config.pruning
            ):  # a calibration file gone missing must not refuse anything else
                self._check(config)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._is_configured():
            for name in changed:
                if SETTINGS[name].read_only and wanted[name] != current[name]:
                    return SetParametersResult(
                        successful=False,
                        reason=(
                            f"{name} is fixed while the node is configured; call cleanup, set it,"
                            " configure again."
                        ),
                    )
        return SetParametersResult(successful=True)

    def _apply(self, parameters: Sequence[Parameter]) -> None:
        changed = self._ours(parameters)
        if not changed:
            return
        with self._lock:
            for name in (*changed, "(together)"):
                self.errors.pop(name, None)
            self.config = self._read()
        self._on_change(self.config, set(changed))
