"""Settings: what a person may write, where it comes from, and what is said of what they may not."""

import math
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml

from cryptomon_lib import config
from cryptomon_lib.config import environments, home, load_settings, nearest, read_yaml, secret
from cryptomon_lib.errors import ConfigError

PARAMS = Path(__file__).resolve().parent.parent / "params"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder of its own; writes params files into it."""
    (tmp_path / "params").mkdir()
    for name in ("base", "local"):
        shutil.copy(PARAMS / f"{name}.yaml", tmp_path / "params")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))

    def write(name, text):
        (tmp_path / "params" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


# ---- the project's own params


@pytest.mark.parametrize("name", environments())
def test_the_params_of_every_environment_are_settings(name):
    settings = load_settings(name)
    assert settings.environment == name
    assert settings.simulated is (name == "local")
    assert "://" in settings.root or Path(settings.root).is_absolute()


def test_three_environments_are_on_s3_and_athena_and_two_on_this_machine():
    found = {name: load_settings(name) for name in environments()}
    assert set(found) == {"local", "live", "dev", "staging", "prod"}
    assert {n for n, one in found.items() if one.engine == "athena"} == {"dev", "staging", "prod"}
    assert {n for n, one in found.items() if one.root.startswith("s3://")} == {"dev", "staging", "prod"}
    assert len({one.root for one in found.values()}) == len(found)


def test_every_setting_has_its_default_and_its_explanation_in_base():
    base = (PARAMS / "base.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(base)
    assert set(values) == set(config.Settings.__struct_fields__) - {"environment"}
    for field in msgspec.structs.fields(config.Settings):
        if isinstance(field.type, type) and issubclass(field.type, config.Section):
            assert set(values[field.name]) == set(field.type.__struct_fields__)


def test_settings_cannot_be_changed_by_accident():
    settings = load_settings("local")
    with pytest.raises(AttributeError):
        settings.cadence_s = 5


# ---- where a setting comes from


def test_a_flag_goes_before_the_environment_and_that_before_the_file(project, monkeypatch):
    project("local", "environment: local\ncadence_s: 10\nfetch: {attempts: 2}\n")
    assert load_settings("local").cadence_s == 10
    monkeypatch.setenv("CRYPTOMON_CADENCE_S", "20")
    assert load_settings("local").cadence_s == 20
    assert load_settings("local", {"cadence_s": 30}).cadence_s == 30
    assert load_settings("local", {"cadence_s": 30}, {"cadence_s": 40}).cadence_s == 40


def test_a_section_is_merged_key_by_key(project, monkeypatch):
    project("local", "environment: local\nfetch: {attempts: 2}\n")
    monkeypatch.setenv("CRYPTOMON_FETCH__PAUSE_S", "0.5")
    fetch = load_settings("local", flags={"fetch": {"workers": 3}}).fetch
    base = yaml.safe_load((PARAMS / "base.yaml").read_text())["fetch"]
    assert (fetch.attempts, fetch.pause_s, fetch.workers) == (2, 0.5, 3)
    assert fetch.read_timeout_s == base["read_timeout_s"]


def test_hosts_and_endpoints_are_one_value_each():
    settings = load_settings("local", flags={"hosts": {"kraken": "http://127.0.0.1:1"}})
    assert settings.hosts == {"kraken": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("CRYPTOMON_EXCHANGES", "kraken, coinbase", ("kraken", "coinbase")),
        ("CRYPTOMON_EXCHANGES", "[kraken]", ("kraken",)),
        ("CRYPTOMON_EXCHANGES", "kraken", ("kraken",)),
        ("CRYPTOMON_SIMULATED", "false", False),
        ("CRYPTOMON_ENGINE", "athena", "athena"),
        ("CRYPTOMON_HOSTS", '{"kraken": "http://h"}', {"kraken": "http://h"}),
        ("CRYPTOMON_ENDPOINT_URL", "http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_the_environment_s_values_are_read_as_yaml(name, text, read, monkeypatch):
    monkeypatch.setenv(name, text)
    assert getattr(load_settings("local"), name.removeprefix("CRYPTOMON_").lower()) == read


def test_the_environment_to_use_is_named_or_local(monkeypatch):
    assert load_settings().environment == "local"
    monkeypatch.setenv("CRYPTOMON_ENVIRONMENT", "live")
    assert load_settings().environment == "live"
    assert load_settings("local").environment == "local"


def test_a_notebook_s_defaults_leave_the_file_s_settings_alone():
    plain = load_settings("local")
    given = {"exchanges": [], "markets": ["BTC-USD"], "environment": "prod", "_i1": "x", "engine": None}
    assert load_settings("local", given) == plain
    as_injected = yaml.safe_load((PARAMS / "local.yaml").read_text())
    assert load_settings("local", as_injected) == plain
    assert load_settings("local", {"exchanges": ["kraken"]}).exchanges == ("kraken",)


def test_a_root_that_is_a_folder_is_relative_to_the_project_not_to_the_caller(project, monkeypatch, tmp_path):
    folder = project("local", "environment: local\nroot: data/here\n")
    monkeypatch.chdir("/")
    assert load_settings("local").root == str(folder / "data/here")
    assert load_settings("local", flags={"root": "/somewhere"}).root == "/somewhere"
    assert load_settings("local", flags={"root": "s3://bucket/x"}).root == "s3://bucket/x"


def test_the_project_is_found_from_any_folder_in_it(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    shutil.copy(PARAMS / "base.yaml", tmp_path / "params")
    deep = tmp_path / "notebooks" / "mine"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert home() == tmp_path


def test_a_home_that_is_none_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="CRYPTOMON_HOME"):
        home()


# ---- what may not be


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cadense_s: 5", ["params/local.yaml", "cadense_s", "Did you mean cadence_s?"]),
        ("fetch: {atempts: 5}", ["params/local.yaml", "fetch.atempts", "Did you mean attempts?"]),
        ("zzz: 1", ["params/local.yaml", "zzz", "Known:"]),
        ("cadence_s: fast", ["params/local.yaml", "cadence_s is 'fast'", "expected"]),
        ("cadence_s: '60'", ["cadence_s is '60'"]),
        ("cadence_s: 1.5", ["cadence_s is 1.5"]),
        ("cadence_s: 0", ["cadence_s is 0"]),
        ("cadence_s: true", ["cadence_s is True"]),
        ("cadence_s: null", ["cadence_s is None"]),
        ("fetch: {pause_s: .inf}", ["fetch.pause_s is inf", "finite number"]),
        ("fetch: {pause_s: .nan}", ["fetch.pause_s is nan", "finite number"]),
        ("fetch: {pause_s: -1}", ["fetch.pause_s is -1"]),
        ("fetch: 5", ["fetch is 5", "keys and values"]),
        ("limits: {vanished_share_max: 1.1}", ["limits.vanished_share_max is 1.1"]),
        ("dashboard: {port: 65536}", ["dashboard.port is 65536"]),
        ("engine: postgres", ["engine is 'postgres'", "duckdb, athena, trino"]),
        ("exchanges: kraken", ["exchanges is 'kraken'"]),
        ("exchanges: [1]", ["exchanges is [1]"]),
        ("hosts: {kraken: 5}", ["hosts is"]),
        ("simulated: 1", ["simulated is 1"]),
        ("cadence_s: 5\ncadence_s: 6", ["local.yaml", "'cadence_s' stands twice", "line"]),
        ("fetch: {attempts: 1, attempts: 2}", ["local.yaml", "'attempts' stands twice"]),
        ("fetch: {attempts: 1", ["local.yaml", "not valid YAML", "line"]),
        ("- a\n- b", ["local.yaml", "keys and values"]),
        ("just words", ["local.yaml", "keys and values"]),
        ("root: !!python/object/apply:os.getcwd []", ["local.yaml", "not valid YAML"]),
        ("? [a, b]\n: 1", ["local.yaml"]),
        ("1: x", ["local.yaml", "1"]),
        ("environment: live", ["params/local.yaml", "'live'", "'local'"]),
    ],
)
def test_what_cannot_be_a_setting_is_one_clear_error(text, says, project):
    project("local", text)
    with pytest.raises(ConfigError) as caught:
        load_settings("local")
    assert [part for part in says if part not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("CRYPTOMON_CADENSE_S", "5", "the environment: unknown key cadense_s. Did you mean cadence_s?"),
        ("CRYPTOMON_FETCH__ATEMPTS", "5", "unknown key fetch.atempts. Did you mean attempts?"),
        ("CRYPTOMON_CADENCE_S", "often", "cadence_s is 'often'"),
        ("CRYPTOMON_FETCH__PAUSE_S", ".inf", "finite number"),
        ("CRYPTOMON_EXCHANGES", "[kraken", "CRYPTOMON_EXCHANGES"),
        ("CRYPTOMON_FETCH", "3", "fetch is 3"),
    ],
)
def test_a_wrong_variable_is_named_with_the_nearest_right_one(name, text, says, monkeypatch):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError) as caught:
        load_settings("local")
    assert says in str(caught.value)


def test_a_section_given_whole_and_in_part_by_the_environment_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("CRYPTOMON_FETCH", "3")
    monkeypatch.setenv("CRYPTOMON_FETCH__ATTEMPTS", "3")
    with pytest.raises(ConfigError, match="fetch"):
        load_settings("local")


@pytest.mark.parametrize("flags", [{"cadense_s": 5}, {"cadence_s": "x"}, {"fetch": {"pause_s": math.inf}}])
def test_a_wrong_flag_is_told_as_a_flag(flags):
    with pytest.raises(ConfigError, match="a flag"):
        load_settings("local", flags=flags)


@pytest.mark.parametrize("name", ["lokal", "base", "../local", "alerts"])
def test_an_environment_that_is_none_names_the_nearest(name):
    with pytest.raises(ConfigError, match=r"No params/|environment"):
        load_settings(name)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.yaml"):
        read_yaml(tmp_path / "bytes.yaml")


# ---- small things


def test_a_secret_is_read_by_its_name_and_never_shown_when_absent(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "S3CRET")
    assert secret("SOME_KEY") == "S3CRET"
    for value in (None, ""):
        monkeypatch.delenv("SOME_KEY") if value is None else monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(ConfigError, match="SOME_KEY is not set"):
            secret("SOME_KEY")


def test_the_nearest_name_is_told_or_all_of_them():
    assert nearest("krakn", ["kraken", "binance"]) == " Did you mean kraken?"
    assert nearest("zzz", ["kraken", "binance"]) == " Known: binance, kraken."
