"""Check config/kuberay.yaml against KubeRay's own schema, and record which fields it uses:

    python tools/check_kuberay.py ray.io_rayservices.yaml COMMIT

The file is `ray-operator/config/crd/bases/ray.io_rayservices.yaml` of ray-project/kuberay. Every
field of the manifest must be one of its RayService v1, with the type that it has there, and no
required one may be absent; then test/fleet/kuberay_fields.json is written, which a test compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "config" / "kuberay.yaml"
TARGET = ROOT / "test" / "fleet" / "kuberay_fields.json"
SOURCE = "github.com/ray-project/kuberay, ray-operator/config/crd/bases/ray.io_rayservices.yaml"
KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and JSON type of every field; elements of a list are `[]`."""
    yield path, KINDS[type(value)]
    if isinstance(value, dict):
        for name, child in value.items():
            yield from fields(child, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for child in value:
            yield from fields(child, f"{path}[]")


def faults(value: Any, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What is wrong with a value by an OpenAPI schema; a field that it does not name is wrong."""
    kind = KINDS[type(value)]
    either = schema.get("x-kubernetes-int-or-string") and kind in ("integer", "string")
    if not either and kind != schema.get("type"):
        yield f"{path} is a {kind}, not a {schema.get('type')}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} = {value!r}; allowed: {schema['enum']}"
    if isinstance(value, list):
        for child in value:
            yield from faults(child, schema["items"], f"{path}[]")
    if isinstance(value, dict):
        yield from (f"{path}.{n} is required" for n in schema.get("required", ()) if n not in value)
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, child in value.items():
            below = known.get(name, others)
            if isinstance(below, dict):
                yield from faults(child, below, f"{path}.{name}".lstrip("."))
            else:
                yield f"{path}.{name} is no field"


def schema_of(crd: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of `spec` in RayService v1."""
    versions = {version["name"]: version for version in crd["spec"]["versions"]}
    schema: Mapping[str, Any] = versions["v1"]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crd", type=Path)
    parser.add_argument("commit", help="of KubeRay, that the file is of")
    given = parser.parse_args(argv)
    spec = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]
    data = given.crd.read_bytes()
    found = list(faults(spec, schema_of(yaml.safe_load(data)), "spec"))
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        return 1
    record = {
        "source": SOURCE,
        "commit": given.commit,
        "sha256": hashlib.sha256(data).hexdigest(),
        "fields": dict(sorted(fields(spec, "spec"))),
    }
    TARGET.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['fields'])} fields of {MANIFEST.name} are KubeRay's; wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
