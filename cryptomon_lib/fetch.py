"""One GET of JSON over HTTP: time limits, retries, pacing per host, a cap on size; success is checked.

Owns what an exchange's refusal means for the next calls (see budget.py), and that a key is sent and never shown.

HTTP 200 is not success: `Fetcher.get` raises the error of the tree that fits an HTML page, `null`, an empty
list, JSON cut short, or the exchange's own error body, and retries those worth another try.
"""

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
import requests
import tenacity
import urllib3

from cryptomon_lib.budget import BACKGROUND, LIVE, Budgets
from cryptomon_lib.config import Fetch
from cryptomon_lib.errors import (
    BadStatus,
    BodyTooLarge,
    EmptyBody,
    ExchangeRefused,
    FetchError,
    Forbidden,
    NotJSON,
    RateLimited,
    RedirectRefused,
    TruncatedBody,
    Unreachable,
)

log = logging.getLogger(__name__)

USER_AGENT = "cryptomon/0.1 (market data monitor)"
_SECRET = re.compile(r"(?i)([?&](?:[^=&]*(?:key|token|secret|signature|sign|password|auth)[^=&]*)=)[^&#]*")
_LIMIT_HEADERS = re.compile(
    r"(?i)^(x-mbx-used-weight.*|x-ratelimit.*|ratelimit.*|retry-after|x-sapi-used.*|gw-ratelimit.*)$"
)
# an error is short; what is longer is looked at by the exchange's own module alone
_REFUSAL_BYTES_MAX = 65536
_BLANKS = b" \t\r\n"
_EMPTY = re.compile(rb"\[\s*\]|\{\s*\}")
_NO_ROWS = re.compile(rb"\[\s*\]")
_BYTE = re.compile(r"\(byte (\d+)\)")
_REDIRECTS_MAX = 3
# a ban whose length the exchange does not tell
_BAN_S = 120.0
_KEY_CHARACTERS_MIN = 8
# what this process knows to be secret, in every form in which it could come back
_hidden: dict[str, str] = {}


@dataclass(frozen=True)
class Answer:
    """A payload as received, when it arrived (UTC), and what the headers said of limits."""

    body: bytes
    collected_at: datetime
    status: int
    limits: dict[str, str]


@dataclass(frozen=True)
class _Call:
    """What is asked, and how its answer is to be understood."""

    url: str
    exchange: str
    refused: Callable[[bytes], str | None]
    headers: dict[str, str]
    may_be_empty: bool = False
    elsewhere: str | None = None

    @property
    def shown(self) -> str:
        return without_secrets(self.url)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def where(self) -> dict[str, str]:
        return {"exchange": self.exchange, "url": self.shown}


@dataclass(frozen=True)
class Key:
    """An exchange's API key: sent as the header of that name, or as a parameter where it takes no header.

    value: None where it is not at hand; `absent` then says why, and nothing is asked.
    """

    value: str | None = field(repr=False)
    header: str | None = None
    parameter: str | None = None
    absent: str = ""


class Fetcher:
    """Calls to exchanges that share connections and pace.

    budgets: the pace that all processes of this machine keep together; None: each on its own.
    calls_per_min: by exchange; one that is not named has no budget. share: of a budget's calls, for work that can
    wait: the rest is left to the live polls. keys: by exchange.
    sleep, clock (seconds, monotonic) and now are arguments so that tests need not wait.
    """

    def __init__(
        self,
        settings: Fetch,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: random.Random | None = None,
        budgets: Budgets | None = None,
        calls_per_min: Mapping[str, float] | None = None,
        share: float | None = None,
        keys: Mapping[str, Key] | None = None,
    ):
        self.budgets, self._calls_per_min, self._share = budgets, dict(calls_per_min or {}), share
        self._keys = dict(keys or {})
        for key in self._keys.values():
            hide(key.value)
        self.settings, self._sleep, self._clock, self._now = settings, sleep, clock, now
        self._chance = chance or random.Random()
        self._lock = threading.Lock()
        self._next_at: dict[str, float] = {}
        self._sessions = threading.local()

    def get(
        self,
        url: str,
        *,
        exchange: str,
        refused: Callable[[bytes], str | None] = lambda body: None,
        headers: Mapping[str, str] | None = None,
        may_be_empty: bool = False,
        elsewhere: str | None = None,
    ) -> Answer:
        """The payload of one call, retried where that makes sense.

        refused: gives the exchange's own words when a body is its error, else None. may_be_empty: an empty list is
        an answer: no candle where nothing was traded. elsewhere: the address to use where this one does not serve.

        Raises FetchError, always one of its kinds (see cryptomon_lib.errors), that of the last try.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, FetchError) and error.retryable
            ),
            stop=self._stop,
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=_log_retry,
            reraise=True,
        )
        call = _Call(url, exchange, refused, dict(headers or {}), may_be_empty, elsewhere)
        return retrying(self._once, call)

    def close(self) -> None:
        """Let the connections of this thread go."""
        session = self._sessions.__dict__.pop("session", None)
        if session is not None:
            session.close()

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        if state.attempt_number >= self.settings.attempts:
            return True
        asked = getattr(state.outcome.exception(), "retry_after_s", None)
        # waiting longer than the next tick would only queue ticks up
        return asked is not None and asked > self.settings.retry_after_max_s

    def _wait(self, state: tenacity.RetryCallState) -> float:
        asked = getattr(state.outcome.exception(), "retry_after_s", None)
        step = min(self.settings.backoff_s * 2 ** (state.attempt_number - 1), self.settings.backoff_max_s)
        jittered = step * self._chance.uniform(0.5, 1.5)
        return max(asked or 0.0, jittered)

    def _once(self, call: _Call) -> Answer:
        self._pace(call)
        url, headers = self._with_key(call)
        try:
            with self._open(call, url, headers) as response:
                return self._read(response, call)
        except urllib3.exceptions.DecodeError as error:
            raise TruncatedBody("the compressed body is broken", **call.where) from _cause(error, url)
        except urllib3.exceptions.ProtocolError as error:
            raise TruncatedBody("the connection ended in the middle of the body", **call.where) from _cause(
                error, url
            )
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            waited = f"{self.settings.connect_timeout_s:g} s to connect, {self.settings.read_timeout_s:g} s to read"
            raise Unreachable(f"no answer within the time limits ({waited})", **call.where) from _cause(
                error, url
            )
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            says = f"no connection ({without_secrets(str(error))[:200]})"
            raise Unreachable(says, **call.where) from _cause(error, url)
        except ValueError as error:
            says = f"sent on to an address that is none ({without_secrets(str(error))})"
            raise RedirectRefused(says, **call.where) from _cause(error, url)

    def _pace(self, call: _Call) -> None:
        allowed = self._calls_per_min.get(call.exchange)
        if self.budgets is not None and allowed is not None:
            self._check_ban(call)
            if self._share is not None:
                # its own queue first: waiting in the common one would hold the live polls up
                self._wait_for(self.budgets.reserve(call.host, allowed * self._share, BACKGROUND))
            self._wait_for(self.budgets.reserve(call.host, allowed, LIVE))
            self._check_ban(call)
        with self._lock:
            now = self._clock()
            starts = max(now, self._next_at.get(call.host, now))
            self._next_at[call.host] = starts + self.settings.pause_s
        self._wait_for(starts - now)

    def _wait_for(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _check_ban(self, call: _Call) -> None:
        ban = self.budgets.banned(call.host)
        if ban is None:
            return
        if ban.left_s <= self.settings.retry_after_max_s:
            self._sleep(ban.left_s)
            return
        error = RateLimited(
            f"not asked: for another {ban.left_s:.0f} s it wants no call from here ({ban.says})", **call.where
        )
        error.retry_after_s = ban.left_s
        raise error

    def _complained(self, call: _Call, status: int, retry_after_s: float | None) -> None:
        """What a refusal means for whoever asks next, in this process or another."""
        if self.budgets is None or call.exchange not in self._calls_per_min:
            return
        if status == 429:
            self.budgets.slow_down(call.host)
        if status == 418 and retry_after_s is None:
            retry_after_s = _BAN_S
        if retry_after_s:
            self.budgets.ban(call.host, retry_after_s, f"HTTP {status} at {self._now():%H:%M:%S} UTC")

    def _with_key(self, call: _Call) -> tuple[str, dict[str, str]]:
        """The address and the headers as they go out; the key is in no other place."""
        key = self._keys.get(call.exchange)
        if key is None:
            return call.url, call.headers
        if key.value is None:
            raise Forbidden(key.absent, **call.where)
        if key.header:
            return call.url, call.headers | {key.header: key.value}
        joint = "&" if urlsplit(call.url).query else "?"
        return f"{call.url}{joint}{urlencode({key.parameter: key.value})}", call.headers

    def _open(self, call: _Call, url: str, headers: dict) -> requests.Response:
        host = urlsplit(url)[:2]
        for _ in range(_REDIRECTS_MAX):
            response = self._session().get(
                url,
                headers=headers,
                timeout=(self.settings.connect_timeout_s, self.settings.read_timeout_s),
                stream=True,
                allow_redirects=False,
            )
            if not response.is_redirect:
                return response
            target = urljoin(url, response.headers["Location"])
            response.close()
            if urlsplit(target)[:2] != host:
                named = without_secrets(urlsplit(target).netloc) or "none"
                raise RedirectRefused(
                    f"sent on to another host, {named}; not followed. If the exchange moved, set hosts in params",
                    **call.where,
                    status=response.status_code,
                )
            url = target
        raise RedirectRefused(f"more than {_REDIRECTS_MAX} redirects", **call.where)

    def _session(self) -> requests.Session:
        # a session is not safe to share between threads
        if not hasattr(self._sessions, "session"):
            session = requests.Session()
            session.headers.update(
                {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}
            )
            self._sessions.session = session
        return self._sessions.session

    def _read(self, response: requests.Response, call: _Call) -> Answer:
        started = self._clock()
        where = call.where | {"status": response.status_code}
        chunks, size = [], 0
        # what has arrived, not a full chunk: waiting for that, a body that drips would hold the run for ever
        while chunk := response.raw.read1(1 << 18, decode_content=True):
            size += len(chunk)
            if size > self.settings.body_bytes_max:
                raise BodyTooLarge(
                    f"more than {self.settings.body_bytes_max:,} bytes (fetch.body_bytes_max)",
                    **where,
                    head=_without_keys(chunks[0] if chunks else chunk),
                )
            # the read timeout is per packet
            if self._clock() - started > 4 * self.settings.read_timeout_s:
                raise Unreachable("the body takes too long", **where)
            chunks.append(chunk)
        body = _without_keys(b"".join(chunks))
        collected_at = self._now()
        limits = {
            name.lower(): without_secrets(value)
            for name, value in response.headers.items()
            if _LIMIT_HEADERS.match(name)
        }
        self._check_status(response, call, body)
        check_body(body, **where, refused=call.refused, may_be_empty=call.may_be_empty)
        return Answer(body, collected_at, response.status_code, limits)

    def _check_status(self, response: requests.Response, call: _Call, body: bytes) -> None:
        status = response.status_code
        if status == 200:
            return
        where = call.where | {"status": status, "head": body}
        words = _own_words(call.refused, body)
        retry_after_s = _retry_after_s(response.headers.get("Retry-After"), self._now())
        if status in (403, 418, 429):
            self._complained(call, status, retry_after_s)
        if status in (418, 429):
            # 418 is what comes after 429 was not heeded: a ban for minutes to days
            says = "banned for asking too often" if status == 418 else "asked too often"
            error = RateLimited(says + words, **where)
            error.retry_after_s = retry_after_s
            raise error
        if status in (401, 403, 451):
            says = {
                401: "a key is missing or wrong; name its environment variable under keys in params",
                403: "refused, often because of the country or address it is asked from",
                451: "not served in this country",
            }[status]
            raise Forbidden(says + words + (_other_host(call) if status != 401 else ""), **where)
        raise BadStatus("no success" + words, **where)


def check_body(
    body: bytes,
    *,
    exchange: str,
    url: str,
    status: int | None = None,
    refused: Callable[[bytes], str | None],
    may_be_empty: bool = False,
) -> None:
    """Nothing, where a body is JSON with something in it and is not the exchange's own error.

    Raises EmptyBody, NotJSON, TruncatedBody or ExchangeRefused.
    """
    where = {"exchange": exchange, "url": url, "status": status, "head": body}
    text = body.strip(_BLANKS)
    if may_be_empty and _NO_ROWS.fullmatch(text):
        return
    if text in (b"", b"null") or _EMPTY.fullmatch(text):
        raise EmptyBody(f"an answer without data, {text.decode() or 'no bytes'}", **where)
    if text[:1] not in b"{[":
        raise NotJSON("no JSON; a block page, a proxy, or a moved address", **where)
    says = _says_refused(refused, body) or _common_refusal(text)
    if says:
        error = ExchangeRefused(f"the exchange refused: {says}", **where)
        error.busy = bool(
            re.search(
                r"(?i)busy|unavailable|too many|too_fast|rate.?limit|maintenance|time.?out|server.?error|internal",
                says,
            )
        )
        raise error
    _check_complete(text, where)


def _check_complete(text: bytes, where: dict) -> None:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        # cut inside a number, its end is what is wrong
        place = _BYTE.search(str(error))
        if "truncated" in str(error) or (place and int(place[1]) >= len(text)):
            raise TruncatedBody(f"the JSON ends after {len(text):,} bytes in the middle", **where) from error
        raise NotJSON(f"not valid JSON ({error})", **where) from error


def hide(secret: str | None) -> None:
    """Blank this value from now on wherever it could come back: messages, logs, bodies."""
    for form in _forms(secret) if secret else ():
        _hidden[form] = "*" * len(form)


def without_secrets(url: str) -> str:
    """A URL, or a text with URLs in it, whose keys, tokens and signatures are blanked."""
    for form in _hidden:
        url = url.replace(form, "***")
    return re.sub(r"//[^/@\s]+@", "//***@", _SECRET.sub(r"\1***", url))


def _forms(secret: str) -> set[str]:
    """A secret as it is, as an address has it, and as JSON has it."""
    return {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}


def _without_keys(body: bytes) -> bytes:
    """A body as received; a key that it echoes is blanked, at the same length."""
    for form, blank in _hidden.items():
        # a shorter one is no key, and would be found in any number
        if len(form) >= _KEY_CHARACTERS_MIN and form.encode() in body:
            log.warning("an answer echoed an API key; it is blanked in what is kept")
            body = body.replace(form.encode(), blank.encode())
    return body


def _other_host(call: _Call) -> str:
    """Where to ask instead, where that is known."""
    if call.elsewhere and urlsplit(call.elsewhere).netloc != call.host:
        return f"; use its other host: set hosts: {{{call.exchange}: {call.elsewhere}}} in params"
    return f"; set hosts in params to its host for your country, or leave {call.exchange} out of exchanges"


def _own_words(refused: Callable[[bytes], str | None], body: bytes) -> str:
    says = _says_refused(refused, body)
    return f", it says {says!r}" if says else ""


def _says_refused(refused: Callable[[bytes], str | None], body: bytes) -> str | None:
    try:
        return refused(body)
    except msgspec.DecodeError:
        return None


def _common_refusal(text: bytes) -> str | None:
    """What a short body says that is an error in one of the forms that exchanges, and proxies before them, use."""
    if len(text) > _REFUSAL_BYTES_MAX:
        return None
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    if isinstance(found, list):
        return " ".join(map(str, found)) if found[:1] == ["error"] else None
    told = {name.lower(): value for name, value in found.items()}
    if error := told.get("error") or told.get("errors"):
        return str(error)
    words = told.pop("message", None) or told.pop("msg", None)
    failed = told.get("success") in (False, 0) or "error" in (
        str(told.get(name)).lower() for name in ("status", "result", "response")
    )
    has_rows = any(isinstance(value, list | dict) and value for value in told.values())
    return str(words) if words and (failed or not has_rows) else None


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds to wait of a Retry-After header, which is a number of seconds or a date."""
    if not value:
        return None
    if value.strip().replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _cause(error: Exception, url: str) -> Exception | None:
    # the cause's own text holds the whole URL, and a traceback shows it
    told = f"{url} {error}"
    return error if without_secrets(told) == told else None


def _blanked(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


# it logs the URL of every call at debug level
logging.getLogger("urllib3.connectionpool").addFilter(_blanked)


def _log_retry(state: tenacity.RetryCallState) -> None:
    log.warning("%s Trying again in %.1f s.", state.outcome.exception(), state.next_action.sleep)
