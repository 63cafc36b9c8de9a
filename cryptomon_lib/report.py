"""The day in a page: what moved, how complete it is, what was told, what it took. Numbers for 90_daily_report."""

import io
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

import pandas as pd

from cryptomon_lib.alerts import alert_spans
from cryptomon_lib.charts import PALETTES
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import ParameterError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.operations import quarantine_by_source, storage_by_day
from cryptomon_lib.runs import load_runs

_DAY = timedelta(days=1)
_LISTED = 8


@dataclass(frozen=True)
class DayReport:
    """One UTC day of a monitor; each property is read when it is asked for."""

    monitor: Monitor
    day: date

    @cached_property
    def engine(self) -> Engine:
        """The engine as of the day's end, or of now where the day has not ended."""
        ends = datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC) + _DAY
        return Engine(self.monitor, min(ends - timedelta(milliseconds=1), datetime.now(UTC)))

    @cached_property
    def since(self) -> datetime:
        """When the day began."""
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)

    @cached_property
    def latest(self) -> pd.DataFrame:
        """One row per market: its metrics at the day's end; change_pct is the exchange's own, else between our samples."""
        found = self.engine.query(
            "select market_id, exchange, market, symbol, quote, kind, price, return_24h_pct, change_24h_pct, cv_24h, "
            "volatility_24h_pct, quote_volume_24h from latest order by market_id"
        ).to_pandas()
        return found.assign(change_pct=found["change_24h_pct"].fillna(found["return_24h_pct"]))

    @property
    def _moved(self) -> pd.DataFrame:
        """The spot markets whose change is known."""
        return self.latest[self.latest["kind"] == "spot"].dropna(subset="change_pct")

    @cached_property
    def movers(self) -> pd.DataFrame:
        """The spot markets that rose and fell most over the 24 h before the day's end: one row each, best first."""
        spot = self._moved.sort_values("change_pct", ascending=False)
        ends = pd.concat([spot.head(_LISTED), spot.tail(_LISTED)]).drop_duplicates("market_id")
        return ends[
            ["exchange", "market", "symbol", "price", "change_pct", "volatility_24h_pct", "quote_volume_24h"]
        ]

    @cached_property
    def breadth(self) -> dict[str, int]:
        """How many spot markets rose, fell and stayed, of those whose change is known."""
        change = self._moved["change_pct"]
        return {
            "up": int((change > 0).sum()),
            "down": int((change < 0).sum()),
            "unchanged": int((change == 0).sum()),
        }

    @cached_property
    def completeness(self) -> pd.DataFrame:
        """One row per source, measure: samples of expected, filled, untraded, lost minutes, share."""
        return self.engine.query(
            "select source, measure, samples, filled, untraded, lost, expected, share from completeness "
            "order by source, measure"
        ).to_pandas()

    @cached_property
    def alerts(self) -> pd.DataFrame:
        """One row per rule: alerts that fired in the day, markets, minutes they lasted in the middle, how many were told."""
        spans = alert_spans(self.engine, self.since)
        if spans.empty:
            return pd.DataFrame(columns=["rule", "alerts", "markets", "minutes", "told"])
        return (
            spans.groupby("rule")
            .agg(
                alerts=("alert_id", "size"),
                markets=("market_id", "nunique"),
                minutes=("minutes", "median"),
                told=("told", "sum"),
            )
            .reset_index()
            .sort_values("alerts", ascending=False, ignore_index=True)
        )

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per notebook: runs that began in the day, failed ones, seconds in the middle and at the longest."""
        back = (datetime.now(UTC).date() - self.day).days + 1
        began = [one for one in load_runs(self.monitor, back) if one["started_at"][:10] == f"{self.day}"]
        frame = pd.DataFrame(began, columns=["notebook", "status", "duration_s"])
        frame["bad"] = ~frame["status"].isin(["succeeded", "running"])
        return (
            frame.groupby("notebook")
            .agg(
                runs=("status", "size"),
                failed=("bad", "sum"),
                median_s=("duration_s", "median"),
                longest_s=("duration_s", "max"),
            )
            .reset_index()
        )

    @cached_property
    def storage(self) -> pd.DataFrame:
        """One row per table: megabytes of the day, and of all days."""
        days, sizes = storage_by_day(self.monitor, days=100_000)
        at = days.index(f"{self.day}") if f"{self.day}" in days else None
        return pd.DataFrame(
            [(name, values[at] if at is not None else 0.0, sum(values)) for name, values in sizes],
            columns=["table", "day_mb", "all_mb"],
        )

    @cached_property
    def cost(self) -> pd.DataFrame:
        """What a scan of the day's bytes costs, where the engine bills them: table, day_mb, scan_usd of one whole scan."""
        price = self.monitor.settings.athena.price_per_tb_usd
        told = self.storage[["table", "day_mb"]].copy()
        # a query is billed for 10 MB at the least
        told["scan_usd"] = told["day_mb"].clip(lower=10) / 1e6 * price
        return told

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """One row per exchange with payloads in quarantine, of any day."""
        return pd.DataFrame(
            quarantine_by_source(self.monitor), columns=["source", "payloads", "newest_at", "reason"]
        )

    @property
    def bottom_line(self) -> str:
        """The day in a few sentences, in Markdown."""
        counted, ticks = self.breadth, self.completeness[self.completeness["measure"] == "ticks"]
        known = sum(counted.values())
        rose = (
            f"{counted['up']:,} of {known:,} markets rose" if known else "No market has a change of 24 h yet"
        )
        share = f"{ticks['share'].min():.1%} of the minutes at the least" if len(ticks) else "no minute"
        failed = int(self.runs["failed"].sum())
        best = self.movers.iloc[0] if len(self.movers) else None
        most = (
            f"; {best['market'] or best['symbol']} on {best['exchange']} most, by {best['change_pct']:+.1f} %"
            if best is not None
            else ""
        )
        simulated = "**Simulated data.** " if self.monitor.settings.simulated else ""
        return (
            f"{simulated}**{rose}**{most}. Each source has {share}. "
            f"{int(self.alerts['alerts'].sum()):,} alerts fired, people were told of {int(self.alerts['told'].sum()):,}. "
            f"{len(self.runs) and int(self.runs['runs'].sum()):,} notebooks ran, {failed} failed; "
            f"{self.quarantine['payloads'].sum():,} payloads are in quarantine. "
            f"{self.storage['day_mb'].sum():.1f} MB were kept of the day."
        )

    @property
    def top(self) -> str:
        """The day's name and the bottom line, in Markdown."""
        return f"## {self.day:%A, %d %B %Y} (UTC)\n\n{self.bottom_line}"

    def movers_picture(self) -> bytes:
        """The movers as horizontal bars, PNG."""
        shown = self.movers.iloc[::-1]
        names = [f"{row.market or row.symbol} {row.exchange}" for row in shown.itertuples()]
        return _bars(names, shown["change_pct"].tolist(), "% in 24 h")

    def alerts_picture(self) -> bytes:
        """Alerts that fired by hour of the day (UTC), PNG."""
        spans = alert_spans(self.engine, self.since)
        hours = pd.to_datetime(spans["fired_at"]).dt.hour.value_counts() if len(spans) else {}
        return _columns(
            [f"{hour:02d}" for hour in range(24)], [int(hours.get(hour, 0)) for hour in range(24)], "alerts"
        )


def day_report(monitor: Monitor, day: str = "") -> DayReport:
    """The report of a UTC day, YYYY-MM-DD; where none is named of yesterday, or of today where nothing is older.

    Raises ParameterError: that is no day.
    """
    try:
        chosen = date.fromisoformat(day) if day else _newest_whole_day(monitor)
    except ValueError as error:
        raise ParameterError(
            f"day is {day!r}; write it as 2026-01-31, or leave it empty for yesterday."
        ) from error
    return DayReport(monitor, chosen)


def _newest_whole_day(monitor: Monitor) -> date:
    today = datetime.now(UTC).date()
    return today - _DAY if monitor.lake.files("ticks", until_day=f"{today - _DAY}") else today


def _bars(names: list[str], values: list[float], unit: str) -> bytes:
    figure, axes = _figure(max(1.6, 0.28 * len(names) + 0.6))
    light = PALETTES["light"]
    axes.barh(
        range(len(names)),
        values,
        color=[light["accent"] if value >= 0 else light["alert"] for value in values],
    )
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color=light["quiet"], linewidth=1)
    axes.set_xlabel(unit)
    return _png(figure)


def _columns(names: list[str], values: list[float], unit: str) -> bytes:
    figure, axes = _figure(2.4)
    axes.bar(range(len(names)), values, color=PALETTES["light"]["accent"])
    axes.set_xticks(range(0, len(names), 3), names[::3])
    axes.set_xlabel("hour, UTC")
    axes.set_ylabel(unit)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return _png(figure)


def _figure(height: float):
    # without pyplot: no window, no state that other figures share
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained", dpi=110)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
