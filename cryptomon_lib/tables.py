"""The data dictionary: every table's columns with type, unit and meaning, its key and its partitions.

What is stored, what the views may rely on and what the documentation shows all come from here. A column's
type is one of `text`, `number` (64-bit float), `count` (64-bit integer), `time` (UTC, milliseconds kept) or
`texts` (a list of text).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import pyarrow as pa

ARROW_TYPES = {
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "time": pa.timestamp("us", tz="UTC"),
    "texts": pa.list_(pa.string()),
}

# an amount beyond these is a fault of the feed: recorded ones reach 2.3e13 (price) and 9.2e16 (volume), and
# one absurd value spoils the sliding sums of every later row
PRICE_MAX = 1e18
VOLUME_MAX = 1e24


@dataclass(frozen=True)
class Column:
    """One column: its name, its type (see the module), its unit, what it means."""

    name: str
    type: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, its key, its partition columns."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    # the column whose UTC date is the partition `day`
    day_of: str | None = None
    # the order of rows in files that are written once and read often; empty: that of the key
    sorted_by: tuple[str, ...] = ()
    # columns that are never null, beside those of key and partition
    always: tuple[str, ...] = ()

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def never_null(self) -> frozenset[str]:
        """The columns that every row has a value of."""
        return frozenset({*self.key, *self.partition_by, *self.always})

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that rows of a file are sorted by."""
        return self.sorted_by or self.key

    @property
    def led_by(self) -> tuple[str, ...]:
        """Those of them by whose values a scan skips row groups."""
        return self.sorted_by[:-1] or self.key[:1]


_MARKET = (
    Column("market_id", "text", "", "source:exchange:symbol; names one market of one exchange for ever"),
    Column("source", "text", "", "the API that was asked; differs from exchange for an aggregator"),
    Column("exchange", "text", "", "where the market trades"),
    Column("symbol", "text", "", "the market's name as the API gives it"),
    Column("market", "text", "", "BASE-QUOTE in upper case; null where the API does not tell them apart"),
    Column("base", "text", "", "the currency that is priced"),
    Column("quote", "text", "", "the currency that prices are in"),
    Column("kind", "text", "", "spot, perpetual or future"),
)
_TOLD = (
    Column("price", "number", "quote", "last trade; null where there was none in 24 h"),
    Column("bid", "number", "quote", "best bid"),
    Column("ask", "number", "quote", "best ask"),
    Column("open_24h", "number", "quote", "price 24 h ago, where the API gives it"),
    Column("high_24h", "number", "quote", "highest trade of the last 24 h"),
    Column("low_24h", "number", "quote", "lowest trade of the last 24 h"),
    Column("change_24h", "number", "quote", "price now less price 24 h ago"),
    Column("change_24h_pct", "number", "percent", "the same, of the price 24 h ago"),
    Column("volume_24h", "number", "base", "traded in the last 24 h, rolling; not the minute's volume"),
    Column("quote_volume_24h", "number", "quote", "the same in quote currency; null where not given"),
)
_DAY = Column("day", "text", "YYYY-MM-DD", "UTC date of the row; partition")

_TABLES = (
    Table(
        name="ticks",
        meaning="What an exchange's all-market ticker said of one market at one moment.",
        columns=(
            *_MARKET,
            Column("collected_at", "time", "UTC", "when the answer arrived"),
            *_TOLD,
            Column("volume_today", "number", "base", "traded since 00:00 UTC, where the API counts so"),
            Column("exchange_at", "time", "UTC", "the exchange's own time of the row, where it gives one"),
            _DAY,
        ),
        key=("market_id", "collected_at"),
        partition_by=("source", "day"),
        day_of="collected_at",
        always=("source", "exchange", "symbol", "kind"),
    ),
    Table(
        name="candles",
        meaning="Open, high, low, close and volume of one closed interval of one market.",
        columns=(
            *_MARKET,
            Column("interval_s", "count", "s", "length of the interval; 60"),
            Column("opened_at", "time", "UTC", "start of the interval"),
            Column("open", "number", "quote", "first trade"),
            Column("high", "number", "quote", "highest trade"),
            Column("low", "number", "quote", "lowest trade"),
            Column("close", "number", "quote", "last trade"),
            Column("volume", "number", "base", "traded in the interval"),
            Column("quote_volume", "number", "quote", "the same in quote currency; null where not given"),
            Column("trades", "count", "", "number of trades; null where not given"),
            Column("collected_at", "time", "UTC", "when the answer arrived"),
            Column("origin", "text", "", "live or backfill"),
            _DAY,
        ),
        key=("market_id", "interval_s", "opened_at"),
        partition_by=("source", "day"),
        day_of="opened_at",
        always=("source", "exchange", "symbol", "kind", "open", "high", "low", "close", "collected_at"),
    ),
    Table(
        name="rollups_1h",
        meaning="Partial aggregates of one measure of one market over one hour; they merge to any longer window.",
        columns=(
            Column("market_id", "text", "", "see ticks"),
            Column("measure", "text", "", "see the view measures"),
            Column("hour_at", "time", "UTC", "start of the hour"),
            Column("samples", "count", "", "values that are not null"),
            Column("expected", "count", "", "values at one a cadence"),
            Column("mean", "number", "of the measure", "average"),
            Column("m2", "number", "squared", "sum of squared deviations from the mean"),
            Column("min", "number", "of the measure", "smallest"),
            Column("max", "number", "of the measure", "largest"),
            Column("first", "number", "of the measure", "earliest"),
            Column("last", "number", "of the measure", "latest"),
            _DAY,
        ),
        key=("market_id", "measure", "hour_at"),
        partition_by=("day",),
        day_of="hour_at",
        # nearly all who ask for all markets ask for one measure
        sorted_by=("measure", "market_id", "hour_at"),
        always=("samples", "expected", "mean", "m2", "min", "max", "first", "last"),
    ),
    Table(
        name="ticks_1h",
        meaning="Each market's last tick of one hour as it came, and how many ticks the hour had.",
        columns=(
            *_MARKET,
            Column("hour_at", "time", "UTC", "start of the hour"),
            Column("collected_at", "time", "UTC", "when the hour's last answer arrived"),
            *_TOLD,
            Column("exchange_at", "time", "UTC", "the exchange's own time of the row, where it gives one"),
            Column("first_at", "time", "UTC", "when the hour's first answer arrived"),
            Column("samples", "count", "", "ticks in the hour"),
            _DAY,
        ),
        key=("market_id", "hour_at"),
        partition_by=("day",),
        day_of="hour_at",
    ),
    Table(
        name="latest",
        meaning="The view of this name, once a tick: each market's newest tick with its metrics of now.",
        columns=(
            *_MARKET,
            Column("collected_at", "time", "UTC", "when the answer arrived"),
            Column("price", "number", "quote", "last trade; null where there was none in 24 h"),
            Column("bid", "number", "quote", "best bid"),
            Column("ask", "number", "quote", "best ask"),
            Column("open_24h", "number", "quote", "price 24 h ago, where the API gives it"),
            Column("high_24h", "number", "quote", "highest trade of the last 24 h"),
            Column("low_24h", "number", "quote", "lowest trade of the last 24 h"),
            Column("change_24h", "number", "quote", "price now less price 24 h ago, as the API gives it"),
            Column("change_24h_pct", "number", "percent", "the same, of the price 24 h ago"),
            Column("volume_24h", "number", "base", "traded in the last 24 h, rolling"),
            Column("quote_volume_24h", "number", "quote", "the same in quote currency"),
            Column("exchange_at", "time", "UTC", "the exchange's own time of the row, where it gives one"),
            Column("spread_bps", "number", "bps", "best ask above best bid, of their middle"),
            Column("volume_1m", "number", "base", "traded in the newest minute that is known"),
            Column("average_1h_price", "number", "quote", "average of the hour before the newest price"),
            Column("ratio_1h_price", "number", "multiple", "the newest price of that average"),
            Column("average_1h_volume_1m", "number", "base", "average of volume_1m over the hour before"),
            Column("ratio_1h_volume_1m", "number", "multiple", "volume_1m of that average"),
            Column("zscore_1h", "number", "deviations", "the newest price from the hour's average"),
            Column("return_1h_pct", "number", "percent", "price now against 1 h ago"),
            Column("return_24h_pct", "number", "percent", "price now against 24 h ago"),
            Column("return_7d_pct", "number", "percent", "price now against 7 days ago, to the hour"),
            Column("volatility_24h_pct", "number", "percent a day", "deviation of hourly returns over 24 h"),
            Column("moving_average_1h", "number", "quote", "average price of the last hour"),
            Column("moving_average_24h", "number", "quote", "average price of the last 24 h"),
            Column("moving_average_7d", "number", "quote", "average price of the last 7 days"),
            Column("stddev_24h", "number", "quote", "standard deviation of the price over 24 h"),
            Column("rank_24h", "number", "", "place by it among spot markets, of their number"),
            Column("rank_24h_in_quote", "number", "", "the same among those of the same quote currency"),
            Column("cv_24h", "number", "multiple", "the standard deviation of the mean"),
            Column("rank_cv_24h", "number", "", "place by that among spot markets, of their number"),
            Column("samples_1h", "count", "", "prices in the hour before the newest"),
            Column("expected_1h", "count", "", "prices at one a minute"),
            Column("samples", "count", "", "ticks in the last 24 h"),
            Column("expected", "count", "", "ticks at one a minute"),
            Column("as_of", "time", "UTC", "the moment that the metrics are of"),
        ),
        key=("market_id",),
        partition_by=(),
        always=(
            "source",
            "exchange",
            "symbol",
            "kind",
            "collected_at",
            "samples_1h",
            "expected_1h",
            "samples",
            "expected",
            "as_of",
        ),
    ),
    Table(
        name="now_1h",
        meaning="The view of this name, once a tick: each newest value beside the average of the hour before it.",
        columns=(
            Column("market_id", "text", "", "see ticks"),
            Column("measure", "text", "", "see the view measures"),
            Column("at", "time", "UTC", "the newest value's"),
            Column("value", "number", "of the measure", "the newest"),
            Column("average_1h", "number", "of the measure", "average of the hour before it"),
            Column("stddev_1h", "number", "of the measure", "sample standard deviation of that hour"),
            Column("ratio_1h", "number", "multiple", "the value of the average"),
            Column("samples", "count", "", "values in the hour before"),
            Column("expected", "count", "", "values at one a minute"),
            Column("as_of", "time", "UTC", "the moment that it was computed for"),
        ),
        key=("market_id", "measure"),
        partition_by=(),
    ),
    Table(
        name="alerts",
        meaning="A transition of an alert: what it was, what it was held against, and whether to tell people.",
        columns=(
            Column("alert_id", "text", "", "of rule, market_id, measure and started_at"),
            Column("state", "text", "", "pending, lapsed, firing, resolved; no_data and data (it came back)"),
            Column("at", "time", "UTC", "the reading that made the transition; of no_data the minute"),
            Column("rule", "text", "", "the rule's name"),
            Column("market_id", "text", "", "see ticks"),
            Column("exchange", "text", "", "where the market trades"),
            Column("symbol", "text", "", "the market's name as the API gives it"),
            Column("market", "text", "", "BASE-QUOTE; null where it is not known"),
            Column("measure", "text", "", "see the view measures; empty where the rule's view has none"),
            Column("value", "number", "of the measure", "what it was"),
            Column("average", "number", "of the measure", "the average that it was held against, if any"),
            Column("ratio", "number", "", "value as a multiple of the average, if there is one"),
            Column("compared", "text", "", "the column that the rule compares first, as ratio_1h"),
            Column("reached", "number", "of compared", "what that column was"),
            Column("threshold", "number", "of compared", "what it had to pass"),
            Column("samples", "count", "", "values in the average"),
            Column("severity", "text", "", "info, warning or critical"),
            Column("started_at", "time", "UTC", "when the condition first held; of no_data the last reading"),
            Column("fired_at", "time", "UTC", "when it first fired; null while pending, and of no_data"),
            Column("quiet", "text", "", "why nobody is to be told, as cool_down; null where they are"),
            Column("says", "text", "", "the rule's message, filled in"),
            Column("evaluated_at", "time", "UTC", "the minute of the evaluation that found it"),
            _DAY,
        ),
        key=("alert_id", "state", "at"),
        partition_by=("day",),
        day_of="at",
        always=("rule", "market_id", "measure", "severity", "started_at", "evaluated_at"),
    ),
    Table(
        name="alert_rules",
        meaning="Alert rules that programs keep: each compares one column of one market and measure with a number.",
        columns=(
            Column("rule", "text", "", "its name; of no other rule"),
            Column("market_id", "text", "", "see ticks"),
            Column("view", "text", "", "the view that it reads, as now_1h"),
            Column("measure", "text", "", "see the view measures; empty where the view has none"),
            Column("compared", "text", "", "the column that is compared, as ratio_1h"),
            Column("compare", "text", "", ">, >=, < or <="),
            Column("threshold", "number", "of compared", "what it is held against"),
            Column("recover", "number", "of compared", "at what it is over; null: at the threshold"),
            Column("for_s", "number", "s", "how long it has to hold; null: not at all"),
            Column("keep_firing_s", "number", "s", "how long it has to be over; null: not at all"),
            Column("cool_down_s", "number", "s", "how long nobody is told again; null: not at all"),
            Column("rearm", "number", "", "a move so many times larger is told nevertheless; null: none is"),
            Column("min_samples", "count", "", "fewer samples than that are no reading; null: 0"),
            Column("no_data_s", "number", "s", "silence so long is told; null: never"),
            Column("severity", "text", "", "info, warning or critical"),
            Column("message", "text", "", "see params/alerts.yaml"),
        ),
        key=("rule",),
        partition_by=(),
    ),
    Table(
        name="notices",
        meaning="What was sent to whom, and how often it was tried.",
        columns=(
            Column("notice_id", "text", "", "idempotency id, the same at every attempt"),
            Column("state", "text", "", "queued, sent, failed or parked"),
            Column("at", "time", "UTC", "when it came to that state"),
            Column("user", "text", "", "whom it is for"),
            Column("receiver", "text", "", "the channel"),
            Column("alert_ids", "texts", "", "the alerts it tells of"),
            Column("attempts", "count", "", "tries so far"),
            Column("reason", "text", "", "why it failed or was parked"),
            _DAY,
        ),
        key=("notice_id", "state", "at"),
        partition_by=("day",),
        day_of="at",
        always=("user", "attempts"),
    ),
    Table(
        name="holes",
        meaning="Minutes in which a measure is missing, and what became of them. Closed ones are kept for a time.",
        columns=(
            Column("subject", "text", "", "a market_id, or a source"),
            Column("measure", "text", "", "price or volume_1m of a market; ticks: polls of a source"),
            Column("from_at", "time", "UTC", "first missing minute, at its end, as volume_1m counts it"),
            Column("to_at", "time", "UTC", "last missing minute; the minutes between may be there"),
            Column("minutes", "count", "", "how many are missing, or were"),
            Column("state", "text", "", "open, filled (has values, or nothing was traded) or unfillable"),
            Column("reason", "text", "", "why it is open, how it was filled, or why it cannot be"),
            Column("found_at", "time", "UTC", "when it was noticed"),
            Column("closed_at", "time", "UTC", "when it was filled or given up"),
        ),
        key=("subject", "measure", "from_at"),
        partition_by=(),
        always=("minutes", "state", "found_at"),
    ),
    Table(
        name="findings",
        meaning="What checks of the data found: one row when it is found, each day that it stands, and when it is gone.",
        columns=(
            Column("check", "text", "", "the check's name"),
            Column("subject", "text", "", "what it looked at: a source, a market_id, a folder"),
            Column("at", "time", "UTC", "when"),
            Column("state", "text", "", "found, worse, better, still or gone"),
            Column("severity", "text", "", "info, warning or critical"),
            Column("says", "text", "", "what, where, what to do"),
            Column("since_at", "time", "UTC", "when it was found first"),
            _DAY,
        ),
        key=("check", "subject", "at"),
        partition_by=("day",),
        day_of="at",
        always=("state", "severity", "says", "since_at"),
    ),
)
TABLES = {table.name: table for table in _TABLES}

# columns of views that no table has, or that say something else there; by view, "" being every view
_OF_VIEWS: dict[str, tuple[Column, ...]] = {
    "": (
        Column("at", "time", "UTC", "the moment of the value"),
        Column("value", "number", "of the measure", "what it was"),
        Column("average_1h", "number", "of the measure", "average of the hour before, the value itself left out"),
        Column("stddev_1h", "number", "of the measure", "sample standard deviation of that hour"),
        Column("ratio_1h", "number", "multiple", "the value of that average"),
        Column("stddev_24h", "number", "of the measure", "sample standard deviation over 24 h"),
        Column("samples", "count", "", "values that it is made of"),
        Column("expected", "count", "", "values at one a minute"),
        Column("place", "count", "", "1 is the most variable; ties share the better place"),
        Column("places", "count", "", "how many have a place"),
        Column("origin", "text", "", "where it is from: candle, tick, counter (since midnight), or mixed"),
        Column("first_at", "time", "UTC", "the first of the window"),
        Column("last_at", "time", "UTC", "the last of the window"),
    ),
    "candles_1m": (
        Column("samples", "count", "", "1"),
        Column("expected", "count", "", "1"),
    ),
    **{
        f"candles_{length}": (
            Column("samples", "count", "minutes", "minutes that have a price"),
            Column("expected", "count", "minutes", "minutes that began"),
        )
        for length in ("5m", "1h", "1d")
    },
    "completeness": (
        Column("measure", "text", "", "ticks (polls of the source), price or volume_1m of its followed markets"),
        Column("markets", "count", "", "how many markets are followed; 1 for ticks"),
        Column("samples", "count", "minutes", "minutes that are there, filled ones included"),
        Column("filled", "count", "minutes", "of these, what no poll brought when it was due"),
        Column("untraded", "count", "minutes", "minutes in which nothing was traded, as the exchange says"),
        Column("lost", "count", "minutes", "minutes that cannot be had any more"),
        Column("expected", "count", "minutes", "minutes of 24 h, of all markets together"),
        Column("share", "number", "fraction", "samples and untraded of expected, 1 at most"),
    ),
    "freshness": (
        Column("collected_at", "time", "UTC", "the newest tick"),
        Column("age_s", "number", "s", "how old it is"),
        Column("candle_at", "time", "UTC", "the end of the newest candle; null without candles"),
        Column("candle_age_s", "number", "s", "how old that is"),
    ),
    "gaps": (
        Column("minutes", "count", "minutes", "how many are missing from from_at to to_at"),
        Column("untraded", "count", "minutes", "of these, without a trade, as the exchange says"),
        Column("lost", "count", "minutes", "of these, what cannot be had any more"),
        Column("open", "count", "minutes", "the rest: still to be asked for"),
    ),
    "market_summaries": (
        Column("price_last", "number", "quote", "price of ticks"),
        Column("price_high", "number", "quote", "high_24h of ticks"),
        Column("price_low", "number", "quote", "low_24h of ticks"),
        Column("price_change_percentage", "number", "percent", "change_24h_pct of ticks"),
        Column("price_change_absolute", "number", "quote", "change_24h of ticks"),
        Column("volume", "number", "base", "volume_24h of ticks"),
        Column("volumequote", "number", "quote", "quote_volume_24h of ticks"),
        Column("market", "text", "", "exchange of ticks"),
        Column("asset", "text", "", "the pair: symbol of ticks"),
        Column("created_at", "time", "UTC", "collected_at of ticks"),
    ),
    "markets": (
        Column("first_at", "time", "UTC", "its first tick within 24 h"),
        Column("last_at", "time", "UTC", "its newest tick"),
        Column("samples", "count", "", "ticks in the last 24 h"),
    ),
    "move_1m": (
        Column("at", "time", "UTC", "the end of the minute"),
        Column("move_bps", "number", "bps", "how far the price moved in it, of the price before; never negative"),
    ),
    "movers": (
        Column("at", "time", "UTC", "the newest price"),
        Column("place_rise", "count", "", "1 rose most"),
        Column("place_fall", "count", "", "1 fell most"),
        Column("samples", "count", "", "as returns: earlier prices that there are"),
        Column("expected", "count", "", "3"),
    ),
    "moving_averages": (
        Column("moving_average_1h", "number", "of the measure", "average of the last hour, the newest included"),
        Column("moving_average_24h", "number", "of the measure", "average of the last 24 h"),
        Column("moving_average_7d", "number", "of the measure", "average of the last 7 days, from a full hour on"),
        Column("samples_1h", "count", "", "values in the last hour"),
        Column("expected_1h", "count", "", "60"),
        Column("samples", "count", "", "values in the last 24 h"),
        Column("expected", "count", "", "1,440"),
        Column("samples_7d", "count", "", "values in the last 7 days"),
        Column("expected_7d", "count", "", "10,080"),
    ),
    "newest_ticks": (
        Column("first_at", "time", "UTC", "its first tick within 24 h"),
        Column("samples", "count", "", "ticks in the last 24 h"),
    ),
    "now_1h": (
        Column("value", "number", "of the measure", "the newest"),
    ),
    "price_gaps": (
        Column("low_market_id", "text", "", "where it is cheapest"),
        Column("low_price", "number", "quote", "the price there"),
        Column("high_market_id", "text", "", "where it is dearest"),
        Column("high_price", "number", "quote", "the price there"),
        Column("gap_bps", "number", "bps", "how far apart they are, of the lower"),
        Column("crossed_bps", "number", "bps", "highest bid above lowest ask; negative where nothing crosses"),
        Column("oldest_at", "time", "UTC", "when the older of the prices was polled"),
        Column("samples", "count", "", "exchanges with a price at most 2 minutes old"),
        Column("expected", "count", "", "exchanges that list the pair"),
    ),
    "rank_24h": (
        Column("samples", "count", "", "values in the last 24 h"),
    ),
    "returns": (
        Column("at", "time", "UTC", "the newest price"),
        Column("price", "number", "quote", "the newest"),
        Column("price_1h", "number", "quote", "1 h before; null where none was at most 10 minutes old then"),
        Column("price_24h", "number", "quote", "24 h before, likewise"),
        Column("price_7d", "number", "quote", "7 days before the present hour, likewise"),
        Column("samples", "count", "", "how many of the three there are"),
        Column("expected", "count", "", "3"),
    ),
    "rolled": (
        Column("rolled_until", "time", "UTC", "end of the newest hour that is rolled up; 1970 where none is"),
    ),
    "rolled_ticks": (
        Column("rolled_until", "time", "UTC", "end of the newest hour of ticks_1h; 1970 where there is none"),
    ),
    "spread": (
        Column("at", "time", "UTC", "the newest bid and ask"),
        Column("average_1h_bps", "number", "bps", "average spread of the hour before"),
        Column("ratio_1h", "number", "multiple", "the spread of that average"),
    ),
    "volatility": (
        Column("volatility_7d_pct", "number", "percent a day", "the same over 7 days"),
        Column("samples", "count", "", "hourly returns in 24 h"),
        Column("expected", "count", "", "24"),
        Column("samples_7d", "count", "", "hourly returns in 7 days"),
        Column("expected_7d", "count", "", "168"),
    ),
    "volatility_24h": (
        Column("samples", "count", "", "hourly returns in 24 h"),
        Column("expected", "count", "", "24"),
    ),
    "volume_1m": (
        Column("at", "time", "UTC", "the end of the minute"),
        Column("volume", "number", "base", "traded in the minute"),
        Column("origin", "text", "", "candle, or counter: the difference of a counter since midnight"),
    ),
    "zscore_1h": (
        Column("value", "number", "of the measure", "the newest"),
        Column("zscore_1h", "number", "deviations", "the newest value from the hour's average; negative below"),
    ),
}  # fmt: skip
# whose words hold for a column of a view that nobody above speaks of, the first first
_LENDERS = ("ticks", "candles", "rollups_1h", "latest", "holes")

# columns that a view of this name promises; more may be added, none taken away
CONTRACTS = {
    "measures": ("market_id", "measure", "at", "value", "origin"),
    "volume_1m": ("market_id", "at", "volume", "origin"),
    "trailing_1h": ("market_id", "measure", "at", "value", "average_1h", "ratio_1h", "samples", "expected"),
    "spikes": ("market_id", "measure", "at", "value", "average_1h", "ratio_1h", "samples", "expected"),
    "rank_24h": (
        "market_id",
        "measure",
        "stddev_24h",
        "rank_24h",
        "rank_24h_in_quote",
        "cv_24h",
        "samples",
        "expected",
    ),
    **{
        f"candles_{length}": (
            "market_id",
            "opened_at",
            "open",
            "high",
            "low",
            "close",
            "volume",
            "samples",
            "expected",
        )
        for length in ("1m", "5m", "1h", "1d")
    },
    "market_summaries": (
        "price_last",
        "price_high",
        "price_low",
        "price_change_percentage",
        "price_change_absolute",
        "volume",
        "volumequote",
        "market",
        "asset",
        "created_at",
    ),
}


def column_of(view: str, name: str) -> Column | None:
    """What a column of a view is; None where only the view's header can say."""
    own = (*_OF_VIEWS.get(view, ()), *(TABLES[view].columns if view in TABLES else ()), *_OF_VIEWS[""])
    lent = (column for table in _LENDERS for column in TABLES[table].columns)
    return next((column for column in (*own, *lent) if column.name == name), None)


@cache
def schema(name: str) -> pa.Schema:
    """The Arrow schema of a table, its key not nullable in meaning, its columns in the dictionary's order."""
    return pa.schema([(column.name, ARROW_TYPES[column.type]) for column in TABLES[name].columns])


def empty(name: str) -> pa.Table:
    """A table of that name with no rows."""
    return schema(name).empty_table()


def day_of(moment: datetime) -> str:
    """The UTC date of a moment as the partition column `day` has it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d")
