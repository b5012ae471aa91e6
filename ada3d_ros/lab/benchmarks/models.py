"""Models and scenes for benchmarks: sizes of performance studies, random weights, rooms.

What every suite sets up the same way is here: `BenchSettings` from the command line, a decoder, a
scene, a policy by name.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from ada3d_ros.config import AgentConfig, ModelConfig, from_flat
from ada3d_ros.engine.build_plan import plan_allocation
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext, pruner_for
from ada3d_ros.lab.benchmarks.shapes import NO_TOKEN_ENDS, BenchShape, choose_dtype
from ada3d_ros.model.config import LlavaConfig, VisionConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.spatial import pool_spatial_tokens
from ada3d_ros.model.startup import EMBEDDED, embedded_model_path, open_model
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.queries_file import QUERIES_FILE, HeadSizes, read_queries
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import scene_ranking
from ada3d_ros.pruning.strategy import Candidates, LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence, SpatialTokens

# Tokens before and after the scene, as LLaVA-3D's template has them.
SYSTEM_TEXT, QUESTION_TEXT = 36, 24
PROXY_TEXT = 15  # of a general prompt that rides along
FEATURE_WIDTH = 1024  # of CLIP ViT-L
ROOM_M = (8.0, 6.0, 2.8)  # a larger one where its surface has too few voxels for a scene
VOXEL_M = 0.2
VIEWS = 20


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How one suite runs: the model's sizes, where, in which dtype, how often, from which seed."""

    shape: BenchShape
    device: torch.device
    dtype: torch.dtype
    repetitions: int
    seed: int

    @classmethod
    def from_options(
        cls,
        shape: BenchShape,
        options: argparse.Namespace,
        device: torch.device,
        cpu_repetitions: int = 5,
    ) -> BenchSettings:
        """options: those of `ada3d bench`; without --repetitions 20 on a GPU."""
        dtype = choose_dtype(shape, options.precision, device)
        default = 20 if device.type == "cuda" else cpu_repetitions
        return cls(shape, device, dtype, options.repetitions or default, options.seed)

    def make_scene(self, num_spatial: int) -> BenchScene:
        """A scene of so many spatial tokens, as wide as the decoder."""
        return make_scene(num_spatial, self.shape.hidden, self.device, self.dtype, self.seed)

    def label(self, num_spatial: int) -> str:
        """Of a progress bar."""
        return f"shape {self.shape.name}, N = {num_spatial}"

    def head(self, suite: str) -> dict[str, Any]:
        """What every suite's results begin with."""
        shape = self.shape
        return {
            "suite": suite,
            "shape": shape.name,
            "backbone": shape.backbone,
            "n": self.repetitions,
            "random_weights": not shape.trained,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "sizes": {
                "hidden": shape.hidden,
                "layers": shape.layers,
                "intermediate": shape.intermediate,
                "kv_heads": shape.config.num_kv_heads,
            },
        }


def make_model(
    shape: BenchShape, device: torch.device, dtype: torch.dtype
) -> tuple[LlamaDecoder, Llava3D | None]:
    """The decoder, and the whole model where the shape has a tower.

    Random weights made on the device: N(0, 0.02), norms 1. Of a trained shape without a tower the
    embedded model's decoder, which no token ends.
    """
    if shape.trained and shape.vision is None:
        return _embedded_decoder(device, dtype), None
    with torch.device("meta"):
        made = (
            LlamaDecoder(shape.config)
            if shape.vision is None
            else Llava3D(LlavaConfig(shape.config, shape.vision))
        )
    made = made.to(dtype)
    # Geometry stays float32, as in a loaded checkpoint.
    if isinstance(made, Llava3D):
        made.position_embedding.float()
        made.click_encoder.float()
    made = made.to_empty(device=device).requires_grad_(False).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(0.0, 0.02)
    decoder = made.decoder if isinstance(made, Llava3D) else made
    decoder.prepare()
    return decoder, made if isinstance(made, Llava3D) else None


def _embedded_decoder(device: torch.device, dtype: torch.dtype) -> LlamaDecoder:
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    threads = torch.get_num_threads()
    loaded, _ = open_model(ModelConfig(path=EMBEDDED, device=str(device), precision=name))
    torch.set_num_threads(threads)
    decoder = loaded.model.decoder
    decoder.config = dataclasses.replace(decoder.config, eos_ids=NO_TOKEN_ENDS)
    return decoder


def recorded_queries(shape: BenchShape, decoder: LlamaDecoder) -> RecordedQueries | None:
    """The questions that the shape's model was recorded with; None for random weights."""
    if not shape.trained:
        return None
    config = decoder.config
    sizes = HeadSizes(config.num_layers, config.num_heads, config.head_dim)
    return RecordedQueries(
        read_queries(embedded_model_path() / QUERIES_FILE, sizes), decoder.device
    )


def make_policy(strategy: str, keep_ratio: float, seed: int = 0) -> Policy:
    """A strategy at its default settings. Raises ConfigError for a name or ratio out of reach."""
    settings = from_flat({"pruning.strategy": strategy, "pruning.seed": seed})
    return Policy.from_config(settings.pruning, keep_ratio)


@dataclass(frozen=True, eq=False, slots=True)
class BenchScene:
    """Spatial tokens as pooling would give them, and the embeddings that the projector would make.

    embeds (N, D): of the spatial tokens; text (SYSTEM_TEXT + QUESTION_TEXT, D): before and after.
    """

    candidates: Candidates
    embeds: torch.Tensor
    text: torch.Tensor

    def __len__(self) -> int:
        """N, the number of spatial tokens."""
        return len(self.embeds)

    @property
    def system(self) -> torch.Tensor:
        """(SYSTEM_TEXT, D): the text before the scene."""
        return self.text[:SYSTEM_TEXT]

    @property
    def question(self) -> torch.Tensor:
        """(QUESTION_TEXT, D): the text after the scene."""
        return self.text[SYSTEM_TEXT:]

    @property
    def tokens(self) -> SpatialTokens:
        """All of them, before the projector."""
        c = self.candidates
        return SpatialTokens(c.features, c.xyz_m, c.num_patches, c.voxel_size_m)

    def build_prefix(
        self, decoder: LlamaDecoder, int8: bool = False, pruner: ScenePruner | None = None
    ) -> ScenePrefix:
        """The cached scene: system text and all tokens through the decoder, in default chunks, or
        pruned on the way.
        """
        total = len(self)
        chosen = ChosenTokens(self.tokens, torch.arange(total, device=self.embeds.device), total)
        context = SceneContext(SceneSnapshot(), chosen.tokens, chosen, self.embeds)
        options = PrefixOptions(AgentConfig().cache.chunk_tokens, int8, pruner=pruner)
        prefix = ScenePrefix(decoder, self.prompt(), context, options)
        while prefix.step():
            pass
        return prefix

    def build_scene_pruner(
        self,
        decoder: LlamaDecoder,
        settings: AgentConfig | None = None,
        queries: RecordedQueries | None = None,
    ) -> ScenePruner:
        """What prunes this scene while it is built, by default as the node does: ranked by recorded
        queries where there are any, else one general prompt of PROXY_TEXT tokens rides along.
        """
        settings = settings or AgentConfig()
        placed = rows_of(self.tokens).num_placed
        sizes = PromptSizes(placed, len(self.text) + len(self) - placed, placed)
        shape, policy = (
            DecoderShape.from_config(decoder.config),
            Policy.from_config(settings.pruning),
        )
        allocation = plan_allocation(settings, policy, shape, None, sizes)
        ranking = scene_ranking(settings.cache, settings.pruning.seed, queries)
        riding = (self.question[:PROXY_TEXT],) if ranking.rides else ()
        return ScenePruner(allocation, ranking, riding, settings.pruning.n_min)

    def build_pruner(self, decoder: LlamaDecoder, policy: Policy) -> LayerPruner | None:
        """For the prompt with all spatial tokens; None where the policy drops none in the LLM."""
        prompt = self.prompt()
        return pruner_for(decoder, policy, prompt, rows_of(prompt).num_placed)

    def prompt(self, kept: torch.Tensor | None = None) -> PromptSequence:
        """The prompt with all spatial tokens, or with those kept (k,) int64."""
        spatial, xyz = self.embeds, self.candidates.xyz_m
        if kept is not None:
            spatial, xyz = spatial[kept], xyz[kept]
        embeds = torch.cat((self.system, spatial, self.question))
        span = (SYSTEM_TEXT, SYSTEM_TEXT + len(spatial))
        return PromptSequence(embeds, torch.arange(len(embeds), device=embeds.device), span, xyz)


def make_scene(
    count: int, hidden: int, device: torch.device, dtype: torch.dtype, seed: int
) -> BenchScene:
    """`count` voxels on the floor and walls of a room, x-major; embeddings of width `hidden`.

    Features of neighbours are alike, as a real room's are.
    """
    # Voxels of the room's surface, of which a random part is occupied.
    points, width_m = _surface(ROOM_M), ROOM_M[0]
    while len(points) < count:
        width_m *= 2
        points = _surface((width_m, *ROOM_M[1:]))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.sort(torch.randperm(len(points), generator=generator)[:count]).values
    xyz = points[chosen]

    # Features that vary smoothly over the room, and noise.
    waves = torch.randn(3, FEATURE_WIDTH, generator=generator)
    features = torch.sin(xyz @ waves) + 0.5 * torch.randn(count, FEATURE_WIDTH, generator=generator)
    relevance = torch.rand(count, generator=generator)
    ones = torch.ones(count, dtype=torch.int64)
    candidates = Candidates(
        features.to(device, dtype), xyz.to(device), ones.to(device), VOXEL_M, relevance.to(device)
    )

    # What the projector and the embedding table would give.
    embeds = torch.randn(count, hidden, generator=generator).to(device, dtype)
    text = torch.randn(SYSTEM_TEXT + QUESTION_TEXT, hidden, generator=generator).to(device, dtype)
    return BenchScene(candidates, embeds, text)


def _surface(room_m: tuple[float, float, float]) -> torch.Tensor:
    """(n, 3) float32 points of the voxels on the floor and the walls of a room of this size."""
    axes = [torch.arange(0.0, side + 1e-6, VOXEL_M) for side in room_m]
    grid, size = torch.cartesian_prod(*axes), torch.tensor(room_m)
    on_surface = (
        (grid[:, 2] == 0)
        | (grid[:, :2] < 1e-6).any(dim=1)
        | (grid[:, :2] > size[:2] - 1e-3).any(dim=1)
    )
    return grid[on_surface]


@dataclass(frozen=True, eq=False, slots=True)
class Camera:
    """What a scene's views give the model.

    pixels (V, 3, S, S), normalised; patch_xyz (V, p, p, 3) float32, world: a point for every patch,
    so spread over the scene's voxels that pooling finds exactly those.
    """

    pixels: torch.Tensor
    patch_xyz: torch.Tensor

    def encode_scene(self, model: Llava3D) -> SpatialTokens:
        """Vision tower and pooling: the spatial tokens (N, C) before the projector."""
        features = model.encode_views(self.pixels.to(model.decoder.dtype))
        return pool_spatial_tokens(features, self.patch_xyz, model.position_embedding, VOXEL_M)


def make_camera(vision: VisionConfig, scene: BenchScene, seed: int) -> Camera:
    """VIEWS random images, or more, that together see every voxel of the scene."""
    side, p = vision.image_size, vision.patches_per_side
    xyz = scene.candidates.xyz_m
    views = max(VIEWS, -(-len(xyz) // p**2))
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(views, 3, side, side, generator=generator).to(xyz.device)
    index = torch.arange(views * p * p, device=xyz.device) % len(xyz)
    return Camera(pixels, xyz[index].reshape(views, p, p, 3))
