"""Settings from a file, the environment and the command line."""

import hashlib
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common import ROOT
from simmap.engine.errors import ConfigError
from simmap.server.settings import PREFIX, Key, Settings, load_settings


def test_the_file_of_defaults_is_that_of_the_code() -> None:
    path = ROOT / "configs" / "server.yaml"
    assert load_settings(str(path), {}) == Settings() == load_settings(None, {})
    assert list(yaml.safe_load(path.read_text())) == [field.name for field in fields(Settings)]


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("port: 1\nhost: a\nqueue: 5\n")
    environment = {"SIMMAP_SERVER_PORT": "2", "SIMMAP_SERVER_HOST": "b", "SIMMAP_SERVER_REUSE_PORT": "true"}
    settings = load_settings(str(path), environment, port=3, host=None)
    assert (settings.port, settings.host, settings.queue, settings.reuse_port) == (3, "b", 5, True)


@given(
    st.integers(0, 65535), st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
    st.floats(0.1, 3600), st.booleans(),
)  # fmt: skip
def test_the_environment_gives_every_value_its_type(
    port: int, host: str, seconds: float, shared: bool
) -> None:
    given_values = {"port": port, "host": host, "body_seconds": seconds, "reuse_port": shared}
    environment = {PREFIX + name.upper(): str(value) for name, value in given_values.items()}
    settings = asdict(load_settings(None, environment))
    assert {name: settings[name] for name in given_values} == given_values


def test_keys_come_from_the_file_and_from_the_environment(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"x").hexdigest()
    expected = {"web": Key(sha256, read=True)}
    path = tmp_path / "server.yaml"
    path.write_text(f"keys:\n  web: {{sha256: {sha256}, read: true}}\n")
    assert load_settings(str(path), {}).keys == expected
    assert (
        load_settings(None, {"SIMMAP_SERVER_KEYS": f"{{web: {{sha256: {sha256}, read: true}}}}"}).keys
        == expected
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ports: 1", "unknown key 'ports'"),
        ("port: 70000", "port is 70000, must be from 0 to 65535"),
        ("port: '1'", "port is '1' (str), must be a whole number"),
        ("body_seconds: .inf", "body_seconds is inf"),
        ("run_seconds: .nan", "run_seconds is nan"),
        ("keys: {web: {}}", "keys.web.sha256 is missing"),
        ("keys: {web: {sha256: secret}}", "sha256 is 'secret', must be 64 hexadecimal digits"),
        ("keys: {web: {sha256: 1, write: true}}", "unknown key 'write'"),
        ("host: ''", "host is ''"),
        ("max_bytes: 1", "max_bytes is 1, must be 1024 or more"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(str(path), {})
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_wrong_variable_is_named() -> None:
    for name, text in (("PORTS", "1"), ("PORT", "{"), ("PORT", "x"), ("KEYS", "[1]")):
        with pytest.raises(ConfigError, match=r"(?i)port|keys"):
            load_settings(None, {PREFIX + name: text})
