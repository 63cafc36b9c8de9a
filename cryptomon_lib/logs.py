"""Log lines of every process: as text, or as one JSON object a line for programs that gather them.

Owns their form, what they say of the run that they belong to, and that no secret stands in them. CRYPTOMON_LOG_FORMAT is
text or json, CRYPTOMON_LOG_LEVEL from where on they are written; processes that are started inherit both. Lines go to
standard error. A kernel's lines are cell outputs; the runner that started it passes them on.

    {"time": "2026-01-31T12:00:03.214Z", "level": "WARNING", "logger": "cryptomon_lib.fetch", "message": "…",
     "job": "tick", "run_id": "20260131T120002Z-10_collect-3f9a1c", "exception": "Traceback …"}
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from cryptomon_lib import config

log = logging.getLogger(__name__)
# what a process that stays has to say is said at any level
said = logging.getLogger("cryptomon.says")
said.setLevel(logging.INFO)

# at DEBUG these write the headers that they sign requests with, a session's token among them
_TALKATIVE = ("botocore", "aiobotocore", "boto3", "s3fs", "fsspec", "asyncio", "urllib3")
# what these say at INFO, the runner says in one line
_WORDY = ("papermill", "traitlets", "matplotlib")
_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ ")
# shorter ones are words that stand in any line
_SECRET_LENGTH, _PIECE_LENGTH = 6, 10
_AWS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# what lines say besides themselves: of a process, not of a thread, for a process does one run at a time
_about: dict[str, Any] = {}
_handler: logging.Handler | None = None


def set_up(about: Mapping[str, Any] | None = None) -> None:
    """Have this process write its log lines as the environment says; called again, it says the same anew.

    about: what all lines are about, by name; in a kernel, which does not know by itself whose run it is.

    Raises ConfigError: CRYPTOMON_LOG_FORMAT or CRYPTOMON_LOG_LEVEL is not one of those that there are.
    """
    global _handler
    form, level = config.log_format(), config.log_level()
    for value in config.variables((), _AWS).values():
        config.hide(value)
    handler = _ToStderr()
    handler.setFormatter(formatter(form))
    root = logging.getLogger()
    if _handler in root.handlers:
        root.removeHandler(_handler)
    root.addHandler(handler)
    root.setLevel(level)
    _handler = handler
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    for name in _WORDY:
        logging.getLogger(name).setLevel(
            root.level if root.level < logging.INFO else max(logging.WARNING, root.level)
        )
    if form == "json":
        # what would come as lines of text
        logging.captureWarnings(True)
        sys.excepthook = _unforeseen
        threading.excepthook = lambda args: _unforeseen(args.exc_type, args.exc_value, args.exc_traceback)
    _about.clear()
    _about.update(about or {})


def formatter(form: str | None = None) -> logging.Formatter:
    """What makes a line of a record; form: text or json, as the environment says where not given."""
    return _Json() if (form or config.log_format()) == "json" else _Text()


def is_json() -> bool:
    """Whether lines are for programs."""
    return config.log_format() == "json"


def tell(text: str, *, output: TextIO | None = None) -> None:
    """Say what is for whoever watches a command: a log line where those are JSON, else the text to output.

    output: where the text goes; standard error where not given.
    """
    if is_json():
        said.info("%s", text)
    else:
        (output or sys.stderr).write(f"{text}\n")


@contextmanager
def about(**named: Any) -> Iterator[None]:
    """What the lines are about while this is open: job=…, run_id=…"""
    before = dict(_about)
    _about.update(named)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


def kernel_code() -> str:
    """A line of Python that has a kernel write its lines as this process does, about the same run."""
    return f"__import__('cryptomon_lib.logs', fromlist=['logs']).set_up({dict(_about)!r})"


class Relay:
    """Takes what a kernel wrote to standard error, and passes on what are log lines; the rest is for the notebook."""

    def __init__(self):
        self._unfinished, self._passing = "", False

    def write(self, text: str) -> None:
        """More of it, cut anywhere."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            if self._is_of_log(line):
                sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        """Whoever reads is to see it now."""
        sys.stderr.flush()

    def _is_of_log(self, line: str) -> bool:
        if is_json():
            return line.startswith('{"time": ') and _parses(line)
        # a record's further lines are indented
        self._passing = bool(_LINE.match(line)) or (self._passing and line.startswith("    "))
        return self._passing


def clean(text: str, encoded: bool = False) -> str:
    """The text without the secrets that this process has read. encoded: the text is JSON."""
    for secret in sorted(config.hidden(), key=len, reverse=True):
        for piece in _pieces(secret):
            text = text.replace(json.dumps(piece)[1:-1] if encoded else piece, "***")
    return text


class _ToStderr(logging.StreamHandler):
    """Writes to what standard error is when it writes: who sends it elsewhere for a while may have closed that since."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


class _Text(logging.Formatter):
    """`2026-01-31T12:00:03.214Z WARNING cryptomon_lib.fetch: …`; further lines are indented, so that none looks like
    another record."""

    def __init__(self):
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)

    def format(self, record: logging.LogRecord) -> str:
        return clean("\n    ".join(super().format(record).splitlines()))


class _Json(JsonFormatter):
    """One object a line; what a record has besides (`extra`) is in it by name."""

    def __init__(self):
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={
                "levelname": "level",
                "name": "logger",
                "exc_info": "exception",
                "stack_info": "stack",
            },
            # the second is uvicorn's, the message again with colours
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict) -> None:
        log_data["time"] = _time(record)
        super().add_fields(log_data, record, message_dict)
        for name, value in _about.items():
            log_data.setdefault(name, value)
        if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
            asked = zip(("client", "method", "path", "http_version", "status"), record.args, strict=True)
            log_data |= dict(asked)

    def serialize_log_record(self, log_data: dict[str, Any]) -> str:
        return clean(super().serialize_log_record(log_data), encoded=True)


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    log.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _parses(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _pieces(secret: str) -> Iterator[str]:
    """A secret as libraries may write it: whole, quoted, and what is secret in an address without its host."""
    if len(secret) < _SECRET_LENGTH:
        return
    yield secret
    yield quote(secret, safe="")
    parts = urlsplit(secret) if "://" in secret else None
    host = parts.netloc.rpartition("@")[2] if parts else ""
    if parts and len(path := secret.partition(host)[2]) >= _SECRET_LENGTH:
        yield path
    for piece in re.split(r"[/:@?&=#,;\s]+", secret):
        # a word of an address (services, webhooks) is none
        if len(piece) >= _PIECE_LENGTH and piece not in (host, *host.split(":")) and re.search(r"\d", piece):
            yield piece
