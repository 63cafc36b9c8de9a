"""One GET over a real socket: what an exchange, a proxy or the net may do to it, and what is said of that."""

import gzip
import json
import logging
import pickle
import random
import re
import socket
import threading
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from cryptomon_lib import errors, exchanges
from cryptomon_lib.config import load_settings
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
from cryptomon_lib.fetch import Fetcher, without_secrets
from cryptomon_lib.simulator import Simulator

GOOD = b'{"BTC-USD": {"last": "100"}}'
NOW = datetime(2026, 7, 27, 12, tzinfo=UTC)


class Server:
    """A socket that gives prepared answers, one a connection, the last one for ever; keeps what was asked."""

    def __init__(self):
        self.asked, self.answers = [], []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.host}/tickers"
        threading.Thread(target=self._serve, daemon=True).start()

    def will(self, *answers):
        self.answers = list(answers)
        return self

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                more = connection.recv(65536)
                if not more:
                    return
                head += more
            self.asked.append(head.decode())
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            try:
                answer(connection) if callable(answer) else connection.sendall(answer)
            except OSError:
                return


def http(body=GOOD, status=200, length=None, **headers):
    """An answer on the wire."""
    head = {"Content-Length": len(body) if length is None else length, "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode("latin-1") + body


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.time, self.slept = 1000.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fetcher(clock):
    """Makes a fetcher that waits for nothing; settings by name."""
    made = []

    def make(**settings):
        defaults = {"attempts": 1, "pause_s": 0, "connect_timeout_s": 2, "read_timeout_s": 2}
        fetch = load_settings("local", flags={"fetch": defaults | settings}).fetch
        made.append(Fetcher(fetch, sleep=clock.sleep, clock=clock, now=lambda: NOW, chance=random.Random(7)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def get(fetcher, url, **given):
    return fetcher.get(url, exchange="coinbase", **given)


# ---- success


def test_the_body_comes_back_byte_for_byte_with_its_time_and_limits(server, fetcher):
    body = b' {"price": 1.0e-8,\n"name": "\xe5\xb8\x81"}\n'
    server.will(http(body, X_MBX_USED_WEIGHT_1M="80", Retry_After="0", Server="x"))
    answer = get(fetcher(), server.url)
    assert (answer.body, answer.status, answer.collected_at) == (body, 200, NOW)
    assert answer.limits == {"x-mbx-used-weight-1m": "80", "retry-after": "0"}


def test_a_call_says_who_it_is_and_takes_gzip(server, fetcher):
    body = json.dumps({str(number): number for number in range(10_000)}).encode()
    server.will(http(gzip.compress(body), Content_Encoding="gzip"))
    assert get(fetcher(), server.url, headers={"X-As-Of": "then"}).body == body
    asked = server.asked[0]
    assert asked.startswith("GET /tickers HTTP/1.1")
    assert "User-Agent: cryptomon/" in asked and "Accept-Encoding: gzip" in asked and "X-As-Of: then" in asked


def test_a_chunked_body_is_put_together(server, fetcher):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (GOOD[:7], GOOD[7:])) + b"0\r\n\r\n"
    server.will(head + chunks)
    assert get(fetcher(), server.url).body == GOOD


# ---- HTTP 200 is not success


def kraken_refused(body):
    return exchanges.get("kraken").refused(body)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"", EmptyBody, "no bytes"),
        (b"  \n", EmptyBody, "no bytes"),
        (b"null", EmptyBody, "null"),
        (b" [] ", EmptyBody, r"\[\]"),
        (b"{}\n", EmptyBody, "{}"),
        (b"[ ]", EmptyBody, r"\[ \]"),
        (b"{\r\n}", EmptyBody, "without data"),
        (b"<!DOCTYPE html><html>Just a moment...</html>", NotJSON, "block page"),
        (b"error code: 1015", NotJSON, "no JSON"),
        (b'"maintenance"', NotJSON, "no JSON"),
        (b"true", NotJSON, "no JSON"),
        (b'{"a": 1} {"b": 2}', NotJSON, "not valid JSON"),
        (b"{'a': 1}", NotJSON, "not valid JSON"),
        (b'{"a": NaN}', NotJSON, "not valid JSON"),
        (b'{"result": {"BTC/USD": {"a": ["1"', TruncatedBody, "ends after 33 bytes"),
        (b'[{"symbol": "BTC', TruncatedBody, "in the middle"),
        (b"[", TruncatedBody, "ends after 1 bytes"),
        (b'["error", 10020, "symbol: invalid"]', ExchangeRefused, "error 10020 symbol: invalid"),
        (b'{"success":false,"message":"down","result":[{"a":1}]}', ExchangeRefused, "down"),
        (b'{"code":"51001","data":[],"msg":"no such instrument"}', ExchangeRefused, "no such instrument"),
        (b'{"error":["EGeneral:Too many requests"]}', ExchangeRefused, "EGeneral:Too many requests"),
        (b'{"error":["EQuery:Unknown asset pair"]}', ExchangeRefused, "EQuery:Unknown asset pair"),
    ],
)
def test_a_200_that_brings_no_data_raises_its_own_error(body, kind, says, server, fetcher):
    server.will(http(body))
    with pytest.raises(FetchError, match=says) as caught:
        get(fetcher(), server.url, refused=kraken_refused)
    error = caught.value
    assert type(error) is kind
    assert (error.exchange, error.url, error.status) == ("coinbase", server.url, 200)
    assert error.head == body[:200]
    assert server.host in str(error) and "HTTP 200" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":[],"result":{"BTC/USD":{}}}',
        b'{"code":"0","msg":"","data":[{"last":"1"}]}',
        b'{"code":"00000","msg":"success","data":[{"last":"1"}]}',
        b'{"status":"ok","data":[{"close":1}]}',
        b'{"serverTime":1785153600000}',
        b'{"result":{"error:usd":{"price":{"last":1}}}}',
        b'[["error",1]]',
        b'[{"message":"a market of that name"}]',
    ],
)
def test_data_that_only_looks_like_an_error_is_data(body, server, fetcher):
    server.will(http(body))
    assert get(fetcher(), server.url).body == body


@pytest.mark.parametrize(
    ("says", "tries"),
    [
        ("EService:Busy", 3),
        ("EService:Unavailable", 3),
        ("EGeneral:Too many requests", 3),
        ("EQuery:Unknown asset pair", 1),
    ],
)
def test_an_exchange_that_is_busy_is_asked_again_and_one_that_says_no_is_not(says, tries, server, fetcher):
    server.will(http(json.dumps({"error": [says]}).encode()))
    with pytest.raises(ExchangeRefused):
        get(fetcher(attempts=3), server.url, refused=kraken_refused)
    assert len(server.asked) == tries


# ---- statuses


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        (401, Forbidden, 1),
        (403, Forbidden, 1),
        (451, Forbidden, 1),
        (400, BadStatus, 1),
        (404, BadStatus, 1),
        (204, BadStatus, 1),
        (408, BadStatus, 3),
        (500, BadStatus, 3),
        (502, BadStatus, 3),
        (503, BadStatus, 3),
        (520, BadStatus, 3),
        (418, RateLimited, 3),
        (429, RateLimited, 3),
    ],
)
def test_a_status_has_its_error_and_is_tried_again_where_that_helps(status, kind, tries, server, fetcher):
    # whatever the body says: a valid payload with a 500 is no payload
    server.will(http(b"" if status == 204 else GOOD, status))
    with pytest.raises(FetchError, match=f"HTTP {status}") as caught:
        get(fetcher(attempts=3), server.url)
    assert type(caught.value) is kind and caught.value.status == status
    assert len(server.asked) == tries


def test_an_error_of_the_first_try_is_forgotten_when_the_second_succeeds(server, fetcher, clock):
    server.will(http(b"oops", 502), http(b"<html>", 200), http())
    assert get(fetcher(attempts=3), server.url).body == GOOD
    assert len(clock.slept) == 2


def test_the_exchange_s_own_words_are_told_with_the_status(server, fetcher):
    server.will(http(b'{"code": 0, "msg": "Service unavailable from a restricted location"}', 451))
    with pytest.raises(Forbidden, match="restricted location") as caught:
        get(fetcher(), server.url, refused=exchanges.get("binance").refused)
    assert "set hosts in params" in str(caught.value)


# ---- waiting


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [
        ("7", 7.0),
        ("2.5", 2.5),
        ("Mon, 27 Jul 2026 12:00:20 GMT", 20.0),
        ("Mon, 27 Jul 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("\u00b2", None),
        ("Mon, 99 Jul 2026", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date_is_obeyed_and_nonsense_is_not(
    retry_after, waits, server, fetcher, clock
):
    server.will(http(b"{}", 429, Retry_After=retry_after), http())
    get(fetcher(attempts=2, backoff_s=0.001), server.url)
    (slept,) = clock.slept
    assert slept == pytest.approx(max(waits or 0, 0.001), abs=0.001)


def test_a_retry_after_that_is_too_long_fails_the_call_at_once(server, fetcher, clock):
    server.will(http(b"{}", 429, Retry_After="3600"))
    with pytest.raises(RateLimited) as caught:
        get(fetcher(attempts=4, retry_after_max_s=120), server.url)
    assert caught.value.retry_after_s == 3600
    assert len(server.asked) == 1 and clock.slept == []


def test_waits_double_with_jitter_up_to_their_limit(server, fetcher, clock):
    server.will(http(b"no", 503))
    with pytest.raises(BadStatus):
        get(fetcher(attempts=7, backoff_s=1, backoff_max_s=8), server.url)
    assert len(clock.slept) == 6
    for slept, step in zip(clock.slept, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.5 * step <= slept <= 1.5 * step
    assert len(set(clock.slept)) == 6


def test_two_calls_to_one_host_are_a_pause_apart_and_two_hosts_do_not_wait_for_each_other(
    server, fetcher, clock
):
    other = Server().will(http())
    server.will(http())
    paced = fetcher(pause_s=0.5)
    for _ in range(3):
        get(paced, server.url)
    assert clock.slept == [0.5, 0.5]
    get(paced, other.url)
    assert clock.slept == [0.5, 0.5]
    clock.time += 10
    get(paced, server.url)
    assert clock.slept == [0.5, 0.5]
    other.close()


def test_threads_that_ask_one_host_are_paced_together(server, fetcher):
    server.will(http())
    settings = fetcher(pause_s=0.05).settings
    paced, times = Fetcher(settings), []

    def ask():
        paced.get(server.url, exchange="kraken")
        times.append(time.monotonic())
        paced.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(times) - min(times) > 4 * 0.05
    assert len([1 for one, two in pairwise(sorted(times)) if two - one > 0.02]) >= 4


# ---- the net


def test_nobody_who_answers_is_unreachable(fetcher):
    closed = Server()
    closed.close()
    with pytest.raises(Unreachable, match="no connection"):
        get(fetcher(), closed.url)


def test_a_name_that_is_none_is_unreachable(fetcher):
    with pytest.raises(Unreachable, match="no connection"):
        get(fetcher(), "http://nobody.invalid/tickers")


def test_an_answer_that_does_not_come_is_given_up_after_the_read_timeout(server, fetcher):
    server.will(lambda connection: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"time limits \(2 s to connect, 0.2 s to read\)"):
        get(fetcher(read_timeout_s=0.2), server.url)
    assert time.monotonic() - started < 2


def test_a_connection_that_is_closed_without_a_word_is_unreachable_and_tried_again(server, fetcher):
    server.will(lambda connection: None, http())
    assert get(fetcher(attempts=2), server.url).body == GOOD


def test_a_body_that_drips_is_given_up(server):
    def drip(connection):
        connection.sendall(http(b"", length=1000))
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)

    server.will(drip)
    settings = load_settings("local", flags={"fetch": {"attempts": 1, "read_timeout_s": 0.2}}).fetch
    fetcher, started = Fetcher(settings), time.monotonic()
    with pytest.raises(Unreachable, match="takes too long"):
        get(fetcher, server.url)
    assert time.monotonic() - started < 3
    fetcher.close()


def test_a_body_that_stops_in_the_middle_is_given_up_after_the_read_timeout(server, fetcher):
    def stop(connection):
        connection.sendall(http(GOOD[:9], length=len(GOOD)))
        time.sleep(3)

    server.will(stop)
    with pytest.raises(Unreachable):
        get(fetcher(read_timeout_s=0.2), server.url)


@pytest.mark.parametrize(
    "cut",
    [
        http(GOOD[:9], length=len(GOOD)),
        http(GOOD[:9]),
        http(gzip.compress(GOOD)[:-9], Content_Encoding="gzip"),
        http(b"no gzip", Content_Encoding="gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1, 2\r\nff\r\n",
    ],
    ids=["length lies", "length is honest", "gzip cut", "gzip broken", "chunks cut"],
)
def test_a_body_that_is_cut_is_never_a_payload(cut, server, fetcher):
    server.will(cut)
    with pytest.raises(TruncatedBody):
        get(fetcher(), server.url)


def test_a_cut_body_is_asked_for_again(server, fetcher):
    server.will(http(GOOD[:9], length=len(GOOD)), http(GOOD[:9]), http())
    assert get(fetcher(attempts=3), server.url).body == GOOD


@pytest.mark.parametrize(
    "answer",
    [
        http(b'{"a": "' + b"x" * 2000 + b'"}'),
        http(gzip.compress(b'{"a": "' + b"x" * 5_000_000 + b'"}'), Content_Encoding="gzip"),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[" + b" " * 3000,
    ],
    ids=["plain", "gzip", "no length"],
)
def test_a_body_that_is_too_large_is_not_read_to_its_end(answer, server, fetcher):
    server.will(answer)
    with pytest.raises(BodyTooLarge, match=r"more than 1,000 bytes \(fetch.body_bytes_max\)"):
        get(fetcher(body_bytes_max=1000), server.url)
    assert len(server.asked) == 1


def test_a_body_of_just_the_largest_size_is_taken(server, fetcher):
    server.will(http())
    assert get(fetcher(body_bytes_max=len(GOOD)), server.url).body == GOOD


def test_what_is_no_http_is_unreachable(server, fetcher):
    server.will(b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(Unreachable):
        get(fetcher(), server.url)


# ---- redirects


def test_a_redirect_on_the_same_host_is_followed(server, fetcher):
    server.will(http(b"", 302, Location="/v2/tickers"), http())
    assert get(fetcher(), server.url).body == GOOD
    assert server.asked[1].startswith("GET /v2/tickers ")


@pytest.mark.parametrize(
    "location",
    ["http://evil.invalid/x", "//evil.invalid/x", "https://127.0.0.1/", "file:///etc/passwd", "http://[bad"],
)
def test_a_redirect_to_elsewhere_is_refused(location, server, fetcher):
    server.will(http(b"", 302, Location=location))
    with pytest.raises(RedirectRefused) as caught:
        get(fetcher(attempts=3), server.url)
    assert caught.value.status in (302, None) and len(server.asked) == 1


def test_a_redirect_to_another_port_of_the_host_is_refused(server, fetcher):
    other = Server().will(http())
    server.will(http(b"", 301, Location=other.url))
    with pytest.raises(RedirectRefused, match=other.host):
        get(fetcher(), server.url)
    assert other.asked == []
    other.close()


def test_redirects_that_never_end_are_refused(server, fetcher):
    server.will(http(b"", 307, Location="/again"))
    with pytest.raises(RedirectRefused, match="more than 3"):
        get(fetcher(), server.url)


def test_a_redirect_without_an_address_is_no_success(server, fetcher):
    server.will(http(b"<html>", 301))
    with pytest.raises(BadStatus, match="HTTP 301"):
        get(fetcher(), server.url)


# ---- secrets


SECRETS = "?symbol=BTC&apikey=S3CRET1&signature=S3CRET2&X-Token=S3CRET3"


@pytest.mark.parametrize(
    "answer",
    [
        http(b"no", 503),
        http(b"<html>"),
        http(GOOD[:9], length=100),
        http(b"{}", 429, Retry_After="1"),
        lambda connection: None,
        http(b"", 302, Location="http://evil.invalid/"),
        http(b"[" + b" " * 5000),
    ],
    ids=["status", "html", "cut", "limited", "closed", "redirect", "large"],
)
def test_a_secret_of_the_url_is_in_no_message_no_trace_and_no_log(answer, server, fetcher, caplog):
    caplog.set_level(logging.DEBUG)
    server.will(answer)
    url = server.url.replace("//", "//S3CRETUSER:S3CRETPASS@") + SECRETS
    with pytest.raises(FetchError) as caught:
        get(fetcher(attempts=2, body_bytes_max=4000), url)
    assert "S3CRET1" in server.asked[0]
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(vars(caught.value))
    assert "S3CRET" not in told
    assert "symbol=BTC" in str(caught.value)


def test_a_secret_is_in_no_trace_of_a_call_that_nobody_answers(fetcher, caplog):
    caplog.set_level(logging.DEBUG)
    closed = Server()
    closed.close()
    with pytest.raises(Unreachable) as caught:
        get(fetcher(), closed.url + SECRETS)
    assert "S3CRET" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_call_that_succeeds_logs_no_secret(server, fetcher, caplog):
    caplog.set_level(logging.DEBUG)
    server.will(http())
    get(fetcher(), server.url + SECRETS)
    assert "S3CRET" not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/x?apikey=abc&symbol=a", "http://h/x?apikey=***&symbol=a"),
        ("http://h/x?symbol=a&API_KEY=abc#f", "http://h/x?symbol=a&API_KEY=***#f"),
        ("http://h/x?access_token=a.b-c%20d", "http://h/x?access_token=***"),
        ("http://user:pass@h/x", "http://***@h/x"),
        ("http://h/x?interval=1m", "http://h/x?interval=1m"),
    ],
)
def test_keys_tokens_and_signatures_are_blanked(url, shown):
    assert without_secrets(url) == shown


# ---- the errors themselves


def test_a_fetch_error_survives_being_sent_to_another_process():
    error = RateLimited("asked too often", exchange="kraken", url="http://h/x", status=429, head=b"{}")
    error.retry_after_s = 3.0
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.exchange, copy.status, copy.retry_after_s) == (str(error), "kraken", 429, 3.0)
    assert type(copy) is RateLimited and copy.retryable


def test_only_the_first_bytes_of_a_body_are_kept_and_fewer_are_shown():
    error = NotJSON("no JSON", exchange="x", url="u", status=200, head=b"<" * 10_000)
    assert len(error.head) == 200 and len(str(error)) < 250


# ---- the simulated exchange's faults, as a collector meets them


FAULTS = {
    "429": RateLimited,
    "500": BadStatus,
    "503": BadStatus,
    "451": Forbidden,
    "418": RateLimited,
    "drop": Unreachable,
    "timeout": Unreachable,
    "truncated": TruncatedBody,
    "html": NotJSON,
    "null": EmptyBody,
    "empty": EmptyBody,
    "large": BodyTooLarge,
    "error_body": FetchError,
}


@pytest.fixture(scope="module")
def exchange():
    with Simulator(start="2026-07-27T12:00:00Z") as simulator:
        yield simulator


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", exchanges.names())
def test_a_fault_of_an_exchange_has_its_error(name, kind, exchange, fetcher):
    exchange.set_faults([{"kind": kind, "retry_after": 2, "seconds": 1, "bytes": 5_000_000}])
    request, module = exchanges.request(name, "tickers"), exchanges.get(name)
    quick = fetcher(read_timeout_s=0.3 if kind == "timeout" else 5, body_bytes_max=4_000_000)
    with pytest.raises(FAULTS[kind]) as caught:
        quick.get(request.url(exchange.hosts[name]), exchange=name, refused=module.refused)
    assert caught.value.exchange == name
    exchange.set_faults([])
    assert quick.get(request.url(exchange.hosts[name]), exchange=name, refused=module.refused).status == 200


# ---- what was recorded instead of data


def test_every_recorded_error_is_a_named_error_and_never_a_payload(captures, fetcher):
    kinds = Counter()
    with Simulator(replay=captures) as simulator:
        for path in sorted((captures / "errors").iterdir()):
            name = path.name.partition("__")[0]
            refused = exchanges.get(name if name in exchanges.names() else "coinbase").refused
            with pytest.raises(FetchError) as caught:
                get(fetcher(), f"{simulator.url}/errors/{path.name}", refused=refused)
                pytest.fail(f"{path.name} was taken for a payload")
            status = re.search(r"__(\d{3})_", path.name)
            assert caught.value.status == int(status[1] if status else 200), path.name
            assert type(caught.value) is not FetchError
            kinds[type(caught.value).__name__] += 1
    assert kinds.total() == 38 and set(kinds) <= set(vars(errors))
    assert kinds["ExchangeRefused"] > 15 and kinds["Forbidden"] == 2 and kinds["RateLimited"] == 2
