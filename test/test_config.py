"""Settings: every default passes its own check; what does not is named with what is allowed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.config import (
    SETTINGS,
    AgentConfig,
    Setting,
    from_flat,
    iter_settings,
    load_config,
    to_flat,
)
from ada3d_ros.errors import ConfigError, ErrorCode

ROOT = Path(__file__).resolve().parents[1]
NUMERIC = [s for s in SETTINGS.values() if type(s.default) in (int, float)]
RANGED = [s for s in NUMERIC if s.low is not None and s.high is not None]
CHOICES = [s for s in SETTINGS.values() if s.choices]


def ids(setting: Setting) -> str:
    return setting.name


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=ids)
def test_each_default_passes_its_own_check(setting: Setting) -> None:
    assert setting.check(setting.default) == setting.default
    assert type(setting.default) in (bool, int, float, str, tuple)
    assert from_flat({setting.name: setting.default}) == AgentConfig()


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=ids)
def test_each_setting_is_described(setting: Setting) -> None:
    assert len(setting.description) > 10
    assert not setting.description.endswith(".")
    assert setting.allowed
    if type(setting.default) in (int, float):
        assert setting.low is not None, "a number without a range"
        assert setting.high is not None
        assert math.isfinite(setting.low)
        assert math.isfinite(setting.high)
        assert setting.low <= setting.default <= setting.high
    last = setting.name.rsplit(".", 1)[-1]
    for suffix, unit in {"_sec": "s", "_m": "m", "_hz": "Hz", "_deg": "deg"}.items():
        if last.endswith(suffix):
            assert setting.unit == unit


@pytest.mark.parametrize("setting", RANGED, ids=ids)
def test_ranges_are_inclusive_and_end_there(setting: Setting) -> None:
    kind = type(setting.default)
    assert setting.low is not None
    assert setting.high is not None
    assert setting.check(kind(setting.low)) == setting.low
    assert setting.check(kind(setting.high)) == setting.high
    step = 1 if kind is int else 1e-6 * max(1.0, abs(setting.high))
    for beyond in (kind(setting.low) - step, kind(setting.high) + step):
        with pytest.raises(ConfigError, match="out of range") as caught:
            setting.check(beyond)
        text = str(caught.value)
        assert setting.name in text
        assert f"{setting.high:g}" in text
        assert repr(setting.default) in text


WRONG: dict[type, list[Any]] = {
    bool: [0, 1, "true", None, 1.0],
    int: [1.0, "1", True, None, [1], float("nan")],
    float: ["0.1", True, None, [0.1], {}],
    str: [1, None, True, ["a"], b"a"],
    tuple: [1.0, "1 2 3", None, [1, 2, "3"], [True, False, True], {"x": 1}],
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=ids)
def test_values_of_another_type_are_refused(setting: Setting) -> None:
    takes_number = type(setting.default) is str and setting.low is not None
    for value in WRONG[type(setting.default)][int(takes_number) :]:
        with pytest.raises(ConfigError, match="expected") as caught:
            setting.check(value)
        assert setting.name in str(caught.value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**400, -(10**400)],
    ids=["nan", "inf", "-inf", "huge", "-huge"],
)
def test_numbers_that_are_none(value: float) -> None:
    """An int too large for a float raised OverflowError, not ConfigError."""
    for setting in SETTINGS.values():
        if type(setting.default) is float or (type(setting.default) is int and type(value) is int):
            with pytest.raises(ConfigError, match=r"not a finite number|out of range"):
                setting.check(value)
        if type(setting.default) is tuple:
            with pytest.raises(ConfigError, match=r"not a finite number|out of range"):
                setting.check([value] * len(setting.default))


def test_an_int_serves_where_a_float_is_expected() -> None:
    config = from_flat({"sync.slop_sec": 1, "extrinsic.xyz": [1, 2, 3]})
    assert (config.sync.slop_sec, config.extrinsic.xyz) == (1.0, (1.0, 2.0, 3.0))
    assert type(config.sync.slop_sec) is float


@pytest.mark.parametrize("setting", CHOICES, ids=ids)
def test_choices(setting: Setting) -> None:
    for choice in setting.choices:
        assert setting.check(choice) == choice
    for other in ("", setting.choices[0].upper(), setting.choices[0] + " ", "nonsense"):
        with pytest.raises(ConfigError, match="not a known choice") as caught:
            setting.check(other)
        assert all(choice in str(caught.value) for choice in setting.choices)


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ("auto", "auto"),
        (0, "0.0"),
        (-1.5, "-1.5"),
        ("-1.5", "-1.5"),
        (1e4, "10000.0"),
        ("+2", "2.0"),
    ],
)
def test_a_number_may_stand_for_a_choice(value: Any, held: str) -> None:
    config = from_flat({"world.floor_z": value})
    assert config.world.floor_z == held
    assert from_flat(to_flat(config)) == config


@pytest.mark.parametrize(
    "value", ["", "floor", "1,5", "1.5 m", math.nan, "nan", 1e5, "-inf", 10**30]
)
def test_what_is_neither_a_choice_nor_a_number_in_range(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"world\.floor_z = .*'auto', or -10000 to 10000 m"):
        from_flat({"world.floor_z": value})


def test_a_near_choice_and_a_near_name_are_proposed() -> None:
    with pytest.raises(ConfigError, match="did you mean 'best_effort'"):
        from_flat({"qos.rgb": "best-effort"})
    with pytest.raises(
        ConfigError, match=r"unknown setting 'sync\.slop_sek'; did you mean 'sync\.slop_sec'"
    ):
        from_flat({"sync.slop_sek": 0.1})
    with pytest.raises(ConfigError, match=r"docs/parameters\.md"):
        from_flat({"zzzzzzzz": 1})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "model.device",
            ["auto", "cpu", "cuda", "cuda:0", "cuda:11"],
            ["gpu", "cuda:", "cuda:-1", "cuda:a", "CPU", ""],
        ),
        (
            "model.revision_sha256",
            ["", "0" * 64, "af" * 32],
            ["0" * 63, "0" * 65, "G" * 64, "AF" * 32],
        ),
        ("world_frame", ["map", "odom", "robot/map"], ["", " ", "my map", "map\n"]),
        ("scene.name", ["", "kitchen", "Floor_2-b", "x" * 64], ["a/b", "..", "a b", "x" * 65]),
    ],
)
def test_patterns(name: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert SETTINGS[name].check(value) == value
    for value in bad:
        with pytest.raises(ConfigError, match="not of the expected form"):
            SETTINGS[name].check(value)


@pytest.mark.parametrize("value", [[], [1.0], [1.0] * 4])
def test_lists_have_a_length(value: list[float]) -> None:
    with pytest.raises(ConfigError, match=f"expected 3 numbers, got {len(value)}"):
        from_flat({"extrinsic.xyz": value})


def test_settings_that_do_not_fit_together() -> None:
    with pytest.raises(ConfigError, match=r"depth\.min_m = 4\.0 must be below depth\.max_m = 4\.0"):
        from_flat({"depth.min_m": 4.0, "depth.max_m": 4.0})
    with pytest.raises(ConfigError, match=r"extrinsic\.quat_xyzw .* has norm 0\.0000"):
        from_flat({"extrinsic.quat_xyzw": [0.0] * 4})
    with pytest.raises(ConfigError, match="norm"):
        from_flat({"extrinsic.quat_xyzw": [0.0, 0.0, 0.0, 0.998]})
    with pytest.raises(ConfigError, match=r"scene\.store = 'b' and scene\.autosave = 'a'"):
        from_flat({"scene.store": "b", "scene.autosave": "a"})
    with pytest.raises(ConfigError, match=r"scene\.name = 'kitchen' and there is no store"):
        from_flat({"scene.name": "kitchen"})
    assert from_flat({"scene.autosave": "a"}).scene.name_in_use == "default"
    from_flat({"extrinsic.quat_xyzw": [0.0, 0.0, 0.0, 0.9995]})
    from_flat({"depth.min_m": 20.0, "depth.max_m": 30.0})  # judged together, not one by one


def test_the_error_has_a_code_and_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="sync") as caught:
        from_flat({"sync.slop_sec": 7.0})
    assert isinstance(caught.value, ConfigError)
    assert caught.value.code == ErrorCode.INVALID_REQUEST


# -- flat and back


def value_of(setting: Setting) -> st.SearchStrategy[Any]:
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.pattern:
        return st.sampled_from([setting.default])
    if type(setting.default) is bool:
        return st.booleans()
    if type(setting.default) is int:
        assert setting.low is not None
        assert setting.high is not None
        return st.integers(int(setting.low), int(setting.high))
    if type(setting.default) is float:
        return st.floats(setting.low, setting.high)
    return st.just(setting.default)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: value_of(s) for name, s in SETTINGS.items() if not name.startswith("depth.m")}
    )
)
def test_round_trip(values: dict[str, Any]) -> None:
    config = from_flat(values)
    assert to_flat(config) | values == to_flat(config)
    assert from_flat(to_flat(config)) == config


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(SETTINGS)),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.lists(st.floats(), max_size=5),
    ),
)
def test_no_value_raises_anything_else_or_slips_through(name: str, value: Any) -> None:
    try:
        config = from_flat({name: value})
    except ConfigError:
        return
    stored = to_flat(config)[name]
    assert type(stored) is type(SETTINGS[name].default)
    assert SETTINGS[name].check(stored) == stored


def test_flat_names_are_the_nested_fields() -> None:
    names = list(SETTINGS)
    assert names == [s.name for s in iter_settings()]
    assert len(set(names)) == len(names) > 40
    flat = to_flat(AgentConfig())
    assert list(flat) == names
    changed = from_flat({"keyframe.max_views": 7})
    assert changed.keyframe.max_views == 7
    assert dataclasses.replace(changed, keyframe=AgentConfig().keyframe) == AgentConfig()
    assert from_flat({"sync.slop_sec": 0.5}, base=changed).keyframe.max_views == 7


# -- files


def write(path: Path, text: str) -> Path:
    (path / "agent.yaml").write_text(text, encoding="utf-8")
    return path / "agent.yaml"


def test_the_shipped_file_loads() -> None:
    config = load_config(ROOT / "config" / "agent.yaml")
    tree = yaml.safe_load((ROOT / "config" / "agent.yaml").read_text())
    assert list(tree) == ["/**"]  # so that a namespace does not hide it
    assert config.world_frame == "map"


def test_the_preset_small() -> None:
    config = load_config(ROOT / "config" / "small.yaml")
    default = AgentConfig()
    assert (config.pruning.strategy, config.pruning.keep_ratio) == ("adatoken3d", 0.1)
    assert (config.cache.prune, config.cache.ranking) == ("build", "expected")
    assert len(config.cache.prompts.split("|")) == 4
    assert config.cache.prompts_score == "max"
    # Nothing else differs from the defaults.
    pruning = dataclasses.replace(config.pruning, keep_ratio=default.pruning.keep_ratio)
    cache = dataclasses.replace(
        config.cache, ranking="auto", prompts=default.cache.prompts, prompts_score="mean"
    )
    assert dataclasses.replace(config, pruning=pruning, cache=cache) == default


@pytest.mark.parametrize(
    "text",
    [
        (
            "/**:\n  ros__parameters:\n    sync:\n      slop_sec: 0.1\n    world_frame: odom\n   "
            " use_sim_time: true\n"
        ),
        "/**:\n  ros__parameters:\n    sync.slop_sec: 0.1\n    world_frame: odom\n",
        "sync: {slop_sec: 0.1}\nworld_frame: odom\n",
        "ros__parameters:\n  sync: {slop_sec: 0.1}\n  world_frame: odom\n",
    ],
    ids=["ROS", "dotted", "plain", "without a node"],
)
def test_files_of_every_form(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, text))
    assert (config.sync.slop_sec, config.world_frame) == (0.1, "odom")
    assert config.keyframe == AgentConfig().keyframe


@pytest.mark.parametrize("text", ["", "# nothing\n", "/**:\n", "/**:\n  ros__parameters:\n"])
def test_an_empty_file_is_all_defaults(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path, text)) == AgentConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sync: {slop_sek: 0.1}", r"did you mean 'sync\.slop_sec'"),
        ("snyc: {slop_sec: 0.1}", r"did you mean 'sync\.slop_sec'"),
        ("sync: 3", "unknown setting 'sync'"),
        ("sync: {slop_sec: fast}", "expected float, got str"),
        ("sync: {slop_sec: 2.0}", "out of range"),
        ("sync: {slop_sec: .nan}", "not a finite number"),
        ("sync: {slop_sec: .inf}", "not a finite number"),
        ("sync: {slop_sec: }", "got NoneType"),
        ("keyframe: {max_views: 2.5}", "expected int, got float"),
        ("keyframe: {max_views: true}", "expected int, got bool"),
        ("reset_on_time_jump: 1", "expected bool, got int"),
        ("extrinsic: {xyz: [1, 2]}", "expected 3 numbers"),
        ("- a\n- b", "expected a mapping at the top, got list"),
        ("just words", "expected a mapping at the top, got str"),
        ("sync: [1, 2]", "unknown setting 'sync'"),
        ("a: b: c", "not valid YAML"),
        ("sync: {slop_sec: 0.1", "not valid YAML"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
        ("1: 2", "unknown setting '1'"),
        ("depth: {min_m: 5.0, max_m: 1.0}", r"depth\.min_m = 5\.0 must be below"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder and a binary file left as IsADirectoryError and UnicodeDecodeError."""
    with pytest.raises(ConfigError, match=r"no configuration file at .*nowhere"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "model.bin")
