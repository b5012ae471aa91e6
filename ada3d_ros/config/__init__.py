"""Every setting of the agent, its default, unit and range, written once, in the dataclasses here.

ROS parameters are declared from them (ros/parameters.py), YAML files only override them
(`load_config`), and docs/parameters.md is generated from them. Knows nothing of ROS or torch.
"""

from ada3d_ros.config.agent import AgentConfig, DepthConfig, KeyframeConfig, ModelConfig
from ada3d_ros.config.flat import SETTINGS, from_flat, iter_settings, load_config, to_flat
from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.config.setting import Setting

__all__ = [
    "SETTINGS",
    "AgentConfig",
    "DepthConfig",
    "KeyframeConfig",
    "ModelConfig",
    "PruningConfig",
    "Setting",
    "from_flat",
    "iter_settings",
    "load_config",
    "to_flat",
]
