"""config/kuberay.yaml: KubeRay's fields, and what it has Ray Serve run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ada3d_ros.config import from_flat
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.fleet.serve import RAY_DEFAULTS
from tools.check_kuberay import MANIFEST, TARGET, faults, fields

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    return dict(manifest["spec"])


@pytest.fixture(scope="module")
def serve(spec: dict[str, Any]) -> dict[str, Any]:
    """What Serve is told."""
    return dict(yaml.safe_load(spec["serveConfigV2"]))


def test_its_fields_are_those_that_were_checked_against_kuberays_schema(
    spec: dict[str, Any],
) -> None:
    """tools/check_kuberay.py checks, and records source and commit of the schema."""
    record = json.loads(TARGET.read_text(encoding="utf-8"))
    assert dict(fields(spec, "spec")) == record["fields"]
    assert len(record["commit"]) == 40


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "mode": {"type": "string", "enum": ["token"]},
        "port": {"x-kubernetes-int-or-string": True},
        "hosts": {"type": "array", "items": {"type": "string"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"name": "a", "port": 1, "hosts": ["b"], "labels": {"c": "d"}, "mode": "token"}, []),
        ({"name": "a", "port": "http"}, []),
        ({"name": 1}, ["s.name is a integer, not a string"]),
        ({"nam": "a"}, ["s.name is required", "s.nam is no field"]),
        ({"name": "a", "hosts": [1]}, ["s.hosts[] is a integer, not a string"]),
        ({"name": "a", "labels": {"c": 1}}, ["s.labels.c is a integer, not a string"]),
        ({"name": "a", "mode": "off"}, ["s.mode = 'off'; allowed: ['token']"]),
    ],
)
def test_the_check_finds_what_is_wrong(value: dict[str, Any], wrong: list[str]) -> None:
    assert list(faults(value, SCHEMA, "s")) == wrong


def test_the_application_is_ours_and_its_numbers_fit(
    spec: dict[str, Any], serve: dict[str, Any]
) -> None:
    (application,) = serve["applications"]
    given = application["args"]
    assert from_flat(given["settings"]).model.path == "/models/LLaVA-3D-7B"
    limits = HostLimits(**given["limits"])
    assert limits.prefixes <= limits.scenes

    # A pod of the workers' group for each replica, with a GPU and room for its processors.
    cluster = spec["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    assert given["replicas"] == [workers["minReplicas"], workers["maxReplicas"]]
    (container,) = workers["template"]["spec"]["containers"]
    limits_of_pod = container["resources"]["limits"]
    assert limits_of_pod["nvidia.com/gpu"] == "1"
    assert float(limits_of_pod["cpu"]) >= given["cpus"]
    assert f"=={cluster['rayVersion']}" in (ROOT / "setup.py").read_text(encoding="utf-8")

    # What `ada3d serve` sets for Ray's processes, the pods set.
    environment = {pair["name"]: pair["value"] for pair in container["env"]}
    assert RAY_DEFAULTS.items() <= environment.items()

    # The head runs no replica, and both kinds of pods have what `build` reads.
    head = cluster["headGroupSpec"]
    assert float(head["rayStartParams"]["num-cpus"]) < given["cpus"]
    for template in (head["template"], workers["template"]):
        (init,) = template["spec"]["initContainers"]
        assert init["command"][:3] == ["install", "-m", "600"]
        assert init["command"][-1] == given["secret_file"]


def test_serve_and_build_take_it(serve: dict[str, Any], tmp_path: Path) -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="ray is absent: extra [serve]")
    from ada3d_ros.fleet.deployment import build

    (application,) = schema.ServeDeploySchema(**serve).applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    secret = tmp_path / "secret"
    secret.write_text("0" * 32)
    secret.chmod(0o600)
    assert build(application.args | {"secret_file": str(secret)}) is not None
