"""The simulated exchange: an HTTP server on loopback that answers as each exchange does (see simulated_formats).

Owns the server, its clock, and faults on demand. What is answered comes from simulated markets, or from a replay of
recordings. `X-As-Of: 2021-09-28T12:00:00Z` makes that moment the request's "now". Addresses are
`http://127.0.0.1:PORT/<exchange>/<the exchange's own path>`; `/` says what this is, `/_faults` holds the faults.
"""

from __future__ import annotations

import errno
import gzip
import ipaddress
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.replay import ReplayFeed
from cryptomon_lib.simulated_faults import Faults, Sent, moment_ms, spoiled
from cryptomon_lib.simulated_formats import CRYPTOWATCH_SOURCES, FORMATS, answer
from cryptomon_lib.simulated_market import SimulatedMarket, iso
from cryptomon_lib.simulated_replies import UNKNOWN, Down, Reply, written
from cryptomon_lib.simulated_universe import MARKETS

log = logging.getLogger(__name__)

NAME = "cryptomon simulated exchange"
_COMPRESSED_FROM = 1024  # bytes; below it, gzip costs more than it saves
_BODY_BYTES_MAX = 1_000_000  # of a list of faults


def markets(exchange: str) -> list[str]:
    """The simulated spot markets of an exchange that can be traded on any day, as BASE-QUOTE.

    Raises:
        SimulatorError: no such exchange is simulated.
    """
    if exchange not in FORMATS:
        raise SimulatorError(f"no exchange {exchange!r} is simulated; there are {', '.join(FORMATS)}")
    sources = CRYPTOWATCH_SOURCES if exchange == "cryptowatch" else [exchange]
    found = [market for source in sources for market in MARKETS[source]]
    always = [market for market in found if not market.dead and not market.suffix and market.season is None]
    return list(dict.fromkeys(f"{market.base}-{market.quote}" for market in always))


def serve(
    port: int = 0,
    *,
    seed: int = 7,
    start: str | None = None,
    speed: float = 1.0,
    faults: Iterable[dict[str, Any]] = (),
    replay: str | Path | None = None,
    host: str = "127.0.0.1",
    ready: Callable[[Simulator], None] | None = None,
) -> None:
    """Run in the foreground until SIGINT or SIGTERM. `ready` is called with the simulator once it listens.

    Raises:
        SimulatorError: the port is taken, the host is not loopback, or an argument cannot be used.
    """
    asked = threading.Event()
    kept = {
        number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with Simulator(port, seed, start, speed, faults, replay, host) as simulator:
            if ready:
                ready(simulator)
            asked.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Clock:
    """The server's own time: from a start (ms; None: the real now), at a multiple of real speed."""

    def __init__(self, start_ms: int | None = None, speed: float = 1.0):
        self.start_ms = round(time.time() * 1000) if start_ms is None else start_ms
        self.speed = speed
        self._began = time.monotonic()

    def now_ms(self) -> int:
        """Now, in ms since 1970."""
        return self.start_ms + int((time.monotonic() - self._began) * 1000 * self.speed)


class Simulator:
    """The server in a thread of its own, listening from construction until `close()`; a context manager.

    Attributes: port; url ("http://127.0.0.1:PORT"); hosts (exchange to its base address); requests (a Counter by path).
    """

    def __init__(
        self,
        port: int = 0,
        seed: int = 7,
        start: str | None = None,
        speed: float = 1.0,
        faults: Iterable[dict[str, Any]] = (),
        replay: str | Path | None = None,
        host: str = "127.0.0.1",
    ):
        if seed < 0 or not 0 <= speed < 1e6:
            raise SimulatorError(
                f"seed {seed} and speed {speed} must not be negative, nor the speed a million"
            )
        self.market = SimulatedMarket(seed)
        self.feed = ReplayFeed(replay) if replay is not None else None
        self.clock = Clock(moment_ms(start) if start else None, speed)
        self.requests: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._faults = Faults(seed)
        self.set_faults(faults)
        self._server = _listen(host, port, self)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        names = self.feed.exchanges() if self.feed else FORMATS
        self.hosts = {name: f"{self.url}/{name}" for name in names}
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        log.info("%s listens at %s", NAME, self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, end every open connection, and wait for the thread. A second call does nothing."""
        self._server.end()
        self._thread.join()

    def set_faults(self, faults: Iterable[dict[str, Any]]) -> None:
        """Replace the faults. Raises SimulatorError where one is not understood."""
        self._faults.replace(faults)

    def faults(self) -> list[dict[str, Any]]:
        """The faults as they stand, each with how often it hit."""
        return self._faults.shown()

    def about(self, at_ms: int) -> dict[str, Any]:
        """What `/` answers."""
        if self.feed:
            counts = {name: len(book.found) for name, book in self.feed.books.items()}
        else:
            counts = {name: len(markets(name)) for name in FORMATS}
        return {
            "name": NAME,
            "simulated": self.feed is None,
            "replay": self.feed is not None,
            "clock": iso(at_ms),
            "speed": self.clock.speed,
            "seed": self.market.seed,
            "exchanges": list(self.hosts),
            "markets": counts,
        }

    def reply(self, exchange: str, path: str, query: dict[str, str], at_ms: int) -> Reply:
        """What an exchange answers, without faults."""
        form = FORMATS.get(exchange, UNKNOWN)
        if self.feed is None:
            return answer(self.market, exchange, path, query, at_ms)
        try:
            return self.feed.answer(exchange, path, query, at_ms) or form.error("not_found")
        except Down as down:
            log.info("replay: %s", down)
            return form.error("unavailable")
        except SimulatorError:
            log.exception("a recording cannot be served")
            return form.error("internal")

    def sent(self, exchange: str, path: str, query: str, at_ms: int) -> Sent:
        """What goes back to a request: the exchange's reply, or what a fault makes of it."""
        with self._counting:
            self.requests[f"{exchange}{path}"] += 1
        reply = partial(self.reply, exchange, path, dict(parse_qsl(query)), at_ms)
        fault = self._faults.met(exchange, f"{path}?{query}", at_ms)
        return Sent(reply()) if fault is None else spoiled(fault, FORMATS.get(exchange, UNKNOWN), reply)


def _listen(host: str, port: int, simulator: Simulator) -> _Server:
    if not _loopback(host):
        raise SimulatorError(
            f"{host} is not a loopback address; the simulated exchange listens on 127.0.0.1 only"
        )
    try:
        return _Server((host, port), simulator)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise SimulatorError(f"cannot listen on {host}:{port}: {error}") from error
        raise SimulatorError(
            f"port {port} is taken: stop what listens there, or choose another (0: any)"
        ) from error
    except OverflowError as error:
        raise SimulatorError(f"{port} is not a port: 0 to 65535") from error


def _loopback(host: str) -> bool:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], simulator: Simulator):
        self.simulator = simulator
        self.ending = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks the name service for the host's name here, which can take seconds and serves nobody
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        error = sys.exception()
        # a client that hangs up, or a connection that close() ended, is no news; anything else is a bug
        level = logging.DEBUG if isinstance(error, OSError) or self.ending.is_set() else logging.ERROR
        log.log(level, "connection of %s ended: %r", client_address, error)

    def end(self) -> None:
        """Stop, waking what waits and closing what idles, so that no thread answers after it."""
        if self.ending.is_set():
            return
        self.ending.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("a connection had ended before")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536  # status line, headers and body leave in one piece
    server: _Server

    def do_GET(self) -> None:
        try:
            self._send(self._found())
        except SimulatorError as error:
            self._send(Sent(Reply(400, written({"error": str(error)}))))

    def _found(self) -> Sent:
        path, _, query = self.path.partition("?")
        at_ms, simulator = self._at_ms(), self.server.simulator
        exchange, slash, rest = unquote(path).removeprefix("/").partition("/")
        if exchange == "":
            return Sent(Reply(200, written(simulator.about(at_ms))))
        if exchange == "_faults":
            return Sent(Reply(200, written(simulator.faults())))
        return simulator.sent(exchange.lower(), slash + rest, query, at_ms)

    def do_POST(self) -> None:
        body = self._body()
        if not self._of_faults():
            return
        try:
            wanted = json.loads(body)
            self.server.simulator.set_faults(wanted if isinstance(wanted, list) else [wanted])
        except (ValueError, SimulatorError) as error:
            self._send(Sent(Reply(400, written({"error": f"these faults are not understood: {error}"}))))
            return
        self._send(Sent(Reply(200, written(self.server.simulator.faults()))))

    def do_DELETE(self) -> None:
        self._body()
        if self._of_faults():
            self.server.simulator.set_faults(())
            self._send(Sent(Reply(200, b"[]")))

    def version_string(self) -> str:
        return "cryptomon-simulator"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _at_ms(self) -> int:
        asked = self.headers.get("X-As-Of")
        return moment_ms(asked) if asked else self.server.simulator.clock.now_ms()

    def _body(self) -> bytes:
        """What was posted; more than faults can need, or without a length, is not read and ends the connection."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _BODY_BYTES_MAX:
            self.close_connection = True
            return b""
        return self.rfile.read(int(length))

    def _of_faults(self) -> bool:
        if self.path.partition("?")[0] == "/_faults":
            return True
        self._send(Sent(Reply(405, written({"error": "only /_faults takes this"}), headers={"Allow": "GET"})))
        return False

    def _send(self, sent: Sent) -> None:
        if sent.wait_s:
            self.server.ending.wait(sent.wait_s)
        if sent.reply is None:
            self.close_connection = True
            return
        body, headers = sent.reply.body, dict(sent.reply.headers)
        if (
            sent.compress
            and len(body) >= _COMPRESSED_FROM
            and "gzip" in self.headers.get("Accept-Encoding", "")
        ):
            body, headers["Content-Encoding"] = gzip.compress(body, 1, mtime=0), "gzip"
        self._head(sent.reply, headers, len(body))
        self.wfile.write(body if sent.cut_at is None else body[: sent.cut_at])
        self.close_connection = self.close_connection or sent.cut_at is not None

    def _head(self, reply: Reply, headers: dict[str, str], length: int) -> None:
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value.replace("\r", "").replace("\n", ""))
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(length))
        self.send_header("Vary", "Accept-Encoding")
        self.end_headers()
