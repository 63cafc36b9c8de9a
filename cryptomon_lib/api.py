"""The REST API: the views' rows over HTTP, under the views' own names. Read only.

Owns the routes and their OpenAPI document, keys and how often each may call, what a browser or a proxy may keep,
and problems as RFC 9457 says them. Run by `cryptomon api`.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_swagger import patch_fastapi
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from cryptomon_lib.api_answers import (
    FORMATS,
    PROBLEM_TYPE,
    Rows,
    Shared,
    Watched,
    chosen_format,
    encoded,
    problem,
    tag_of,
)
from cryptomon_lib.api_questions import Described, Questions
from cryptomon_lib.config import hide, secret
from cryptomon_lib.errors import ApiError, ConfigError, CryptomonError, StorageError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.prometheus import CONTENT_TYPE, exposition

log = logging.getLogger(__name__)

# a tick's data is there about so long after its minute began
_TICK_S = 5
_NAME_MAX = 200
# views that stand beside the questions, under a short address too
_SHORT = ("latest", "markets")

Text = Annotated[str, Field(max_length=_NAME_MAX)]
Form = Literal["json", "csv", "parquet", "arrow"]


class Asked(BaseModel):
    """What every question may name."""

    model_config = ConfigDict(extra="forbid")

    format: Form | None = Field(None, description="The form of the answer, in place of the Accept header.")


class Paged(Asked):
    """A question whose answer comes page by page."""

    limit: int = Field(1000, ge=1, description="Rows of this page.")
    offset: int = Field(0, ge=0, le=10_000_000, description="Rows before this page.")


class Ranged(Paged):
    """A question about a range of time."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since: datetime | None = Field(
        None, alias="from", description="After this moment; UTC where it names no zone."
    )
    until: datetime | None = Field(
        None, alias="to", description="Up to this moment; now where it is not given."
    )


class SeriesAsked(Asked):
    """One market's measure over time."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    market: Text = Field(description="A market_id, or `kraken:BTC-USD` where it is unambiguous.")
    measure: Text = Field("price", description="See /v1/measures.")
    since: datetime | None = Field(
        None, alias="from", description="After this moment; 24 h before `to` where not given."
    )
    until: datetime | None = Field(
        None, alias="to", description="Up to this moment; now where it is not given."
    )
    step: Literal["auto", "1m", "5m", "15m", "1h", "4h", "1d"] = Field(
        "auto", description="Length of a step."
    )


class RankAsked(Paged):
    """A measure's ranks."""

    measure: Text = Field("price", description="See /v1/measures.")
    quote: Text | None = Field(None, description="Only markets of this quote currency.")


class CandlesAsked(Ranged):
    """One market's candles."""

    market: Text = Field(description="A market_id, or `kraken:BTC-USD` where it is unambiguous.")
    interval: Literal["1m", "5m", "1h", "1d"] = Field("1m", description="Length of a candle.")


class AlertsAsked(Ranged):
    """Transitions of alerts."""

    state: Literal["pending", "firing", "resolved", "no_data"] | None = Field(
        None, description="Only this state."
    )


def create_app(monitor: Monitor) -> FastAPI:
    """The API of one monitor.

    Raises ConfigError: the params name an environment variable with keys that is not set or not of the form
    name=key,name=key. CryptomonError: the tables cannot be read.
    """
    service = _Service(monitor)

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        yield
        service.close()

    app = FastAPI(
        title="cryptomon",
        version="1",
        description=_description(monitor),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    # the same page, its scripts from here instead of a CDN
    patch_fastapi(app, docs_url="/docs")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(CryptomonError, _failed)
    app.add_exception_handler(Exception, _broken)
    _add_questions(app, service)
    _add_metrics(app, service)
    for name, described in service.questions.described.items():
        _add_view(app, service, described, f"/v1/views/{name}")
    for name in _SHORT:
        _add_view(app, service, service.questions.described[name], f"/v1/{name}")
    return app


def serve(monitor: Monitor, port: int, ip: str = "127.0.0.1") -> None:
    """Serve the API in this process until SIGINT or SIGTERM; errors as create_app."""
    uvicorn.run(
        create_app(monitor),
        host=ip,
        port=port,
        # its lines go the way of all others; who asked for what is written at INFO
        log_config=None,
        access_log=logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO),
        server_header=False,
    )


class _Service:
    """What the routes share: questions, answers, keys, and which data there is."""

    def __init__(self, monitor: Monitor):
        self.monitor, self.settings = monitor, monitor.settings.api
        self.questions = Questions(monitor)
        self.answers = Shared(self.settings.cache_bytes)
        self._keys = _keys(self.settings.keys)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._calls = RateLimitItemPerMinute(self.settings.calls_per_min)
        self._data = Watched(self.questions.data_of)

    def close(self) -> None:
        self.questions.engine.close()

    async def admit(self, request: Request) -> None:
        """Nothing, for a client with a key (where keys are asked for) that does not call too often."""
        client = request.client.host if request.client else ""
        if self._keys:
            client = self._key_name(_given_key(request))
        if not await self._limiter.hit(self._calls, client):
            until, _ = await self._limiter.get_window_stats(self._calls, client)
            wait_s = max(1, round(until - time.time()))
            raise ApiError(
                429,
                f"More than {self.settings.calls_per_min} calls within a minute; come back in {wait_s} s.",
                headers={"Retry-After": str(wait_s)},
            )

    async def answer(self, request: Request, asked: Asked, make: Callable[[], Rows]) -> Response:
        """The response to a question, from memory where it was answered since the data changed."""
        if getattr(asked, "limit", 0) > self.settings.rows_max:
            raise ApiError(
                400, f"limit is {asked.limit:,}; a page has at most {self.settings.rows_max:,} rows."
            )
        form = chosen_format(request.headers.get("accept", ""), asked.format)
        question = (request.url.path, tuple(sorted(request.query_params.multi_items())), form)
        tag = tag_of(await self._data.now(), question)
        headers = {"ETag": tag, "Cache-Control": self._may_keep(), "Vary": "Accept, Accept-Encoding"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        answer = await self.answers.get((tag, question), lambda: encoded(make(), form))
        if answer.more:
            headers["Link"] = f'<{_next_page(request, asked)}>; rel="next"'
        if answer.status != 200:
            headers["Cache-Control"] = "no-store"
        body = answer.body
        if "gzip" in request.headers.get("accept-encoding", "") and answer.packed:
            body, headers["Content-Encoding"] = answer.packed, "gzip"
        return Response(body, status_code=answer.status, headers=headers, media_type=answer.type)

    def _may_keep(self) -> str:
        cadence_s = self.monitor.settings.cadence_s
        left_s = cadence_s - (time.time() - _TICK_S) % cadence_s
        return f"{'private' if self._keys else 'public'}, max-age={max(1, int(left_s))}"

    def _key_name(self, given: str) -> str:
        digest = hashlib.sha256(given.encode()).digest()
        for name, known in self._keys.items():
            if hmac.compare_digest(digest, known):
                return name
        raise ApiError(
            401,
            "This API asks for a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _add_questions(app: FastAPI, service: _Service) -> None:
    """The routes that are more than a view."""
    ask = service.questions
    _route(
        app, service, "/v1/series", "One market's measure over time, thinned out to steps", SeriesAsked,
        lambda asked: ask.series(asked.market, asked.measure, asked.since, asked.until, asked.step),
    )  # fmt: skip
    _route(
        app, service, "/v1/rank", "Spot markets by how variable a measure was over 24 h", RankAsked,
        lambda asked: ask.rank(asked.measure, asked.quote, asked.limit, asked.offset),
    )  # fmt: skip
    _route(
        app, service, "/v1/candles", "One market's candles", CandlesAsked,
        lambda asked: ask.candles(
            asked.market, asked.interval, asked.since, asked.until, asked.limit, asked.offset
        ),
    )  # fmt: skip
    _route(
        app, service, "/v1/alerts", "Transitions of alerts, the newest first", AlertsAsked,
        lambda asked: ask.alerts(asked.state, asked.since, asked.until, asked.limit, asked.offset),
    )  # fmt: skip
    _route(
        app, service, "/v1/measures", "The measures that have a value now", Asked,
        lambda asked: ask.measures(),
    )  # fmt: skip
    _route(
        app, service, "/v1/health", "How old each source's data is; 503 where there is none of now", Asked,
        lambda asked: ask.health(),
    )  # fmt: skip


def _add_metrics(app: FastAPI, service: _Service) -> None:
    """What Prometheus scrapes, under the address that it expects; keys hold here too."""

    async def metrics(request: Request) -> Response:
        await service.admit(request)
        body = await run_in_threadpool(exposition, service.monitor)
        return Response(body, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)


def _add_view(app: FastAPI, service: _Service, described: Described, path: str) -> None:
    """The route of a view, with what it may be asked by."""
    name = described.view.name
    filters = {
        column: (Text | None, Field(None, description=f"Only rows of this {column}."))
        for column in described.filters
    }
    model = create_model(f"Asked_{name}", __base__=Ranged if described.time else Paged, **filters)

    def make(asked: Any) -> Rows:
        named = {
            column: getattr(asked, column)
            for column in described.filters
            if getattr(asked, column) is not None
        }
        since, until = getattr(asked, "since", None), getattr(asked, "until", None)
        return service.questions.view(name, named, since, until, asked.limit, asked.offset)

    _route(app, service, path, described.view.says, model, make, units=described.view.units)


def _route(
    app: FastAPI,
    service: _Service,
    path: str,
    says: str,
    model: type[Asked],
    make: Callable[[Any], Rows],
    units: str = "",
) -> None:
    async def endpoint(request: Request, asked: Annotated[model, Query()]) -> Response:
        await service.admit(request)
        return await service.answer(request, asked, lambda: make(asked))

    endpoint.__name__ = path.rsplit("/", 1)[1]
    app.add_api_route(
        path,
        endpoint,
        methods=["GET"],
        summary=says,
        description=f"Units: {units}." if units else None,
        response_class=Response,
        responses=_RESPONSES,
    )


# what every route may answer, for the OpenAPI document
_RESPONSES = {
    200: {
        "description": "Rows in the form that was asked for; `Link` names the next page where there is one.",
        "content": {
            FORMATS["json"]: {
                "schema": {
                    "type": "object",
                    "required": ["rows"],
                    "properties": {"rows": {"type": "array", "items": {"type": "object"}}},
                }
            },
            **{type_: {} for name, type_ in FORMATS.items() if name != "json"},
        },
    },
    304: {"description": "The rows that the client has are those of now."},
    **{
        code: {"description": says, "content": {PROBLEM_TYPE: {"schema": {"type": "object"}}}}
        for code, says in {
            400: "More than one answer gives, or a range that is none.",
            401: "No valid key.",
            404: "No market or measure of that name.",
            406: "No form of answer that the client takes.",
            422: "A parameter is not of its form.",
            429: "Too many calls; `Retry-After` says when to come back.",
            503: "The data cannot be read now, or there is none of now.",
        }.items()
    },
}


def _description(monitor: Monitor) -> str:
    kind = "**Simulated data.** " if monitor.settings.simulated else ""
    return (
        f"{kind}The metrics of a crypto market monitor, environment {monitor.settings.environment}. Times are UTC. "
        "Answers are JSON, CSV, Parquet or an Arrow stream, by the Accept header or `format=`. Every view is a route."
    )


def _next_page(request: Request, asked: Asked) -> str:
    return str(request.url.include_query_params(offset=asked.offset + asked.limit))


def _given_key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def _keys(name: str) -> dict[str, bytes]:
    """Digests of the keys that an environment variable holds, by the name of each."""
    if not name:
        return {}
    pairs = [part.strip().partition("=") for part in secret(name).split(",") if part.strip()]
    if not all(owner and key for owner, _, key in pairs):
        raise ConfigError(f"The environment variable {name} has to be name=key,name=key; api.keys names it.")
    for _, _, key in pairs:
        hide(key)
    return {owner: hashlib.sha256(key.encode()).digest() for owner, _, key in pairs}


def _problem(request: Request, status: int, says: str, errors=(), headers=None) -> Response:
    body = problem(status, says, request.url.path, errors)
    return Response(
        body, status, headers={"Cache-Control": "no-store"} | dict(headers or {}), media_type=PROBLEM_TYPE
    )


async def _refused(request: Request, error: ApiError) -> Response:
    return _problem(request, error.status, str(error), error.errors, error.headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    errors = [{"parameter": str(each["loc"][-1]), "says": each["msg"]} for each in error.errors()]
    names = ", ".join(each["parameter"] for each in errors)
    return _problem(request, 422, f"Not of their form: {names}. See /docs.", errors)


async def _http(request: Request, error: HTTPException) -> Response:
    says = "No such route; /docs lists them." if error.status_code == 404 else str(error.detail)
    return _problem(request, error.status_code, says, headers=error.headers)


async def _failed(request: Request, error: CryptomonError) -> Response:
    if isinstance(error, StorageError):
        log.error("%s: %s", request.url.path, error)
        return _problem(request, 503, "The data cannot be read now; try again.", headers={"Retry-After": "5"})
    log.error("%s: %s: %s", request.url.path, type(error).__name__, error)
    return _problem(request, 500, "The question could not be answered; the server's log says why.")


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s: %s", request.url.path, error, exc_info=error)
    return _problem(request, 500, "The question could not be answered; the server's log says why.")
