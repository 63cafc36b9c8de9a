"""Addresses and keys that are secret stay out of logs and errors, whatever a library says while it uses them."""

import logging
import re
import threading
from collections.abc import Sequence
from urllib.parse import unquote

# how long a piece of an address has to be to count as secret when a failure is told
_SECRET_LENGTH = 4
_LIBRARIES = ("apprise", "urllib3.connectionpool", "urllib3.util.retry")
# how apprise begins a line of debugging that says why something failed
_REASONS = ("Socket Exception", "Response Details")


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    """The text without the secrets, and without any piece that an address is made of."""
    pieces = {piece for secret in secrets for piece in (secret, *re.split(r"[/:@?&=#,]+", secret))}
    pieces |= {unquote(piece) for piece in pieces}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _SECRET_LENGTH:
            text = re.sub(re.escape(piece), "***", text, flags=re.I)
    return text


class _Discreet(logging.Filter):
    """Keeps from the log what libraries say in this thread while it is open; hears apprise's reasons.

    As a context it gives itself; `lines` are the reasons so far, not yet clean.
    """

    def __init__(self):
        super().__init__()
        self._own = threading.local()

    @property
    def lines(self) -> list[str] | None:
        return getattr(self._own, "lines", None)

    def filter(self, record: logging.LogRecord) -> bool:
        if self.lines is None:
            return record.name != "apprise"
        said = record.getMessage()
        if record.name == "apprise" and (record.levelno >= logging.WARNING or said.startswith(_REASONS)):
            self.lines.append(said)
        return False

    def __enter__(self):
        self._own.lines = []
        return self

    def __exit__(self, kind, error, trace):
        self._own.lines = None


discreet = _Discreet()
for _name in _LIBRARIES:
    logging.getLogger(_name).addFilter(discreet)
