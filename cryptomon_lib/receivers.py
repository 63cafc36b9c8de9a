"""`params/receivers.yaml`: who is told of which alerts, through what, and when not.

Owns the form of that file and the wording of its errors. No secret stands in it: an address or key that is
one is named by the environment variable that holds it, and an error never repeats what a value was.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import time
from fnmatch import fnmatchcase
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from cryptomon_lib.config import Count, Positive, check_variable, home, nearest, read_yaml
from cryptomon_lib.errors import ConfigError

FILE = "receivers.yaml"
# the alert that alerts are not evaluated: a name to subscribe to beside those of the rules
WATCH = "alerts_not_evaluated"
SEVERITIES = ("info", "warning", "critical")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")
_ARN = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_.-]+")

Severity = Literal["info", "warning", "critical"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of keys."""


class Subscription(_Part, kw_only=True):
    """What a user wants to hear of: all three have to fit; `*` stands for anything in rules and markets.

    markets are patterns of a market_id (kraken:kraken:*), of exchange:market (kraken:BTC-USD) or of a market
    (BTC-*).
    """

    rules: tuple[str, ...] = ("*",)
    severities: tuple[Severity, ...] = SEVERITIES
    markets: tuple[str, ...] = ("*",)


class Log(_Part, kw_only=True, tag_field="kind", tag="log"):
    """A line in the log of the run."""

    timeout_s: Positive | None = None


class File(_Part, kw_only=True, tag_field="kind", tag="file"):
    """One JSON object a notice, under `notices/<user>/<day>/` of the root."""

    timeout_s: Positive | None = None


class Apprise(_Part, kw_only=True, tag_field="kind", tag="apprise"):
    """Any service that apprise knows: mail, chat, telephone. url_env names the variable that holds its address."""

    url_env: str
    timeout_s: Positive | None = None


class Webhook(_Part, kw_only=True, tag_field="kind", tag="webhook"):
    """A signed POST. The address stands here (url), or in the variable that url_env names where it is secret.

    secret_env names the variable with the key of the signature.
    """

    secret_env: str
    url: str | None = None
    url_env: str | None = None
    timeout_s: Positive | None = None


class Sns(_Part, kw_only=True, tag_field="kind", tag="sns"):
    """An SNS topic: one message a transition, with attributes for the filter policies of its subscribers."""

    topic_arn: str
    endpoint_url: str | None = None
    timeout_s: Positive | None = None

    @property
    def region(self) -> str:
        """The region that the topic is in."""
        return _ARN.fullmatch(self.topic_arn).group(1)


Receiver = Log | File | Apprise | Webhook | Sns
_KINDS = {kind.__struct_config__.tag: kind for kind in (Log, File, Apprise, Webhook, Sns)}


class User(_Part, kw_only=True):
    """One who is told: what of, where, when not, and how often at most.

    quiet_hours: "22:00-07:00" in time_zone; what comes meanwhile is told when they end, as one digest.
    always: severities that neither quiet hours nor the cap hold back. notices_per_hour: at most so many
    messages within any 60 minutes, the rest follows as a digest; null is no cap. resolved: whether to tell of
    ends too. environments: only in these, where any is named.
    """

    name: str = ""
    alerts: tuple[Subscription, ...] = (Subscription(),)
    receivers: dict[str, Receiver]
    time_zone: str = "UTC"
    quiet_hours: str | None = None
    always: tuple[Severity, ...] = ()
    notices_per_hour: Count | None = 10
    resolved: bool = True
    environments: tuple[str, ...] = ()

    @property
    def zone(self) -> ZoneInfo:
        """The time zone in which quiet hours are meant and times are told."""
        return ZoneInfo(self.time_zone)

    @property
    def quiet(self) -> tuple[time, time] | None:
        """When quiet hours begin and end, on the clock of the zone."""
        if self.quiet_hours is None:
            return None
        hours = [int(part) for part in _QUIET.fullmatch(self.quiet_hours).groups()]
        return time(hours[0], hours[1]), time(hours[2], hours[3])

    def wants(self, rule: str, severity: str, market_names: Iterable[str]) -> bool:
        """Whether an alert is one of those subscribed to; the market goes by any of its names."""
        names = tuple(market_names)
        return any(
            severity in one.severities
            and any(fnmatchcase(rule, pattern) for pattern in one.rules)
            and any(fnmatchcase(name, pattern) for pattern in one.markets for name in names)
            for one in self.alerts
        )


def load_users(
    environment: str | None = None,
    rules: Mapping[str, Iterable[str]] | None = None,
    is_rule: Callable[[str], bool] = lambda pattern: False,
) -> Mapping[str, User]:
    """All users by name; with an environment, those who are told in it.

    rules: the names that there are, each with the receivers that the rule itself names. A subscription to none of
        them, and a receiver that no user has, is then refused. is_rule: whether a pattern fits a rule kept elsewhere.

    Raises ConfigError: names the file, the user, the key, and the nearest known one.
    """
    found = _parsed(read_yaml(home() / "params" / FILE))
    if rules is not None:
        _check_rules(found, {WATCH: (), **rules}, is_rule)
    if environment is None:
        return found
    return {
        name: user
        for name, user in found.items()
        if not user.environments or environment in user.environments
    }


def user_named(name: str) -> User:
    """One user.

    Raises ConfigError: there is none of that name; names the nearest.
    """
    users = load_users()
    if name not in users:
        raise ConfigError(f"params/{FILE} has no user {name!r}.{nearest(name, users)}")
    return users[name]


def _parsed(text: Any) -> dict[str, User]:
    _known(text, ("users",), f"params/{FILE}")
    users = text.get("users") or {}
    if not isinstance(users, Mapping):
        raise ConfigError(f"params/{FILE}: users has to be name: {{receivers: …, alerts: …}}.")
    return {str(name): _user(str(name), keys) for name, keys in users.items()}


def _check_rules(
    users: Mapping[str, User], rules: Mapping[str, Iterable[str]], is_rule: Callable[[str], bool]
) -> None:
    for user in users.values():
        for pattern in {pattern for one in user.alerts for pattern in one.rules}:
            if not any(fnmatchcase(known, pattern) for known in rules) and not is_rule(pattern):
                raise ConfigError(
                    f"params/{FILE}: user {user.name}: rules: no rule is called {pattern!r}.{nearest(pattern, rules)}"
                )
    receivers = {name for user in users.values() for name in user.receivers}
    for rule, named in rules.items():
        for name in named:
            if name not in receivers:
                raise ConfigError(
                    f"params/alerts.yaml: rule {rule}: no user of params/{FILE} has a receiver {name!r}."
                    f"{nearest(name, receivers)}"
                )


def _user(name: str, keys: Any) -> User:
    where = f"params/{FILE}: user {name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: a name is made of letters, digits and _ . @ + -; it becomes part of keys."
        )
    _known(keys, [field for field in User.__struct_fields__ if field != "name"], where)
    for number, one in enumerate(_list(keys, "alerts", where), 1):
        _known(one, Subscription.__struct_fields__, f"{where}: alerts, no. {number}")
    receivers = keys.get("receivers")
    if not isinstance(receivers, Mapping) or not receivers:
        raise ConfigError(f"{where}: receivers has to name at least one, as in log: {{kind: log}}.")
    for receiver, its in receivers.items():
        _check_receiver(its, f"{where}: receiver {receiver}")
        if not _NAME.fullmatch(str(receiver)):
            raise ConfigError(
                f"{where}: receiver {receiver}: a name is made of letters, digits and _ . @ + -."
            )
    user = _converted({**keys, "name": name}, User, where)
    _check_user(user, where)
    return user


def _check_user(user: User, where: str) -> None:
    if user.quiet_hours is not None:
        if not _QUIET.fullmatch(user.quiet_hours):
            raise ConfigError(f'{where}: quiet_hours is {user.quiet_hours!r}; write it as "22:00-07:00".')
        if user.quiet[0] == user.quiet[1]:
            raise ConfigError(
                f"{where}: quiet_hours begin and end at the same time; leave the key out instead."
            )
    try:
        _ = user.zone
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"{where}: time_zone is {user.time_zone!r}, which is none; write it as Europe/Berlin."
        ) from error


def _check_receiver(keys: Any, where: str) -> None:
    kind = keys.get("kind") if isinstance(keys, Mapping) else None
    if kind not in _KINDS:
        said = f"kind is {kind!r}." if isinstance(kind, str) else "it has to say its kind, as in {kind: log}."
        raise ConfigError(f"{where}: {said}{nearest(str(kind), _KINDS)}")
    _known(keys, ["kind", *_KINDS[kind].__struct_fields__], where)
    for key in ("url_env", "secret_env"):
        if key in keys:
            check_variable(keys[key], f"{where}: {key}")
    receiver = _converted(keys, _KINDS[kind], where)
    if isinstance(receiver, Webhook):
        _check_address(receiver, where)
    if isinstance(receiver, Sns) and not _ARN.fullmatch(receiver.topic_arn):
        raise ConfigError(f"{where}: topic_arn has to be arn:aws:sns:REGION:ACCOUNT:TOPIC.")


def _check_address(receiver: Webhook, where: str) -> None:
    if (receiver.url is None) == (receiver.url_env is None):
        raise ConfigError(f"{where}: give either url, or url_env where the address is secret.")
    if receiver.url is not None and not re.fullmatch(r"https?://[^@?#\s]+", receiver.url):
        raise ConfigError(
            f"{where}: url has to be http(s)://host/path; with a user, key or query in it, it is secret: use url_env."
        )


def _known(keys: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(keys, Mapping):
        raise ConfigError(f"{where}: it has to be keys and values. Known: {', '.join(sorted(known))}.")
    for key in keys:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}.{nearest(str(key), known)}")


def _list(keys: Mapping, key: str, where: str) -> list:
    value = keys.get(key, [])
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key} has to be a list.")
    return value


def _converted(keys: Mapping, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(keys, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(str(error))}.") from error


def _plain(says: str) -> str:
    """msgspec's message with the choices in place of `Invalid enum value`."""
    if "Invalid enum value" in says:
        return f"{says.replace('Invalid enum value', 'not one of the severities')}: {', '.join(SEVERITIES)}"
    return says
