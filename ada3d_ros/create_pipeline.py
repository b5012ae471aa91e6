"""Which pipeline settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ada3d_ros.config import AgentConfig

if TYPE_CHECKING:
    from ada3d_ros.fleet.remote_pipeline import RemotePipeline
    from ada3d_ros.object_pipeline import ObjectPipeline
    from ada3d_ros.perception.detector import Detector
    from ada3d_ros.pipeline import Ada3DPipeline

    AnyPipeline: TypeAlias = Ada3DPipeline | ObjectPipeline | RemotePipeline

NO_MODEL_PATH = "none"  # model.path of a detector alone


def create_pipeline(
    config: AgentConfig, background: bool = False, detector: Detector | None = None
) -> AnyPipeline:
    """A server where model.remote names one, a detector alone where model.path is `none`, else a
    model. detector: in place of the one that detector.path names.

    Each pipeline's modules are imported here: without a model none of its code is loaded.
    """
    if config.model.remote:
        from ada3d_ros.fleet.remote_pipeline import RemotePipeline

        return RemotePipeline(config, background)
    if config.model.path == NO_MODEL_PATH:
        from ada3d_ros.object_pipeline import ObjectPipeline

        return ObjectPipeline(config, background, detector=detector)
    from ada3d_ros.pipeline import Ada3DPipeline

    return Ada3DPipeline(config, background, detector=detector)
