"""One GET of JSON over HTTP: time limits, retries, pacing per host, a cap on size; success is checked.

HTTP 200 is not success: `Fetcher.get` raises the error of the tree that fits an HTML page, `null`, an empty
list, JSON cut short, or the exchange's own error body, and retries those worth another try.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
import tenacity
import urllib3

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
_REDIRECTS_MAX = 3


@dataclass(frozen=True)
class Answer:
    """A payload as received, when it arrived (UTC), and what the headers said of limits."""

    body: bytes
    collected_at: datetime
    status: int
    limits: dict[str, str]


class Fetcher:
    """Calls to exchanges that share connections and pace.

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
    ):
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
    ) -> Answer:
        """The payload of one call, retried where that makes sense.

        refused: gives the exchange's own words when a body is its error, else None.

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
        return retrying(self._once, url, exchange, refused, dict(headers or {}))

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

    def _once(self, url: str, exchange: str, refused, headers: dict) -> Answer:
        self._pace(urlsplit(url).netloc)
        shown = without_secrets(url)
        where = {"exchange": exchange, "url": shown}
        try:
            with self._open(url, exchange, shown, headers) as response:
                return self._read(response, exchange, shown, refused)
        except urllib3.exceptions.DecodeError as error:
            raise TruncatedBody("the compressed body is broken", **where) from _cause(error, url)
        except urllib3.exceptions.ProtocolError as error:
            raise TruncatedBody("the connection ended in the middle of the body", **where) from _cause(
                error, url
            )
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            waited = f"{self.settings.connect_timeout_s:g} s to connect, {self.settings.read_timeout_s:g} s to read"
            raise Unreachable(f"no answer within the time limits ({waited})", **where) from _cause(error, url)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            says = f"no connection ({without_secrets(str(error))[:200]})"
            raise Unreachable(says, **where) from _cause(error, url)
        except ValueError as error:
            raise RedirectRefused(f"sent on to an address that is none ({error})", **where) from _cause(
                error, url
            )

    def _pace(self, host: str) -> None:
        with self._lock:
            now = self._clock()
            starts = max(now, self._next_at.get(host, now))
            self._next_at[host] = starts + self.settings.pause_s
        if starts > now:
            self._sleep(starts - now)

    def _open(self, url: str, exchange: str, shown: str, headers: dict) -> requests.Response:
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
                raise RedirectRefused(
                    f"sent on to another host, {urlsplit(target).netloc or 'none'}; not followed. "
                    "If the exchange moved, set hosts in params",
                    exchange=exchange,
                    url=shown,
                    status=response.status_code,
                )
            url = target
        raise RedirectRefused(f"more than {_REDIRECTS_MAX} redirects", exchange=exchange, url=shown)

    def _session(self) -> requests.Session:
        # a session is not safe to share between threads
        if not hasattr(self._sessions, "session"):
            session = requests.Session()
            session.headers.update(
                {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}
            )
            self._sessions.session = session
        return self._sessions.session

    def _read(self, response: requests.Response, exchange: str, shown: str, refused) -> Answer:
        started = self._clock()
        chunks, size = [], 0
        # what has arrived, not a full chunk: waiting for that, a body that drips would hold the run for ever
        while chunk := response.raw.read1(1 << 18, decode_content=True):
            size += len(chunk)
            if size > self.settings.body_bytes_max:
                raise BodyTooLarge(
                    f"more than {self.settings.body_bytes_max:,} bytes (fetch.body_bytes_max)",
                    exchange=exchange,
                    url=shown,
                    status=response.status_code,
                    head=chunks[0] if chunks else chunk,
                )
            # the read timeout is per packet
            if self._clock() - started > 4 * self.settings.read_timeout_s:
                raise Unreachable(
                    "the body takes too long", exchange=exchange, url=shown, status=response.status_code
                )
            chunks.append(chunk)
        body = b"".join(chunks)
        collected_at = self._now()
        limits = {
            name.lower(): value for name, value in response.headers.items() if _LIMIT_HEADERS.match(name)
        }
        self._check_status(response, exchange, shown, body, refused)
        check_body(body, exchange=exchange, url=shown, status=response.status_code, refused=refused)
        return Answer(body, collected_at, response.status_code, limits)

    def _check_status(
        self, response: requests.Response, exchange: str, shown: str, body: bytes, refused
    ) -> None:
        status = response.status_code
        if status == 200:
            return
        where = {"exchange": exchange, "url": shown, "status": status, "head": body}
        if status in (418, 429):
            # 418 is what comes after 429 was not heeded: a ban for minutes to days
            says = "banned for asking too often" if status == 418 else "asked too often"
            error = RateLimited(says + _own_words(refused, body), **where)
            error.retry_after_s = _retry_after_s(response.headers.get("Retry-After"), self._now())
            raise error
        if status in (401, 403, 451):
            says = {
                401: "a key is missing or wrong",
                403: "refused, often because of the country or address it is asked from",
                451: "not served in this country; set hosts in params to the exchange's host for it",
            }[status]
            raise Forbidden(says + _own_words(refused, body), **where)
        raise BadStatus("no success" + _own_words(refused, body), **where)


def check_body(
    body: bytes, *, exchange: str, url: str, status: int | None = None, refused: Callable[[bytes], str | None]
) -> None:
    """Nothing, where a body is JSON with something in it and is not the exchange's own error.

    Raises EmptyBody, NotJSON, TruncatedBody or ExchangeRefused.
    """
    where = {"exchange": exchange, "url": url, "status": status, "head": body}
    text = body.strip(_BLANKS)
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
        if "truncated" in str(error):
            raise TruncatedBody(f"the JSON ends after {len(text):,} bytes in the middle", **where) from error
        raise NotJSON(f"not valid JSON ({error})", **where) from error


def without_secrets(url: str) -> str:
    """A URL, or a text with URLs in it, whose keys, tokens and signatures are blanked."""
    return re.sub(r"//[^/@\s]+@", "//***@", _SECRET.sub(r"\1***", url))


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
    return error if without_secrets(url) == url else None


def _blanked(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


# it logs the URL of every call at debug level
logging.getLogger("urllib3.connectionpool").addFilter(_blanked)


def _log_retry(state: tenacity.RetryCallState) -> None:
    log.warning("%s Trying again in %.1f s.", state.outcome.exception(), state.next_action.sleep)
