"""A lifecycle node that lives on when it is asked for a transition that is not possible."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode

from ada3d_ros.ros.guard import guarded


def _refuse(self: Any, error: Exception, request: Any, response: Any) -> Any:
    response.success = False
    return response


class ManagedNode(LifecycleNode):
    """Answers `success: false` to an impossible ~/change_state, with one line in the log.

    rclpy lets the error leave the service callback, which ends `spin()`: a second launch of the
    same node, or a lifecycle manager beside `autostart`, killed the healthy one.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._change_state = self._service_change_state.callback  # rclpy's, for possible ones
        self._service_change_state.callback = self._on_change_state

    @guarded(_refuse)
    def _on_change_state(self, request: Any, response: Any) -> Any:
        """~/change_state; the transition is named by its label if there is one, else by its id."""
        wanted = request.transition
        possible = {
            number: label for number, label, *_ in self._state_machine.available_transitions
        }
        if wanted.label in possible.values() if wanted.label else wanted.id in possible:
            return self._change_state(request, response)

        known = {number: label for number, label, *_ in self._state_machine.transition_graph}
        label = wanted.label[:80] or known.get(wanted.id, "unknown")
        choices = ", ".join(f"{label} ({number})" for number, label in possible.items())
        self.get_logger().warning(
            f"change_state: transition {label!r} (id {wanted.id}) is not possible in state"
            f" {self._state_machine.current_state[1]!r}; possible: {choices or 'none'}."
        )
        response.success = False
        return response

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        """Log an error that nothing else handles."""
        self.get_logger().error(f"{where}: {error!r}\n{trace}")

    def destroy_node(self) -> None:
        """Destroy the node. rclpy leaves the lifecycle services, and with them the node, alive in
        the graph.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()
