"""Settings: `params/base.yaml` and an environment's file become one frozen value.

Owns the project's folder (`home`), the precedence flag, environment, file, and the wording of every
settings error. No other module reads the process environment.
"""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml

from cryptomon_lib.errors import ConfigError

PREFIX = "CRYPTOMON_"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# read from the environment, but not a setting: where the project is, which params file, where to talk, what to test by
RESERVED = {
    "CRYPTOMON_HOME",
    "CRYPTOMON_ENVIRONMENT",
    "CRYPTOMON_LOG_FORMAT",
    "CRYPTOMON_LOG_LEVEL",
    # the name of the level before
    "CRYPTOMON_LOG",
    "CRYPTOMON_CAPTURES",
    "CRYPTOMON_SERVED",
}

_LOG_FORMATS = ("text", "json")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# secrets that this process has read: no log line may have them
_hidden: set[str] = set()

# a list of known names that is longer than this is no help
_KNOWN_SHOWN = 40

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Days = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# a value that is no name is likely the secret itself
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Z_][A-Z0-9_]*$")]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
# stands in statements that create things, where no value can be bound
SQLName = Annotated[str, msgspec.Meta(pattern="^[a-z_][a-z0-9_]*$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings."""


class Fetch(Section):
    """How one call to an exchange behaves."""

    connect_timeout_s: Positive
    read_timeout_s: Positive
    attempts: Count
    backoff_s: NotNegative
    backoff_max_s: NotNegative
    retry_after_max_s: NotNegative
    pause_s: NotNegative
    body_bytes_max: Count
    workers: Count
    calls_per_min: Count
    budgets: str


class Limits(Section):
    """How much a run may take."""

    batch_bytes: Count
    vanished_share_max: Share
    cell_timeout_s: Count
    run_timeout_s: Count


class Retention(Section):
    """How many days a thing is kept; 0 is not at all."""

    archive_days: Days
    quarantine_days: Days
    runs_days: Days
    reports_days: Days
    tables_days: dict[str, Count]


class Notify(Section):
    """How messages are sent."""

    timeout_s: Positive
    retry_s: Positive
    retry_max_s: Positive
    give_up_h: Positive
    late_m: Positive
    silent_m: Positive


class DuckDB(Section):
    """How much DuckDB may take in one process."""

    memory_mb: Count
    threads: Count | None


class Backfill(Section):
    """How what was missed is asked for."""

    days: Count
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    holes_days: Count


class HealthLimits(Section):
    """From where on something is a finding."""

    stale_s: Positive
    dead_s: Positive
    stuck_s: Positive
    quarantine_max: Count
    unchanged_m: Annotated[int, msgspec.Meta(ge=10)]
    outlier_pct: Positive
    clock_skew_s: Positive
    clock_lag_s: Positive
    complete_min: Share
    disk_free_gb: NotNegative


class Athena(Section):
    """Where Athena runs, how it is asked, and how much a query may take."""

    database: SQLName
    workgroup: str
    region: str
    output: str
    poll_s: Positive
    reuse_minutes: Annotated[int, msgspec.Meta(ge=0, le=10080)]
    timeout_s: Count
    scan_bytes_max: Count
    price_per_tb_usd: NotNegative
    attempts: Count
    backoff_s: NotNegative


class Aws(Section):
    """What `cryptomon deploy` makes on AWS, and how jobs run there."""

    name: Annotated[str, msgspec.Meta(pattern=r"^([a-z][a-z0-9-]{0,30}[a-z0-9])?$")]
    versioned: bool
    versions_days: Count
    alarms: bool
    alarm_mail: str
    budget_usd: Count
    metrics: bool
    image: str
    instance: str
    volume_gb: Count


class Trino(Section):
    """Where a Trino of one's own runs; the password or token is in the environment variable that is named."""

    host: str
    port: Port
    scheme: Literal["http", "https"]
    user: str
    password_from: str
    token_from: str
    catalog: SQLName
    database: SQLName
    location: str
    timeout_s: Count


class Dashboard(Section):
    """Where the dashboard is served."""

    port: Port


class Api(Section):
    """What the REST API lets its clients do."""

    port: Port
    keys: str
    calls_per_min: Count
    rows_max: Count
    range_days_max: Count
    cache_bytes: Count


class Settings(Section):
    """One environment's settings. `params/base.yaml` says what each key means and its unit."""

    environment: str
    simulated: bool
    root: str
    endpoint_url: str | None
    engine: Literal["duckdb", "athena", "trino"]
    cadence_s: Count
    metrics_file: str
    exchanges: tuple[str, ...]
    hosts: dict[str, str]
    endpoints: dict[str, tuple[str, ...]]
    calls_per_min: dict[str, Count]
    keys: dict[str, VariableName]
    min_markets: Annotated[int, msgspec.Meta(ge=0)]
    watchlist: tuple[str, ...]
    fetch: Fetch
    limits: Limits
    retention: Retention
    backfill: Backfill
    health: HealthLimits
    notify: Notify
    duckdb: DuckDB
    athena: Athena
    aws: Aws
    trino: Trino
    dashboard: Dashboard
    api: Api


def home() -> Path:
    """The project's folder: CRYPTOMON_HOME, else the first one upwards that holds params/base.yaml."""
    named = os.environ.get("CRYPTOMON_HOME")
    if named:
        if not (Path(named) / "params" / "base.yaml").is_file():
            raise ConfigError(
                f"CRYPTOMON_HOME is {named}, which has no params/base.yaml: name the project's folder."
            )
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "params" / "base.yaml").is_file():
            return folder
    raise ConfigError(f"No params/base.yaml in {here} or above: set CRYPTOMON_HOME to the project's folder.")


def environments() -> list[str]:
    """The names that params/<name>.yaml offers, without base and the files that are not settings."""
    return sorted(path.stem for path in (home() / "params").glob("*.yaml") if "environment" in _read(path))


def load_settings(
    environment: str | None = None,
    given: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of one environment.

    environment: a name in params/; None takes CRYPTOMON_ENVIRONMENT, else local.
    given: names and values as papermill injects them from `-f file.yaml` (a notebook passes its globals();
        what is no setting is left alone). One that differs from the file's counts as a flag.
    flags: settings by name, which win over all.

    Raises ConfigError: names the file or variable, the key, and the nearest known key.
    """
    environment = environment or os.environ.get("CRYPTOMON_ENVIRONMENT") or "local"
    merged = _merge(_params("base"), _own_params(environment))
    chosen = {
        key: value
        for key, value in (given or {}).items()
        if key in Settings.__struct_fields__
        and key != "environment"
        and _says_otherwise(value, merged.get(key))
    }
    for source, values in (
        ("the environment", _from_environ()),
        ("a notebook's parameters", chosen),
        ("a flag", dict(flags or {})),
    ):
        _check_keys(values, Settings, source)
        merged = _merge(merged, values)
    settings = _convert(merged, f"params/{environment}.yaml")
    settings = _with_table_names(settings)
    if "://" not in settings.root:
        settings = msgspec.structs.replace(settings, root=str((home() / settings.root).resolve()))
    return settings


def export(values: Mapping[str, Any]) -> None:
    """Make settings hold for this process and those that it starts: what flags on the command line do.

    values: by key; `fetch.attempts` names one in a section.

    Raises ConfigError: an unknown key.
    """
    for key, value in values.items():
        sections = key.split(".")
        nested: Any = value
        for section in reversed(sections):
            nested = {section: nested}
        _check_keys(nested, Settings, "a flag")
        os.environ[PREFIX + "__".join(sections).upper()] = json.dumps(value)


def choose_environment(name: str) -> None:
    """Make an environment the default of this process and those that it starts."""
    os.environ["CRYPTOMON_ENVIRONMENT"] = name


def log_level() -> str:
    """From which level on log lines are written, by CRYPTOMON_LOG_LEVEL; WARNING where it is not set.

    Raises ConfigError: it is none.
    """
    asked = os.environ.get("CRYPTOMON_LOG_LEVEL") or os.environ.get("CRYPTOMON_LOG") or "WARNING"
    return _one_of("CRYPTOMON_LOG_LEVEL", asked.upper(), _LOG_LEVELS)


def log_format() -> str:
    """How log lines are written, by CRYPTOMON_LOG_FORMAT: text, or json; text where it is not set.

    Raises ConfigError: neither.
    """
    asked = os.environ.get("CRYPTOMON_LOG_FORMAT") or "text"
    return _one_of("CRYPTOMON_LOG_FORMAT", asked.lower(), _LOG_FORMATS)


def _one_of(name: str, asked: str, known: tuple[str, ...]) -> str:
    if asked not in known:
        raise ConfigError(f"{name} is {asked!r}; it has to be one of {', '.join(known)}.")
    return asked


def secret(name: str) -> str:
    """The value of the environment variable `name`; secrets are named in params, never written there.

    Raises ConfigError: it is not set.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(f"The environment variable {name} is not set; export it before the run.")
    hide(value)
    return value


def hide(value: str) -> None:
    """Have no log line of this process show a value."""
    if value:
        _hidden.add(value)


def hidden() -> frozenset[str]:
    """The secrets that this process has read, for whoever writes lines."""
    return frozenset(_hidden)


def root_id(root: str) -> str:
    """What stands for a root in the names of files that this machine keeps about it."""
    return hashlib.sha256(root.encode()).hexdigest()[:12]


def variables(prefixes: Iterable[str], names: Iterable[str] = ()) -> dict[str, str]:
    """The environment variables that are set of these names and prefixes, with their values: handle them as secrets."""
    prefixes, names = tuple(prefixes), set(names)
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if value and (name in names or name.startswith(prefixes))
    }


def check_variable(name: Any, where: str) -> None:
    """Nothing, where a name can be that of an environment variable which holds a secret.

    Raises ConfigError: it cannot; what stands there instead may be the secret itself and is not repeated.
    """
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise ConfigError(
            f"{where} has to be the name of an environment variable, never the address or key itself."
        )
    if name.startswith(PREFIX):
        raise ConfigError(f"{where}: {name} begins with {PREFIX}, which settings do; take another name.")


def _with_table_names(settings: Settings) -> Settings:
    """Exchanges under the names that tables have: `ccxt:bitvavo` is `ccxt-bitvavo` there."""

    def named(name: str) -> str:
        return re.sub("^ccxt:", "ccxt-", name)

    by_name = ("hosts", "endpoints", "calls_per_min", "keys")
    return msgspec.structs.replace(
        settings,
        exchanges=tuple(map(named, settings.exchanges)),
        **{key: {named(name): value for name, value in getattr(settings, key).items()} for key in by_name},
    )


def _own_params(environment: str) -> dict:
    path = home() / "params" / f"{environment}.yaml"
    if not path.is_file() or environment == "base":
        raise ConfigError(f"No params/{environment}.yaml.{nearest(environment, environments())}")
    values = _params(environment)
    named = values.setdefault("environment", environment)
    if named != environment:
        raise ConfigError(
            f"params/{environment}.yaml: environment is {named!r}; it has to be the file's own name, {environment!r}."
        )
    return values


def _params(name: str) -> dict:
    values = _read(home() / "params" / f"{name}.yaml")
    _check_keys(values, Settings, f"params/{name}.yaml")
    return values


def checked(values: Mapping, kind: type, where: str) -> Any:
    """The values of another params file as a section.

    Raises ConfigError: names the file, the key, and the nearest known key.
    """
    _check_keys(values, kind, where)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}.") from error


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML that refuses a key given twice, of which the plain loader silently keeps the last."""


def _unique_mapping(loader, node):
    seen = set()
    for key, _ in node.value:
        # a key that is a list is the plain loader's to refuse
        name = str(key.value)
        if name in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {name!r} stands twice", key.start_mark
            )
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file whose keys are unique.

    Raises ConfigError: no such file, or not YAML; names the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {error}") from error


def _read(path: Path) -> dict:
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name} holds a {type(values).__name__}; it has to be keys and values.")
    return values


def _from_environ() -> dict:
    """CRYPTOMON_FETCH__ATTEMPTS=2 as {"fetch": {"attempts": 2}}; values are read as YAML."""
    values: dict = {}
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        *sections, key = name.removeprefix(PREFIX).lower().split("__")
        group = values
        for section in sections:
            group = group.setdefault(section, {})
            if not isinstance(group, dict):
                raise ConfigError(
                    f"{name}: {section} is {group!r} by another variable; it has to be keys and values."
                )
        group[key] = _parse(name, os.environ[name], key)
    return values


def _parse(name: str, text: str, key: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}={text!r} is not a YAML value: {error}") from error
    if key in ("exchanges", "watchlist") and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _check_keys(values: Mapping, struct: type, where: str, path: str = "") -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {path}{key}.{nearest(str(key), known)}")
        if isinstance(known[key], type) and issubclass(known[key], Section):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {path}{key} is {value!r}; it has to be keys and values.")
            _check_keys(value, known[key], where, f"{path}{key}.")
        else:
            _check_value(value, known[key], where, f"{path}{key}")


def _check_value(value: Any, kind: Any, where: str, key: str) -> None:
    if not _finite(value):
        raise ConfigError(f"{where}: {key} is {value!r}; it has to be a finite number.")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if key == "keys":
            # not shown, and not as the cause either: it may be a key
            raise ConfigError(
                f"{where}: keys has to be exchange: NAME_OF_AN_ENVIRONMENT_VARIABLE; the key itself stands nowhere "
                "but in the environment."
            ) from None
        raise ConfigError(f"{where}: {key} is {value!r}: {_plain(error, kind)}") from error


def _plain(error: msgspec.ValidationError, kind: Any) -> str:
    says = str(error).replace("Expected", "expected").replace("Invalid enum value", "not one of the choices")
    if get_origin(kind) is Literal:
        says = f"expected one of {', '.join(map(str, get_args(kind)))}"
    return f"{says}."


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


def nearest(name: str, known) -> str:
    """A sentence that names the closest known name, or all of them where they are few enough to read."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]}?"
    shown = sorted(known)[:_KNOWN_SHOWN]
    more = f", and {len(known) - len(shown):,} more" if len(known) > len(shown) else ""
    return f" Known: {', '.join(shown)}{more}."


def _says_otherwise(value: Any, other: Any) -> bool:
    # None and empty are a parameter's default: "as the params file says"
    return (
        value not in (None, "", [], (), {}) and (list(value) if isinstance(value, tuple) else value) != other
    )


def _merge(below: Mapping, above: Mapping) -> dict:
    merged = dict(below)
    for key, value in above.items():
        # addresses and routes by exchange are one value; only sections are merged key by key
        if (
            isinstance(value, Mapping)
            and isinstance(merged.get(key), Mapping)
            and key not in ("hosts", "endpoints")
        ):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _convert(values: dict, where: str) -> Settings:
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where} (with base.yaml): {error}.") from error
