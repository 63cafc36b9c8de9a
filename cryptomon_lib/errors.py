"""Every error that cryptomon raises on purpose. A message says what happened, where, and what to do.

CryptomonError                      exit code 1
├── ConfigError                     2   params, flags, environment
├── ParameterError                  2   a notebook's parameters
├── StorageError                    3   the root cannot be read or written
│   └── CommitConflict              3   other writers kept winning
├── FetchError                      4   one call to one exchange; carries exchange, url, status, head
│   ├── Unreachable                     no answer: refused, timed out, connection lost
│   ├── BadStatus                       an HTTP status that is not success
│   │   ├── RateLimited                 429, 418: slow down; carries retry_after_s
│   │   └── Forbidden                   401, 403, 451: not from here, or not without a key
│   ├── RedirectRefused                 sent to another host
│   ├── BodyTooLarge                    more bytes than the limit
│   ├── NotJSON                         HTML or text where JSON was due
│   ├── TruncatedBody                   JSON that ends in the middle
│   ├── EmptyBody                       nothing, null, [] or {}
│   └── ExchangeRefused                 the exchange's own error body, whatever the status
├── CollectError                    4   no exchange gave a payload
├── PayloadError                    5   a payload that cannot be flattened
├── AccountingError                 5   rows in are not rows written plus rows rejected
├── MetricError                     6   a view that cannot be used
│   └── QueryError                  6   SQL that an engine refused
├── UnknownMarket                   6   no market of that name, or several
├── UnknownQuestion                 6   the dashboard has no such question
├── NotifyError                     7   a message that a receiver did not take
├── Unhealthy                       8   the data is not as it should be: critical findings
├── DeployError                     9   a stack of AWS that could not be made, changed or removed
├── RunError                        1   a notebook run
│   ├── NotebookFailed              1   a cell raised
│   ├── RunTimeout                  124 it took longer than it may
│   ├── RunStopped                  143 asked to end (SIGTERM; 130 for SIGINT)
│   └── AlreadyRunning              75  another run of the same job holds the lock
├── ApiError                        1   a request that the API cannot answer; carries the HTTP status
├── RuleTestFailed              1   a unit test of an alert rule
└── SimulatorError                  1   the simulated exchange
"""

from collections.abc import Sequence


class CryptomonError(Exception):
    """Anything that cryptomon raises on purpose."""

    exit_code = 1


class ConfigError(CryptomonError):
    """Settings that cannot be used: names the file, the key and the nearest known key."""

    exit_code = 2


class ParameterError(CryptomonError):
    """A parameter that a notebook does not declare, or a value it cannot take."""

    exit_code = 2


class StorageError(CryptomonError):
    """The root cannot be read or written."""

    exit_code = 3


class CommitConflict(StorageError):
    """Other writers committed first, each time it was tried."""


class FetchError(CryptomonError):
    """One call to one exchange that brought no usable payload.

    Attributes: exchange, url (without secrets), status (None where no answer came), head (first bytes).
    """

    exit_code = 4
    retryable = False

    def __init__(self, says: str, *, exchange: str, url: str, status: int | None = None, head: bytes = b""):
        self.exchange, self.url, self.status, self.head = exchange, url, status, head[:200]
        shown = f" Body begins: {self.head[:120]!r}." if head else ""
        at = f" (HTTP {status})" if status else ""
        super().__init__(f"{exchange}: {says}{at} from {url}.{shown}")

    def __reduce__(self):
        # keyword-only arguments: the default pickling would call __init__ with the message alone
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind, args, state):
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class Unreachable(FetchError):
    """No answer: refused, timed out, or the connection was lost."""

    retryable = True


class BadStatus(FetchError):
    """An HTTP status that is not success."""

    @property
    def retryable(self) -> bool:
        return self.status is not None and (self.status >= 500 or self.status == 408)


class RateLimited(BadStatus):
    """HTTP 429 or 418: the exchange asks to slow down. `retry_after_s` where it says for how long."""

    retry_after_s: float | None = None
    retryable = True


class Forbidden(BadStatus):
    """HTTP 401, 403 or 451: not from this country or address, or not without a key."""

    retryable = False


class RedirectRefused(FetchError):
    """A redirect to another host; following it would trust whoever sent it."""


class BodyTooLarge(FetchError):
    """More bytes than `fetch.body_bytes_max`."""


class NotJSON(FetchError):
    """HTML or text where JSON was due: a block page, a single-page app, a proxy's answer."""

    retryable = True


class TruncatedBody(FetchError):
    """JSON that ends in the middle."""

    retryable = True


class EmptyBody(FetchError):
    """Nothing, `null`, `[]` or `{}`: an answer without a market in it."""

    retryable = True


class ExchangeRefused(FetchError):
    """The exchange's own error body, often with HTTP 200. `busy` marks those worth another try."""

    busy = False

    @property
    def retryable(self) -> bool:
        return self.busy


class CollectError(CryptomonError):
    """No exchange gave a payload."""

    exit_code = 4


class PayloadError(CryptomonError):
    """A payload that cannot be flattened; it goes to quarantine with this message."""

    exit_code = 5


class AccountingError(CryptomonError):
    """Rows in are not rows written plus rows rejected: a bug, never data."""

    exit_code = 5


class MetricError(CryptomonError):
    """A metric view that cannot be used."""

    exit_code = 6


class QueryError(MetricError):
    """SQL that an engine refused."""


class UnknownMarket(MetricError):
    """No market of that name, or several of them."""


class NotifyError(CryptomonError):
    """A message that a receiver did not take.

    permanent: no repetition would help. delivered: ids of its parts that were taken all the same.
    """

    exit_code = 7

    def __init__(self, says: str, permanent: bool = False, delivered: Sequence[str] = ()):
        self.permanent, self.delivered = permanent, tuple(delivered)
        super().__init__(says)


class Unhealthy(CryptomonError):
    """Checks of the data found something critical; `findings` and health.json say what."""

    exit_code = 8


class UnknownQuestion(CryptomonError):
    """A question that the dashboard does not answer."""

    exit_code = 6


class DeployError(CryptomonError):
    """A stack of AWS that could not be made, changed or removed; says which of its parts failed, and why."""

    exit_code = 9


class RunError(CryptomonError):
    """A run of a notebook that did not succeed."""


class NotebookFailed(RunError):
    """A cell of the notebook raised."""


class RunTimeout(RunError):
    """A cell or the whole run took longer than it may."""

    exit_code = 124


class RunStopped(RunError):
    """The run was asked to end."""

    exit_code = 143


class AlreadyRunning(RunError):
    """Another run of the same job on the same root holds the lock."""

    exit_code = 75


class RuleTestFailed(CryptomonError):
    """A unit test of an alert rule did not give what it expects."""


class SimulatorError(CryptomonError):
    """The simulated exchange cannot do what was asked."""


class ApiError(CryptomonError):
    """A request that the API cannot answer.

    Attributes: status (HTTP), errors (what is wrong with which parameter), headers to answer with.
    """

    def __init__(self, status: int, says: str, *, errors=(), headers=None):
        self.status, self.errors, self.headers = status, tuple(errors), dict(headers or {})
        super().__init__(says)
