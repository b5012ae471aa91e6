"""Calibration files: what is written is read, and every way of being wrong has its sentence."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.calibration import Calibration, read_calibration, write_calibration
from ada3d_ros.pruning.information import Masses
from test.support.decoders import LAYERS, SHAPE, policy_of, write_curve

FALLING = tuple(float(v) for v in np.linspace(1, 0, LAYERS) ** 2)
AGAIN = "write it anew with `ada3d calibrate`"


def fitted(path: Path | str, ratio: float = 0.4) -> tuple[float, ...]:
    policy = policy_of(
        "adatoken3d", ratio, adatoken3d__schedule="fitted", adatoken3d__calibration_file=str(path)
    )
    pruner = policy.pruner(SHAPE)
    assert pruner is not None
    return pruner.schedule.retention


def changed(path: Path, **fields: Any) -> Path:
    data = yaml.safe_load(write_curve(path, FALLING).read_text())
    for name, value in fields.items():
        if value is ...:
            del data[name]
        else:
            data[name] = value
    path.write_text(yaml.safe_dump(data))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    masses = tuple(Masses(value, value / 4, 1 - value) for value in (1.0, 0.75, 0.5, 0.25))
    calibration = Calibration(
        model="LLaVA-3D-7B",
        sha256="abc",
        information=(1.0, 0.5, 0.25, 0.0),
        INF=(2.6, 2.4, 2.3, 2.2),
        masses=masses,
        retention=(1.0, 0.6, 0.3, 0.2),
        parameters={"alpha": 0.8, "beta": 0.5, "M": 0.2},
        budget={"mode": "mean", "value": 0.5},
        achieved_mean=0.525,
        samples=30,
        settings={"a1": 0.3, "eps": 1.0},
        sources=("room", "bag"),
        provenance={"seed": 0, "device": "cpu"},
        random_weights=True,
    )
    path = write_calibration(tmp_path / "new" / "folder" / "curve.yaml", calibration)
    found = read_calibration(path)
    assert found == calibration
    assert found.num_layers == 4
    assert path.read_text().startswith("# ")


def test_a_file_gives_a_fitted_schedule_and_a_new_file_a_new_one(tmp_path: Path) -> None:
    """What was built from a file is not used once the file changed."""
    path = write_curve(tmp_path / "curve.yaml", FALLING)
    first = fitted(path)
    assert np.mean(first) == pytest.approx(0.4, abs=2e-6)
    assert list(first) == sorted(first, reverse=True)
    write_curve(path, np.linspace(1, 0, LAYERS) ** 0.3)
    os.utime(path, ns=(1, 1))
    assert np.abs(np.subtract(fitted(path), first)).max() > 0.05


def test_the_users_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_curve(tmp_path / "curve.yaml", FALLING)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fitted("~/curve.yaml") == fitted(tmp_path / "curve.yaml")


def test_no_file_set() -> None:
    with pytest.raises(
        ConfigError,
        match=r"calibration_file is empty: write one with `ada3d calibrate`, or set .*'per_scene'",
    ):
        fitted("")


def test_no_file_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no calibration file at .*/none\.yaml: {AGAIN}"):
        fitted(tmp_path / "none.yaml")


def test_another_layer_count(tmp_path: Path) -> None:
    path = write_curve(tmp_path / "curve.yaml", np.linspace(1, 0, 32))
    with pytest.raises(
        ConfigError, match="was measured on tiny with 32 layers, this decoder has 8"
    ):
        fitted(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"a: [1, 2",
        b"",
        b"- 1\n- 2\n",
        b"kind: another\n",
        b"just text",
        b"\x00\x01",
    ],
)
def test_not_a_calibration_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "curve.yaml").write_bytes(content)
    with pytest.raises(
        ConfigError,
        match=rf"curve\.yaml .*(cannot be read as|is not) a calibration file(.|\n)*{AGAIN}",
    ):
        fitted(tmp_path / "curve.yaml")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as a calibration file"):
        fitted(tmp_path)


NUMBERS = ("information", "INF", "retention", "S_self", "S_sp", "S_ss")


@pytest.mark.parametrize(
    "name", [*NUMBERS, "num_layers", "samples", "budget", "parameters", "achieved_mean"]
)
@pytest.mark.parametrize(
    "value", [..., None, "text", {"a": "b"}], ids=["missing", "null", "text", "mapping"]
)
def test_a_field_is_missing_or_of_another_type(name: str, value: Any, tmp_path: Path) -> None:
    if name == "budget" and isinstance(value, dict):
        return  # is a mapping
    with pytest.raises(
        ConfigError, match=rf"a field is missing or of another type; {AGAIN}|values for 8 layers"
    ):
        read_calibration(changed(tmp_path / "curve.yaml", **{name: value}))


@pytest.mark.parametrize("name", ["sources", "inf_settings", "provenance"])
@pytest.mark.parametrize("value", [None, 5])
def test_a_secondary_field_of_another_type_is_a_config_error_or_ignored(
    name: str, value: Any, tmp_path: Path
) -> None:
    """Written by hand or cut short: never an untyped exception."""
    path = changed(tmp_path / "curve.yaml", **{name: value})
    with contextlib.suppress(ConfigError):
        assert read_calibration(path).num_layers == LAYERS


@pytest.mark.parametrize("name", ["num_layers", "samples"])
def test_a_count_that_is_infinite(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=AGAIN):
        read_calibration(changed(tmp_path / "curve.yaml", **{name: math.inf}))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite(name: str, bad: float, tmp_path: Path) -> None:
    values = [*FALLING[:-1], bad]
    with pytest.raises(
        ConfigError, match=rf"{name} has 8 values for 8 layers, or one is not finite; {AGAIN}"
    ):
        read_calibration(changed(tmp_path / "curve.yaml", **{name: values}))


@pytest.mark.parametrize("name", ["information", "retention"])
@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_a_share_outside_0_to_1(name: str, bad: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name} holds a value outside 0\.\.1; {AGAIN}"):
        read_calibration(changed(tmp_path / "curve.yaml", **{name: [*FALLING[:-1], bad]}))


def test_curves_of_unequal_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="INF has 7 values for 8 layers"):
        read_calibration(changed(tmp_path / "curve.yaml", INF=list(FALLING[1:])))
