"""Dead-man pings: a job tells a watching service when it starts, ends well, or fails.

The service raises the alarm when it hears nothing: it is what watches when the whole machine is dead. A ping
never delays and never fails a run; its address is a secret and comes from the environment by name.
"""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import requests

from cryptomon_lib import config
from cryptomon_lib.discretion import discreet
from cryptomon_lib.errors import ConfigError

log = logging.getLogger(__name__)

_CONNECT_S, _ANSWER_S = 3, 5
_TRIES, _PAUSE_S = 2, 1
# a service that hangs must not pile up pings for ever
_WAITING_MAX = 50
# at its end a process gives the last ping so long
_END_S = 5


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the environment variables that hold the addresses; one left out is not pinged."""

    start: str | None = None
    success: str | None = None
    fail: str | None = None


@contextmanager
def pinged(ping: Ping | None) -> Iterator[None]:
    """Ping the start, and at the end success, or failure when an error comes by."""
    if ping is None:
        yield
        return
    _send(ping.start, "start")
    try:
        yield
    except BaseException:
        _send(ping.fail, "fail")
        raise
    _send(ping.success, "success")


class _Pinger:
    """One thread that asks addresses in the order they come."""

    def __init__(self):
        self._waiting: queue.Queue = queue.Queue(_WAITING_MAX)
        self._began = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, name: str, address: str, what: str) -> None:
        with self._began:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="pings")
                self._thread.start()
                atexit.register(self.wait, _END_S)
        try:
            self._waiting.put_nowait((name, address, what))
        except queue.Full:
            log.warning("%s: the %s ping is left out, %d wait for an answer", name, what, _WAITING_MAX)

    def wait(self, seconds: float) -> None:
        """Wait until all is sent, so long at most."""
        until = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.02)

    def _serve(self) -> None:
        while True:
            name, address, what = self._waiting.get()
            try:
                _ask(name, address, what)
            finally:
                self._waiting.task_done()


def _ask(name: str, address: str, what: str) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            with discreet:
                answer = requests.get(address, timeout=(_CONNECT_S, _ANSWER_S), stream=True)
                answer.close()
        except (requests.RequestException, OSError, ValueError) as error:
            # the library's own words repeat the address
            said = type(error).__name__
        else:
            if answer.ok:
                return
            said = f"HTTP {answer.status_code}"
        if attempt < _TRIES:
            time.sleep(_PAUSE_S)
    log.warning("the %s ping to the address in %s was not taken: %s", what, name, said)


def _send(name: str | None, what: str) -> None:
    if name is None:
        return
    try:
        _pinger.put(name, config.secret(name), what)
    except ConfigError as error:
        log.warning("no %s ping: %s", what, error)


_pinger = _Pinger()
