"""What ~/status says: the state of the node, its scene, its faults and its standing questions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from std_msgs.msg import Header

from ada3d_ros.msg import AgentStatus

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode


def status_msg(node: AgentNode, jump_text: str, jump_epoch: int) -> AgentStatus:
    """The status now; its faults are logged where they are new. jump_text is told while the scene
    of jump_epoch lasts.
    """
    state, detail = node.state_and_detail()
    faults = node.health.faults()
    node.health.log(faults)
    namesakes = node.namesakes
    if namesakes not in detail:  # it counts in every state
        detail = f"{namesakes} {detail}"
    now = node.get_clock().now()

    # Until a model is loaded there is no scene and no device to speak of.
    message = AgentStatus(
        header=Header(stamp=now.to_msg(), frame_id=node.config.world_frame),
        state=state,
        detail=detail,
        faults=[str(fault) for fault in faults if fault.severity],
        queued=node.worker.queued,
        watches=node.standing.to_msgs(),
        gpu_memory_used_mib=math.nan,
        gpu_memory_total_mib=math.nan,
    )
    pipeline = node.pipeline
    if pipeline is not None:
        scene = pipeline.scene_state()
        message.keyframes = scene.num_keyframes
        message.scene_epoch, message.scene_version = scene.epoch, scene.version
        message.scene = node.scenes.name
        if scene.epoch == jump_epoch:
            message.detail += f" ({jump_text})"
        loaded = node.scenes.loaded_text(now.nanoseconds)
        message.detail += f" ({loaded})" if loaded else ""
        message.gpu_memory_used_mib, message.gpu_memory_total_mib = pipeline.device_memory_mib()
    return message
