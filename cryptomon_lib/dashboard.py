"""The dashboard's page: one widget that holds what a viewer sees, and answers what a viewer does.

Owns the page's state and when it is read anew. What is read stands in dashboard_readings, how it is drawn in
charts, how it looks and moves in static/. In JupyterLab the page is a widget among others; under
dashboard_server it is the whole page.
"""

import asyncio
import json
import logging
import os
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from time import monotonic, time
from typing import Any
from urllib.parse import parse_qs

import anywidget
import traitlets

from cryptomon_lib import charts
from cryptomon_lib.dashboard_readings import Columns, Readings, rows_of
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CryptomonError, RunError, UnknownMarket
from cryptomon_lib.monitor import Monitor

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
# the page's script in parts; together they are one module, so that it also loads where no server has files
SCRIPTS = ("elements.js", "search.js", "table.js", "figures.js", "page.js")
PAGE_MIME = "application/vnd.cryptomon.page+json"
END_MARK = "cryptomon-page-complete"

_POLL_S = 2.0
# a viewer says "here" every 15 s, and in a hidden tab every minute; later than this nobody looks
_GONE_S = 180.0
_NEIGHBOURS = 4
_SPIKES_SHOWN = 50
_ASKED_MAX = 200


@cache
def page_script() -> str:
    """The page's script as one ES module."""
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)


@cache
def page_style() -> str:
    """The page's style sheet."""
    return (STATIC / "page.css").read_text(encoding="utf-8")


def plotly_script() -> Path:
    """The plotly.js of the installed plotly package."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


class Dashboard(anywidget.AnyWidget):
    """One viewer's page on a monitor.

    as_of: replay: the moment that the page takes for now (ISO 8601); empty follows the clock.

    A failure to read does not raise: it stands in `problem` and in the page, until a later read succeeds.
    """

    about = traitlets.Dict().tag(sync=True)
    measures = traitlets.List().tag(sync=True)
    table = traitlets.Dict().tag(sync=True)
    spikes = traitlets.List().tag(sync=True)
    sources = traitlets.List().tag(sync=True)
    chart = traitlets.Dict().tag(sync=True)
    rank = traitlets.Dict().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    hint = traitlets.Unicode().tag(sync=True)
    read_at = traitlets.Int().tag(sync=True)
    revision = traitlets.Int().tag(sync=True)

    def __init__(self, monitor: Monitor, as_of: str = ""):
        self._esm, self._css = page_script(), page_style()
        self._readings: Readings | None = None
        self._version: tuple[int, ...] | None = None
        self._latest: Columns = {}
        self._current: Columns = {}
        self._short: dict[str, str] = {}
        self._ranks: dict[str, Columns] = {}
        self._market_id, self._measure, self._by = "", "price", "stddev"
        self._drawn, self._ranked, self._wanted = (), (), ""
        self._heard_at, self._following = monotonic(), None
        super().__init__(about=_about(monitor, as_of))
        self.on_msg(self._handle)
        self._watchlist = monitor.settings.watchlist
        with self._told():
            self._readings = Readings(Engine(monitor, as_of or None))
            self.refresh()

    async def start(self, market: str = "", measure: str = "price") -> None:
        """Show what the page's address asks for, else these; then follow the data until the viewer is gone.

        In a pre-heated kernel this waits for the viewer, and keeps the data fresh meanwhile.
        """
        self._follow()
        asked = parse_qs((await _request()).get("QUERY_STRING", ""))
        self._heard_at = monotonic()
        # the login's redirect makes kraken://BTC-USD of kraken:BTC-USD
        market = asked.get("market", [market])[0][:_ASKED_MAX].replace("://", ":")
        measure = asked.get("measure", [measure])[0][:_ASKED_MAX]
        with self._told():
            self.show(market, measure)

    def show(self, market: str = "", measure: str = "", by: str = "") -> None:
        """Draw a market's measure; market is any name that resolve_market takes, empty keeps what is shown.

        by: stddev or cv, what neighbours are ranked by. An unknown name is told in the page and changes nothing.

        Raises CryptomonError: the data cannot be read.
        """
        hints = []
        if market and not self._market_id:
            # there is nothing to find it in yet
            self._wanted = market
        elif market:
            try:
                self._market_id = self._resolve(market)
            except UnknownMarket as error:
                hints.append(str(error))
        if measure and measure != self._measure:
            if measure in self.measures or not self.measures:
                self._measure = measure
            else:
                hints.append(f"No measure is called {measure!r} now. Known: {', '.join(self.measures)}.")
        if by in ("stddev", "cv"):
            self._by = by
        self.hint = " ".join(hints)
        self._draw()
        self._draw_rank()

    def refresh(self) -> None:
        """Read everything anew, and draw it. Raises CryptomonError: the data cannot be read."""
        self._version = self._readings.version()
        self._ranks = {}
        self._latest, self._current = self._readings.latest(), self._readings.current()
        _fill_changes(self._latest, self._readings.day_ago())
        self._short = _short_names(self._latest)
        self.measures = sorted({*self._current["measure"]})
        self.sources = rows_of(self._readings.sources())
        self.read_at = self._readings.now
        if self._market_id not in self._latest["market_id"]:
            self._market_id = self._first_market()
        if self._market_id and self._wanted:
            wanted, self._wanted = self._wanted, ""
            self.show(wanted)
        if self.measures and self._measure not in self.measures:
            self._measure = self.measures[0]
        self._tabulate()
        self._draw()
        self._draw_rank()

    def end_marker(self) -> "EndMarker":
        """What a health check looks for. Raises RunError: the page shows a problem instead of data."""
        if self.problem:
            raise RunError(f"The dashboard cannot show its data: {self.problem}")
        return EndMarker()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # the state travels with the page, so that its first picture waits for no connection
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return data | {PAGE_MIME: {"model_id": self.model_id, "state": self._shown()}}, metadata

    def _shown(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Dashboard.class_own_traits(sync=True)}

    def _resolve(self, market: str) -> str:
        if market in self._latest.get("market_id", ()):
            return market
        if market in self._short:
            return self._short[market]
        import pandas as pd

        from cryptomon_lib.metrics import resolve_market

        return resolve_market(market, pd.DataFrame(self._latest))

    def _first_market(self) -> str:
        """Of the watchlist's first pair that trades, the market with the most volume; else any with the most."""
        markets = rows_of(self._latest)
        for pair in (*self._watchlist, None):
            fitting = [one for one in markets if pair in (None, one["market"])]
            if fitting:
                return max(fitting, key=lambda one: one["quote_volume_24h"] or 0.0)["market_id"]
        return ""

    def _market(self, market_id: str) -> dict[str, Any]:
        at = self._latest["market_id"].index(market_id)
        return {name: column[at] for name, column in self._latest.items()}

    def _draw(self) -> None:
        """The chosen market's figures and numbers, unless they are what is shown."""
        wanted = (self._market_id, self._measure, self.read_at)
        if not self._market_id:
            self.chart = {}
        elif self._drawn != wanted:
            self._draw_market()
            self.revision += 1
        self._drawn = wanted

    def _draw_market(self) -> None:
        market, measure = self._market(self._market_id), self._measure
        series = self._readings.series(self._market_id, measure)
        common = {
            "cadence_s": self.about["cadence_s"],
            "note": "simulated data" if self.about["simulated"] else "",
            "revision": f"{self._market_id} {measure}",
            "window": _window(series["at"], self.read_at),
        }
        unit = charts.unit_of(measure, market["base"], market["quote"])
        value = charts.value_chart(
            series["at"],
            series["value"],
            series["average_1h"],
            name=charts.words_of(measure),
            unit=unit,
            bars=measure.endswith("_1m"),
            **common,
        )
        ratio = charts.ratio_chart(series["at"], series["ratio_1h"], **common)
        newest = {name: column[-1] if column else None for name, column in series.items()}
        self.chart = {
            "market": market | {"link": self._link(market)},
            "measure": measure,
            "words": charts.words_of(measure),
            "unit": unit,
            "newest": newest,
            "samples": len(series["at"]),
            "value": value,
            "ratio": ratio,
        }
        if self.table and self.table["measure"] != measure:
            self._tabulate()

    def _draw_rank(self) -> None:
        """The chosen market's place among the others, unless it is what is shown."""
        wanted = (self._market_id, self._measure, self._by, self.read_at)
        if not self._market_id:
            self.rank = {}
        elif self._ranked != wanted:
            self._place_market()
            self.revision += 1
        self._ranked = wanted

    def _place_market(self) -> None:
        if self._measure not in self._ranks:
            self._ranks[self._measure] = self._readings.ranks(self._measure)
        market = self._market(self._market_id)
        self.rank = rank_card(
            rows_of(self._ranks[self._measure]),
            self._market_id,
            self._by,
            names=dict(zip(self._latest["market_id"], _names(self._latest), strict=True)),
            unit=charts.unit_of(self._measure, market["base"], market["quote"]),
        ) | {"market_id": self._market_id, "measure": self._measure, "kind": market["kind"]}

    def _link(self, market: dict[str, Any]) -> str:
        """The shortest name that stands for this market and no other."""
        short = f"{market['exchange']}:{market['market']}"
        return short if self._short.get(short) == market["market_id"] else market["market_id"]

    def _tabulate(self) -> None:
        """The table of all markets, and what is above three times its mean."""
        current = rows_of(self._current)
        ratios = {one["market_id"]: one["ratio_1h"] for one in current if one["measure"] == self._measure}
        told = (
            "market_id",
            "exchange",
            "symbol",
            "market",
            "base",
            "quote",
            "kind",
            "price",
            "change_24h_pct",
        )
        self.table = {
            "measure": self._measure,
            **{name: self._latest[name] for name in (*told, "volume_24h", "quote_volume_24h")},
            "at": self._latest["collected_at"],
            "spread_bps": [
                2e4 * (ask - bid) / (ask + bid) if bid and ask else None
                for bid, ask in zip(self._latest["bid"], self._latest["ask"], strict=True)
            ],
            "ratio_1h": [ratios.get(market_id) for market_id in self._latest["market_id"]],
        }
        above = [one for one in current if (one["ratio_1h"] or 0.0) > charts.THRESHOLD]
        above.sort(key=lambda one: -one["ratio_1h"])
        self.spikes = [
            one | {"words": charts.words_of(one["measure"]), "of": len(above)}
            for one in above[:_SPIKES_SHOWN]
        ]

    def _handle(self, _widget: Any, content: dict[str, Any], _buffers: list) -> None:
        """One message of the page; what goes wrong is told in the page."""
        self._heard_at = monotonic()
        with self._told():
            match content:
                case {"type": "show"}:
                    asked = {name: str(content.get(name) or "") for name in ("market", "measure", "by")}
                    try:
                        self.show(**{name: value[:_ASKED_MAX] for name, value in asked.items()})
                    finally:
                        self.send({"type": "shown"})
                case {"type": "here"}:
                    self._follow()
                    self.send({"type": "beat", "now": round(time() * 1000)})
                    if content.get("revision") not in (None, self.revision):
                        self.send_state(list(self._shown()))
                case {"type": "plotly"}:
                    self.send({"type": "plotly", "script": plotly_script().read_text(encoding="utf-8")})

    def _follow(self) -> None:
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._keep_fresh())

    async def _keep_fresh(self) -> None:
        """Read anew after each commit, until nobody looks: then the kernel is idle, and the server ends it."""
        while monotonic() - self._heard_at < _GONE_S or _waiting():
            await asyncio.sleep(_POLL_S)
            with self._told():
                if self._readings and not self.about["as_of"] and self._readings.version() != self._version:
                    self.refresh()

    def _told(self) -> "_Told":
        return _Told(self)


class EndMarker:
    """The last thing on a page that was made to its end."""

    def __repr__(self) -> str:
        return "The page is complete."

    def _repr_html_(self) -> str:
        return f'<span id="{END_MARK}" hidden>{self!r}</span>'


class _Told:
    """Around what a viewer caused: an error becomes words in the page, and success takes them away."""

    def __init__(self, page: Dashboard):
        self._page = page

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _trace: Any) -> bool:
        if error is None:
            # until there is something to read with, a problem stays
            if self._page._readings is not None and self._page.problem:
                self._page.problem = ""
            return False
        if isinstance(error, CryptomonError):
            log.warning("%s", error)
            self._page.problem = str(error)
            return True
        if isinstance(error, Exception):
            log.error("the dashboard failed", exc_info=error)
            self._page.problem = f"{type(error).__name__} in {_where(error)}: {error}. This is a bug."
            return True
        return False


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def rank_card(
    ranked: list[dict[str, Any]], market_id: str, by: str, names: dict[str, str], unit: str
) -> dict[str, Any]:
    """The numbers and the figure of a market's place; `says` instead of them where it has none.

    ranked: rows of Readings.ranks. by: stddev or cv. names: how a market_id is shown.
    """
    column, rank = ("stddev_24h", "rank_24h") if by == "stddev" else ("cv_24h", "rank_cv_24h")
    placed = sorted(
        (one for one in ranked if one[column] is not None), key=lambda one: (-one[column], one["market_id"])
    )
    at = next((index for index, one in enumerate(placed) if one["market_id"] == market_id), None)
    if at is None:
        return {"by": by, "says": _why_unranked(ranked, market_id)}
    own = placed[at]
    start = max(0, min(at - _NEIGHBOURS, len(placed) - 2 * _NEIGHBOURS - 1))
    near = placed[start : start + 2 * _NEIGHBOURS + 1]
    # ties share the better place
    places = [round(one[rank] * len(placed)) for one in near]
    figure = charts.rank_chart(
        places,
        [names.get(one["market_id"], one["market_id"]) for one in near],
        [one[column] for one in near],
        at - start,
        unit=unit if by == "stddev" else "of the mean",
    )
    return {
        "by": by,
        "place": places[at - start],
        "places": len(placed),
        "neighbours": [one["market_id"] for one in near],
        "figure": figure,
        "unit": unit,
        **{
            name: own[name]
            for name in ("stddev_24h", "rank_24h", "rank_24h_in_quote", "cv_24h", "rank_cv_24h")
        },
        "samples": own["samples"],
        "expected": own["expected"],
    }


def _why_unranked(ranked: list[dict[str, Any]], market_id: str) -> str:
    own = next((one for one in ranked if one["market_id"] == market_id), None)
    if own is None:
        return "Not ranked: only spot markets with values of this measure are."
    return f"Not ranked yet: {own['samples']} samples in 24 h, a rank needs at least 60."


def _short_names(latest: Columns) -> dict[str, str]:
    """`exchange:BASE-QUOTE` to market_id, where one market alone is called so."""
    names = [
        f"{exchange}:{market}" for exchange, market in zip(latest["exchange"], latest["market"], strict=True)
    ]
    counted = Counter(names)
    return {name: id for name, id in zip(names, latest["market_id"], strict=True) if counted[name] == 1}


def _fill_changes(latest: Columns, day_ago: Columns) -> None:
    """Where an exchange gives no 24 h change, the one between our own samples."""
    then = dict(zip(day_ago["market_id"], day_ago["price"], strict=True))
    latest["change_24h_pct"] = [
        100.0 * (price / then[market_id] - 1.0)
        if change is None and price and then.get(market_id)
        else change
        for market_id, price, change in zip(
            latest["market_id"], latest["price"], latest["change_24h_pct"], strict=True
        )
    ]


def _window(at: list[int], now: int) -> tuple[int, int] | None:
    """From the first sample to now, and never less than an hour."""
    return (min(at[0], now - 3_600_000), max(at[-1], now)) if at else None


def _names(latest: Columns) -> list[str]:
    """How each market is shown: its pair, or the exchange's symbol, and where it trades."""
    return [
        f"{market or symbol} {exchange}"
        for market, symbol, exchange in zip(
            latest["market"], latest["symbol"], latest["exchange"], strict=True
        )
    ]


def _about(monitor: Monitor, as_of: str) -> dict[str, Any]:
    return {
        "environment": monitor.settings.environment,
        "simulated": monitor.settings.simulated,
        "cadence_s": monitor.settings.cadence_s,
        "as_of": as_of,
        "palettes": charts.PALETTES,
    }


def _waiting() -> bool:
    """Whether this kernel is pre-heated and its viewer has not come yet. The server says so, it is no setting."""
    return os.environ.get("VOILA_PREHEAT") == "True" and "QUERY_STRING" not in os.environ


async def _request() -> dict[str, str]:
    """What the server says of the request that this page answers; in a pre-heated kernel, when it comes."""
    while _waiting():
        try:
            os.environ.update(await _next_request())
        except OSError as error:
            log.info("asking the server again for the page's request: %s", error)
            await asyncio.sleep(1)
    return dict(os.environ)


async def _next_request() -> dict[str, str]:
    # as voila.utils.wait_for_request, which would block the kernel and bring 50 MB of server with it
    from tornado.websocket import websocket_connect

    port, base = os.environ["VOILA_APP_PORT"], os.environ.get("VOILA_SERVER_URL", "/")
    url = f"ws://127.0.0.1:{port}{base}voila/query/{os.environ['VOILA_KERNEL_ID']}"
    connection = await websocket_connect(url)
    message = await connection.read_message()
    if message is None:
        raise ConnectionError("the server closed the connection")
    return json.loads(message)
