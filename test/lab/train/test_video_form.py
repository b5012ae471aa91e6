"""The embedded model in Video-3D-LLM's form: what the trainer shows is what the pipeline shows."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.lab.train.batches import batch_loss
from ada3d_ros.lab.train.gallery import normalise, open_gallery
from ada3d_ros.lab.train.objective import run_packed
from ada3d_ros.lab.train.run import main, planned_pruner
from ada3d_ros.lab.train.session import Session, open_session
from ada3d_ros.lab.train.stages import HOUR, Stage
from ada3d_ros.lab.train.tokens import Points, symbolic_points
from ada3d_ros.lab.train.video_form import from_first_camera, video_room_tokens
from ada3d_ros.lab.train.warm_start import siglip_state, take_decoder, take_tower
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.generated import frames_of
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.video3dllm.vision import SiglipTower
from ada3d_ros.model.vision import VisionTower


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("video_form")
    return open_session(folder, 1, 2, Workers("cpu"), 0, "video3dllm")


def test_tokens_of_training_are_those_of_the_pipeline(session: Session, tmp_path: Path) -> None:
    model = session.model
    assert isinstance(model, Video3DLLM)
    gallery = open_gallery(tmp_path, "val", 1, 2, model.config)
    rooms = make_rooms("val", gallery.seeds)
    vision = model.config.vision
    with torch.no_grad():
        features = [
            model.encode_views(normalise(torch.from_numpy(rgb), vision)).flatten(0, 1)
            for rgb in gallery.rgb
        ]
        points = [
            Points(torch.from_numpy(xyz), torch.from_numpy(owners).long(), feature)
            for xyz, owners, feature in zip(gallery.xyz_m, gallery.owners, features, strict=True)
        ]
        moved, points = from_first_camera(rooms, points)
        shown = video_room_tokens(model, moved, points, session.code)

        # The same views through the backbone, from below the first camera.
        views = render(rooms, vision.image_size)
        for b, ours in enumerate(shown):
            frames = frames_of(rooms, views, b)
            x, y, _ = frames[0].T_world_cam[:3, 3]
            prepared = model.prepare_views(frames, (x, y, 0.0))
            table = model.new_table()
            parts = model.view_parts(model.encode_views(prepared.pixels), prepared)
            for name, part in enumerate(parts):
                table.add(name, part)
            theirs = model.spatial_tokens(table)
            assert torch.equal(ours.tokens.num_patches, theirs.num_patches)
            torch.testing.assert_close(
                ours.tokens.xyz_m, theirs.xyz_m, atol=1e-5, rtol=0, equal_nan=True
            )
            # A place on the border of two voxels may fall to either.
            same = (ours.tokens.features - theirs.features).abs().amax(-1) < 1e-3
            assert same.float().mean() > 0.995


def test_owners_of_a_cell_are_what_its_pixels_show(session: Session, tmp_path: Path) -> None:
    model = session.model
    assert isinstance(model, Video3DLLM)
    gallery = open_gallery(tmp_path, "val", 1, 1, model.config)
    rooms = make_rooms("val", gallery.seeds)
    p = Points(torch.from_numpy(gallery.xyz_m[0]), torch.from_numpy(gallery.owners[0]).long())
    with torch.no_grad():
        (room,) = video_room_tokens(model, rooms, [p], session.code)

    index = render(rooms, model.config.vision.image_size).object_index[0]
    side, px = model.config.cells_per_side, model.config.cell_px
    cells = index.unflatten(1, (side, px)).unflatten(3, (side, px)).transpose(2, 3).flatten(3)
    cells = cells.flatten(0, 2)[torch.isfinite(p.xyz_m).all(-1)]
    true = torch.stack([(cells == o).float().mean(-1) for o in range(room.owner.shape[1])], -1)
    owner = room.owner[room.tokens.num_patches > 0]
    assert (owner - true).abs().max() < 0.35  # nine of 64 pixels a patch were looked at
    assert (owner - true).abs().mean() < 0.01
    assert not room.owner[room.tokens.num_patches == 0].any()


def test_points_without_pictures_stand_in_rows(session: Session) -> None:
    model = session.model
    assert isinstance(model, Video3DLLM)
    rooms = make_rooms("train", torch.arange(1))
    points = symbolic_points(rooms, 2, 16, torch.Generator().manual_seed(0))
    count = len(points[0].xyz_m)
    rows = -(-count // model.config.cells_per_side)
    with torch.no_grad():
        (room,) = video_room_tokens(model, rooms, points, session.code)
    assert len(room.tokens.features) == count + rows
    is_newline = room.tokens.num_patches == 0
    assert is_newline.sum() == rows
    assert is_newline[-1]
    assert torch.equal(room.tokens.features[is_newline][0], model.newline)
    assert torch.isnan(room.tokens.xyz_m[is_newline]).all()
    assert torch.equal(room.tokens.xyz_m[~is_newline], points[0].xyz_m)


def test_a_loss_moves_all_weights_but_the_tower(session: Session) -> None:
    stage = Stage("symbolic", "symbolic", 8, 2, 12, 1e-3, per_object=1, background=3)
    loss, parts, right = batch_loss(session, stage, "train", 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert np.isfinite(list(parts.values())).all()
    assert right
    still = {n for n, p in session.model.named_parameters() if p.grad is None}
    assert {n.split(".")[0] for n in still} == {"vision"}
    session.model.zero_grad()
    session.head.zero_grad()


def test_a_clip_tower_in_siglip_form_sees_alike(session: Session) -> None:
    config = session.model.config.vision
    clip = dataclasses.replace(config, image_mean=(0.48, 0.46, 0.41), image_std=(0.27, 0.26, 0.28))
    torch.manual_seed(0)
    theirs = VisionTower(clip)
    for name, parameter in theirs.named_parameters():
        if "class_embedding" not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    ours = SiglipTower(config)
    ours.load_state_dict(siglip_state(theirs, clip, config))
    rgb = render(make_rooms("val", torch.arange(1)), config.image_size).rgb[0]
    with torch.no_grad():
        a, b = theirs(normalise(rgb, clip)), ours(normalise(rgb, config))
    a, b = a - a.mean((0, 1)), b - b.mean((0, 1))
    alike = torch.nn.functional.cosine_similarity(a.flatten(0, 1), b.flatten(0, 1)).median()
    assert alike > 0.8


def test_the_shipped_decoder_and_tower_are_taken_over(session: Session) -> None:
    shipped = load_model(embedded_model_path())
    newline = session.model.get_parameter("newline").clone()
    take_decoder(session, shipped)
    take_tower(session, shipped)
    ours, theirs = session.model.decoder.state_dict(), shipped.model.decoder.state_dict()
    down = "layers.2.mlp.down_proj.weight"
    assert torch.equal(ours[down], theirs[down].float())
    tokenizers = session.packer.tokenizer, shipped.tokenizer
    a, b = (
        ids["embed_tokens.weight"][tokenizer.encode("chair")[1]].float()
        for ids, tokenizer in zip((ours, theirs), tokenizers, strict=True)
    )
    assert torch.equal(a, b)
    assert not ours["layers.0.self_attn.q_proj.bias"].any()
    assert torch.equal(session.model.get_parameter("newline"), newline)
    assert shipped.head is not None
    key = "key_proj.weight"
    assert torch.equal(session.head.state_dict()[key], shipped.head.head.state_dict()[key])
    tower = session.model.vision.state_dict()
    fc1 = "encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(tower[fc1], shipped.llava3d.vision.state_dict()[fc1].float())


@pytest.mark.parametrize("kind", ["count", "color", "category", "grounding"])
def test_training_on_less_drops_what_the_engine_drops(session: Session, kind: str) -> None:
    """Tokens with a place by their rank, newlines when nothing else is left of their row."""
    model, packer = session.model, session.packer
    assert isinstance(model, Video3DLLM)
    rooms = make_rooms("val", torch.tensor([4, 5]))
    points = symbolic_points(rooms, 5, 40, torch.Generator().manual_seed(0))
    points[1] = dataclasses.replace(
        points[1], xyz_m=points[1].xyz_m[:41], owners=points[1].owners[:41]
    )  # one room is padded
    known = graphs(rooms)
    asked = [make_questions(graph, 3, (kind,), 1) for graph in known]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    is_click = packed.ids == CLICK_ID
    number = (is_click.flatten().cumsum(0) - 1).view_as(packed.ids)
    pruner, gone = planned_pruner(model, 0.41), 0
    with torch.no_grad():
        shown = video_room_tokens(model, rooms, points, session.code)
        trained = run_packed(model, packer.prefix_ids, shown, packed, pruner)
        for b, room in enumerate(shown):
            last = int(packed.query[b])
            clicks = packed.clicks[number[b, : last + 1][is_click[b, : last + 1]]]
            prompt = model.build_prompt(
                [*packer.prefix_ids, IMAGE_ID, *packed.ids[b, : last + 1].tolist()],
                model.project(room.tokens.features),
                model.encode_clicks(clicks.tolist()),
                room.tokens.xyz_m,
            )
            alone = prefill(model.decoder, prompt, pruner=pruner, with_states=True)
            kept = trained.kept[b][trained.kept[b] >= 0]
            assert torch.equal(kept, alone.kept[-1])
            placed = room.tokens.num_patches > 0
            share = pruner.schedule.retention[-1]
            count = max(math.floor(share * int(placed.sum())), pruner.n_min)
            assert int(placed[kept].sum()) == int(trained.mask[b].sum()) == count
            gone += int((~placed).sum()) - int((~placed[kept]).sum())
            assert alone.states is not None
            state = trained.text[b, last]
            torch.testing.assert_close(state, alone.states.query, rtol=2e-4, atol=2e-4)
            logits = model.decoder.lm_head(state)
            torch.testing.assert_close(logits, alone.logits, rtol=2e-4, atol=2e-4)
    assert gone > 0  # rows were emptied


def test_export_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(tmp_path / "run"), "--backbone", "video3dllm"]
    assert main([*command, "--export", str(tmp_path / "model")]) == 2
    assert "Qwen2's tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tuple(
        Stage(s.name, s.shows, 2, 2, min(s.questions, 6), s.lr, s.per_object, s.background)
        for s in HOUR
    )
    monkeypatch.setattr("ada3d_ros.lab.train.run.CURRICULA", {"full": (), "hour": tiny})
    command = ["--out", str(tmp_path), "--backbone", "video3dllm", "--curriculum", "hour"]
    command += ["--rooms", "2", "--device", "cpu"]
    assert main(command) == 0
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["seen"] == {"vision": 2, "symbolic": 2, "points": 2, "features": 2}
    assert set(state["seconds"]) == set(state["seen"])
    assert all(seconds > 0.0 for seconds in state["seconds"].values())

    # Done is done.
    assert main(command) == 0
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert json.dumps(again["seen"]) == json.dumps(state["seen"])
    newline = again["modules"]["model"]["newline"]
    assert torch.equal(newline, state["modules"]["model"]["newline"])
