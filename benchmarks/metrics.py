"""Metrics at 9,590 markets a minute, for 1 and 2 days of history, and for 6 days at a fifth of the markets.

Each question is put to the engine as anyone would put it, and by pandas, by polars and to one day of the first
system's JSON lines as well as their files allow: they are told which files hold the answer. The floor scans and sums the
same columns of the same rows of the same files, place by place, and computes nothing. Files are generated as collecting,
compaction and roll-ups leave them: a sorted file for each closed day, one for each closed hour of today, one for each
minute of this hour.

The feed is made up from a recorded poll, where there is one: most markets trade seldom, a few every minute; what does
not trade says what it said before.

Run: python benchmarks/metrics.py [--quick] [--rounds N] [--days 7 --long 30]; 7 and 30 days take half an hour and 15 GB of
disk for the time it runs. Who takes seconds is asked once after warming up, engine and floor so many rounds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import cryptowatch_body, in_turn, say_peak

from cryptomon_lib import Engine, open_monitor, sql
from cryptomon_lib.compact import _GROUP as GROUPS
from cryptomon_lib.compact import _STRETCHES as STRETCHES
from cryptomon_lib.engines.duckdb import Backend
from cryptomon_lib.exchanges import flatten, request
from cryptomon_lib.latest import keep_latest
from cryptomon_lib.payloads import Payload
from cryptomon_lib.rollups import roll_up
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import TABLES, schema

NOW = datetime(2026, 1, 31, 13, 20, 30, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
# rows of a row group, as compaction writes them
GROUP, DAY_GROUP = GROUPS["hour"], GROUPS["day"]
CONTENDERS = ("engine", "floor", "pandas", "polars", "JSON lines")


# ---- the feed and its files


class Feed:
    """Minutes of many markets at once: a market's rows follow each other, its values go on from call to call."""

    def __init__(self, markets: int):
        body, self.origin = cryptowatch_body()
        call = request("cryptowatch", "tickers")
        payload = Payload(call.key(NOW), call.host, call.route, {}, NOW, NOW, None, body)
        rows = flatten(payload, {}).rows
        self.rows = rows.take(np.linspace(0, rows.num_rows - 1, markets).astype(int)).sort_by("market_id")
        self._chance = np.random.default_rng(7)
        # most markets trade seldom, a few every minute
        self._busy = self._chance.beta(0.4, 1.2, markets)
        self._now = {
            name: self.rows[name].to_numpy().copy() for name in ("price", "volume_24h", "quote_volume_24h")
        }
        self._opened = self._now["price"] - np.nan_to_num(self.rows["change_24h"].to_numpy())

    def minutes(self, begin: datetime, count: int) -> Iterator[pa.Table]:
        """All markets over so many minutes, sorted by market and time, a row group at a time."""
        size = max(1, (DAY_GROUP if count > 60 else GROUP) // count)
        for first in range(0, self.rows.num_rows, size):
            yield self._part(slice(first, min(first + size, self.rows.num_rows)), begin, count)

    def _part(self, some: slice, begin: datetime, count: int) -> pa.Table:
        busy = self._busy[some, None]
        trades = self._chance.random((len(busy), count)) < busy
        # a rolling sum changes when a trade enters it and when one leaves it
        changes = trades | (self._chance.random(trades.shape) < busy)
        price = _digits(self._walk("price", some, trades, 1e-3), 6)
        turned = _digits(price, 4)
        opened = self._opened[some, None] * np.cumprod(
            np.where(changes, self._chance.lognormal(0, 1e-4, trades.shape), 1), 1
        )
        values = {
            "price": price,
            "high_24h": np.maximum.accumulate(turned, 1) * 1.01,
            "low_24h": np.minimum.accumulate(turned, 1) * 0.99,
            "change_24h": _digits(price - _digits(opened, 6), 8),
            "change_24h_pct": (price / _digits(opened, 6) - 1) * 100,
            "volume_24h": self._walk("volume_24h", some, changes, 1e-4),
            "quote_volume_24h": self._walk("quote_volume_24h", some, changes, 1e-4),
        }
        at = np.datetime64(begin.replace(tzinfo=None), "us") + np.arange(count) * np.timedelta64(
            60_000_000, "us"
        )
        rows = self.rows.slice(some.start, len(busy)).take(np.repeat(np.arange(len(busy)), count))
        columns = {
            name: pa.array(np.where(np.isfinite(found), found, np.nan).ravel(), from_pandas=True)
            for name, found in values.items()
        }
        columns["collected_at"] = pa.array(np.tile(at, len(busy)) + np.timedelta64(2_000_000, "us")).cast(
            pa.timestamp("us", tz="UTC")
        )
        columns["day"] = pa.repeat(f"{begin:%Y-%m-%d}", rows.num_rows)
        for name, found in columns.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, found)
        return rows.cast(schema("ticks"))

    def _walk(self, name: str, some: slice, moves: np.ndarray, by: float) -> np.ndarray:
        steps = np.where(moves, self._chance.lognormal(0, by, moves.shape), 1)
        found = self._now[name][some, None] * np.cumprod(steps, 1)
        self._now[name][some] = found[:, -1]
        return found


def _digits(values: np.ndarray, count: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        scale = 10.0 ** (count - 1 - np.floor(np.log10(np.abs(values))))
        return np.where(np.isfinite(scale), np.round(values * scale) / scale, values)


def pieces(feed: Feed, begin: datetime, count: int) -> Iterator[pa.Table]:
    """As `Feed.minutes`, a large day in the stretches of time that compaction sorts it in."""
    rows = count * feed.rows.num_rows
    parts = next((one for one in STRETCHES if count == 1440 and one * DAY_GROUP <= rows), 1)
    for part in range(parts):
        yield from feed.minutes(begin + MINUTE * (count // parts * part), count // parts)


def generate(folder: Path, markets: int, days: int) -> dict[int, str]:
    """A root of so many closed days and today, and one of yesterday and today that shares its files; by days."""
    feed, began = Feed(markets), time.perf_counter()
    roots = {days: str(folder / f"{markets}x{days}"), 1: str(folder / f"{markets}x1")}
    lakes = {length: open_monitor("local", flags={"root": root}).lake for length, root in roots.items()}
    spans = [(TODAY - DAY * back, 1440, "day") for back in range(days, 0, -1)]
    spans += [(TODAY + HOUR * hour, 60, "hour") for hour in range(NOW.hour)]
    spans += [(TODAY + HOUR * NOW.hour + MINUTE * minute, 1, "part") for minute in range(NOW.minute + 1)]
    files = []
    for begin, count, label in spans:
        partition = {"source": "cryptowatch", "day": f"{begin:%Y-%m-%d}"}
        files.append(lakes[days].write("ticks", partition, pieces(feed, begin, count), label))
        if begin >= TODAY - DAY and days != 1:
            there = Path(lakes[1].uri("ticks")) / files[-1].path
            there.parent.mkdir(parents=True, exist_ok=True)
            os.link(Path(lakes[days].uri("ticks")) / files[-1].path, there)
    for length, lake in lakes.items():
        some = [file for file in files if file.partition["day"] >= f"{TODAY - DAY * length:%Y-%m-%d}"]
        lake.swap("ticks", lake.begin("ticks"), some)
    size, rows = sum(file.size for file in files), sum(file.rows for file in files)
    day = [file for file in files if file.partition["day"] == f"{TODAY - DAY:%Y-%m-%d}"]
    a_day, of = sum(file.size for file in day), sum(file.rows for file in day)
    print(
        f"{markets:,} markets ({feed.origin} poll), {days} days and today: {rows:,} rows in {len(files)} files, "
        f"{size / 1e9:.2f} GB; a day {a_day / 1e6:.0f} MB, {a_day / of:.1f} bytes a row "
        f"({time.perf_counter() - began:.0f} s)"
    )
    for root in dict.fromkeys(roots.values()):
        began = time.perf_counter()
        done = roll_up(open_monitor("local", flags={"root": root}), NOW)
        print(f"  rolled up {done.hours} hours, {done.rows:,} rows ({time.perf_counter() - began:.0f} s)")
    return roots


def write_json_lines(root: str, folder: Path) -> list[Path]:
    """The last 24 h as the first system kept them: JSON lines, one file an hour, by time."""
    folder.mkdir()
    lake, began = open_monitor("local", flags={"root": root}).lake, time.perf_counter()
    connection = duckdb.connect(config={"memory_limit": "3GB", "temp_directory": str(folder / "spill")})
    connection.execute("set TimeZone = 'UTC'")
    paths = [file.path for file in lake.files("ticks", f"{TODAY - DAY:%Y-%m-%d}")]
    begin = (NOW - DAY).replace(minute=0, second=0)
    made = []
    for number in range(25):
        made.append(folder / f"{begin + HOUR * number:%Y-%m-%dT%H}.jsonl")
        connection.execute(
            f"""copy (
                select price as price_last, high_24h as price_high, low_24h as price_low,
                    change_24h_pct / 100 as price_change_percentage, change_24h as price_change_absolute,
                    volume_24h as volume, quote_volume_24h as volumequote, exchange as market, symbol as asset,
                    strftime(collected_at, '%Y-%m-%d %H:%M:%S') as created_at
                from read_parquet($paths) where collected_at >= $since and collected_at < $until
                order by collected_at
            ) to '{made[-1]}' (format json)""",
            {"paths": paths, "since": begin + HOUR * number, "until": begin + HOUR * (number + 1)},
        )
    size, lines = (
        sum(path.stat().st_size for path in made),
        connection.execute(
            "select count(*) from read_parquet($paths) where collected_at >= $since",
            {"paths": paths, "since": begin},
        ).fetchone()[0],
    )
    day = lake.files("ticks", f"{TODAY - DAY:%Y-%m-%d}", f"{TODAY - DAY:%Y-%m-%d}")
    ratio = (size / lines) / (sum(file.size for file in day) / sum(file.rows for file in day))
    print(
        f"  JSON lines of 24 h: {size / 1e9:.2f} GB, {size / lines:.0f} bytes a row, {ratio:.1f} x the Parquet of a day "
        f"({time.perf_counter() - began:.0f} s)"
    )
    return made


# ---- the questions


@dataclass(frozen=True)
class Question:
    """One question: to the engine, and to the others. columns: what of which table is looked at.

    others: whether pandas, polars and JSON lines are asked, too.
    """

    says: str
    text: str
    columns: dict[str, tuple[str, ...]]
    of_market: bool = False
    hours: int = 24
    others: bool = True


_TICK = ("market_id", "collected_at", "price")
_TOLD = ("market_id", "hour_at", "kind", "quote")
_SUMS = ("market_id", "measure", "hour_at", "samples", "mean", "m2", "min", "max")
QUESTIONS = {
    "spikes": Question(
        "all markets, newest value to the mean of the hour before",
        "select market_id, value, average_1h, ratio_1h from now_1h where measure = 'price'",
        {"ticks": _TICK},
        hours=1,
    ),
    "rank": Question(
        "all markets, deviation over 24 h and rank",
        "select market_id, stddev_24h, rank_24h from rank_24h where measure = 'price'",
        {"ticks": _TICK, "rollups_1h": _SUMS, "ticks_1h": _TOLD},
    ),
    "series": Question(
        "one market, 24 h",
        f"select at, value from measures where market_id = :market_id and measure = 'price' "
        f"and at > {CLOCK} - interval '24' hour order by at",
        {"ticks": _TICK},
        of_market=True,
    ),
    "ratio": Question(
        "one market, 24 h, each value to the mean of the hour before",
        "select at, value, ratio_1h from trailing_1h where market_id = :market_id and measure = 'price' order by at",
        {"ticks": _TICK},
        of_market=True,
    ),
    "candles": Question(
        "one market, 24 h in candles of 5 minutes",
        f"select opened_at, open, high, low, close from candles_5m where market_id = :market_id "
        f"and opened_at > {CLOCK} - interval '24' hour order by opened_at",
        {"ticks": _TICK},
        of_market=True,
    ),
    "latest": Question(
        "all markets, every metric of now",
        "select * from latest",
        {"ticks": _TICK, "rollups_1h": _SUMS, "ticks_1h": _TOLD},
        others=False,
    ),
    "month": Question(
        "one market, 30 days by the hour",
        "select hour_at, mean, min, max from measures_1h where market_id = :market_id and measure = 'price' "
        "order by hour_at",
        {"ticks": _TICK, "rollups_1h": _SUMS},
        of_market=True,
        others=False,
    ),
    "month raw": Question(
        "one market, 30 days by the minute",
        f"select collected_at, price from ticks where market_id = :market_id "
        f"and collected_at > {CLOCK} - interval '30' day order by collected_at",
        {"ticks": _TICK},
        of_market=True,
        others=False,
    ),
}


def asked() -> dict[str, Question]:
    """The questions over views that there are."""
    known = {*sql.views(), *TABLES}
    return {name: one for name, one in QUESTIONS.items() if sql.reads(sql.parse(one.text)) <= known}


class Asker:
    """Puts a question to one contender."""

    def __init__(self, root: str, name: str, lines: list[str]):
        monitor = open_monitor("local", flags={"root": root})
        self.engine, self.backend = Engine(monitor, NOW), Backend(monitor)
        self.question = QUESTIONS[name]
        self.name, self.lines = name, lines
        self.connection = duckdb.connect()
        self.connection.execute("set TimeZone = 'UTC'; set parquet_metadata_cache = true")
        markets = self.engine.query(
            "select market_id from ticks where collected_at > :since", since=NOW - MINUTE * 2
        )
        self.market = sorted(markets["market_id"].to_pylist())[markets.num_rows // 3]
        self.values = {"market_id": self.market} if self.question.of_market else {}
        self.since = (
            NOW - HOUR * self.question.hours - (MINUTE * 10 if self.question.hours == 1 else MINUTE * 0)
        )
        # what each place that reads a table keeps of it, once where two read the same
        scans = self.backend.scans(self.question.text, self.values, NOW)
        self.scans = dict.fromkeys((table, text) for table, text in scans if "read_parquet" in text)
        self.reads: dict[str, list[str]] = {}
        for table, files in self.backend.reads(self.question.text, self.values, NOW):
            self.reads[table] = sorted({*self.reads.get(table, []), *files})
        # who has no roll-ups reads the ticks of the whole window
        window = f"select price from ticks where collected_at > {CLOCK} - interval '{self.question.hours + 1}' hour"
        ((_, self.ticks),) = self.backend.reads(window, {}, NOW)

    def contenders(self) -> dict[str, Callable[[], object]]:
        """What each of them does."""
        found = {"engine": self.ask, "floor": self.floor}
        if self.question.others:
            found |= {"pandas": self.pandas, "polars": self.polars}
            found |= {"JSON lines": self.json_lines} if self.lines else {}
        return found

    def ask(self):
        return self.engine.query(self.question.text, **self.values)

    def floor(self):
        for table, text in self.scans:
            sums = ", ".join(
                f'{"sum" if _is_number(table, one) else "max"}("{one}")'
                for one in self.question.columns[table]
            )
            narrow = " where market_id = $market" if self.question.of_market else ""
            values = {"market": self.market} if narrow else {}
            self.connection.execute(f"select {sums} from ({text}){narrow}", values).fetchall()

    def pandas(self):
        narrow = [("market_id", "==", self.market)] if self.question.of_market else None
        rows = pd.concat(
            pq.read_table(path, columns=list(_TICK), filters=narrow, partitioning=None).to_pandas()
            for path in self.ticks
        )
        rows = rows[rows["collected_at"] > self.since]
        if self.name == "spikes":
            newest = rows.sort_values("collected_at").groupby("market_id").tail(1).set_index("market_id")
            rows = rows.join(newest["collected_at"].rename("newest_at"), on="market_id")
            before = rows[
                (rows["collected_at"] < rows["newest_at"])
                & (rows["collected_at"] >= rows["newest_at"] - HOUR)
            ]
            return newest["price"] / before.groupby("market_id")["price"].mean()
        if self.name == "rank":
            return rows.groupby("market_id")["price"].std().rank(ascending=False, pct=True)
        rows = rows.set_index("collected_at").sort_index()
        if self.name == "ratio":
            return rows["price"] / rows["price"].rolling("3600s", closed="left").mean()
        return rows["price"].resample("5min").ohlc() if self.name == "candles" else rows

    def polars(self):
        rows = (
            pl.scan_parquet(self.ticks, hive_partitioning=False)
            .select(_TICK)
            .filter(pl.col("collected_at") > self.since)
        )
        if self.question.of_market:
            rows = rows.filter(pl.col("market_id") == self.market).sort("collected_at")
        if self.name == "spikes":
            newest = pl.col("collected_at").max()
            before = (pl.col("collected_at") < newest) & (pl.col("collected_at") >= newest - HOUR)
            last = pl.col("price").filter(pl.col("collected_at") == newest).first()
            rows = rows.group_by("market_id").agg(
                (last / pl.col("price").filter(before).mean()).alias("ratio")
            )
        if self.name == "rank":
            rows = (
                rows.group_by("market_id")
                .agg(pl.col("price").std())
                .with_columns(pl.col("price").rank(descending=True))
            )
        if self.name == "ratio":
            mean = pl.col("price").rolling_mean_by("collected_at", "3600s", closed="left")
            rows = rows.with_columns((pl.col("price") / mean).alias("ratio"))
        if self.name == "candles":
            price = pl.col("price")
            rows = rows.group_by_dynamic("collected_at", every="5m").agg(
                price.first().alias("open"),
                price.max().alias("high"),
                price.min().alias("low"),
                price.last().alias("close"),
            )
        return rows.collect()

    def json_lines(self):
        lines = self.lines[-2:] if self.question.hours == 1 else self.lines
        rows = (
            "select market || ':' || asset as market_id, created_at as t, price_last as price "
            "from read_json($lines, format = 'newline_delimited', columns = {market: 'varchar', asset: 'varchar', "
            "created_at: 'timestamp', price_last: 'double'}) where created_at > $since"
        )
        text = {
            "spikes": f"""with r as ({rows}), n as (select market_id, max(t) as t from r group by 1)
                select n.market_id, max(price) filter (where r.t = n.t) / avg(price) filter (where r.t < n.t)
                from n join r on r.market_id = n.market_id and r.t >= n.t - interval 1 hour group by 1""",
            "rank": f"""select market_id, rank() over (order by s desc)
                from (select market_id, stddev(price) as s from ({rows}) group by 1)""",
            "series": f"select t, price from ({rows}) where market_id = $market order by 1",
            "ratio": f"""select t, price / avg(price) over (order by t range between interval 1 hour preceding
                and interval 1 millisecond preceding) from ({rows}) where market_id = $market order by 1""",
            "candles": f"""select time_bucket(interval 5 minutes, t) as o, first(price order by t), max(price), min(price),
                last(price order by t) from ({rows}) where market_id = $market group by 1 order by 1""",
        }[self.name]
        values = {"lines": [str(path) for path in lines], "since": self.since.replace(tzinfo=None)}
        values |= {"market": self.market.split(":", 1)[1]} if self.question.of_market else {}
        return self.connection.execute(text, values).fetchall()

    def bytes_read(self, contender: str) -> float:
        """Of the files the bytes that have to be read: what Athena would bill, its minimum a query aside."""
        if contender == "JSON lines":
            lines = self.lines[-2:] if self.question.hours == 1 else self.lines
            return sum(Path(path).stat().st_size for path in lines)
        reads = self.reads if contender in ("engine", "floor") else {"ticks": self.ticks}
        return sum(
            _column_bytes(
                path, self.question.columns[table], self.market if self.question.of_market else None
            )
            for table, paths in reads.items()
            for path in paths
        )


def _is_number(table: str, column: str) -> bool:
    return pa.types.is_floating(schema(table).field(column).type) or pa.types.is_integer(
        schema(table).field(column).type
    )


def _column_bytes(path: str, columns: tuple[str, ...], market: str | None) -> int:
    about, total = pq.read_metadata(path), 0
    for number in range(about.num_row_groups):
        chunks = {
            chunk.path_in_schema: chunk
            for chunk in map(about.row_group(number).column, range(about.num_columns))
        }
        known = chunks["market_id"].statistics
        if market and known and known.has_min_max and not known.min <= market <= known.max:
            continue
        total += sum(chunk.total_compressed_size for name, chunk in chunks.items() if name in columns)
    return total


# ---- the run


def main() -> None:
    """Print the tables."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--quick", action="store_true", help="400 markets, 2 and 4 days: to see that it runs")
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--days", type=int, default=2, help="days of all markets, beside one")
    given.add_argument("--long", type=int, default=6, help="days of a fifth of the markets")
    given.add_argument(
        "--folder", help="where to generate, in place of a temporary folder; kept, and used again"
    )
    given.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = given.parse_args()
    if args.peak:
        state = json.loads(Path(args.peak[0]).read_text())
        asker = Asker(state["root"], args.peak[1], state["lines"])
        say_peak(asker.contenders()[args.peak[2]])
        return
    with tempfile.TemporaryDirectory(prefix="cryptomon-metrics-") as name:
        folder = Path(args.folder or name)
        sizes = ((400, 2), (80, 4)) if args.quick else ((9590, args.days), (1918, args.long))
        state = folder / "state.json"
        if not state.exists():
            prepare(folder, sizes)
        forget(folder)
        compare(folder, args.rounds)
        grow(folder, args.rounds)
        kept(folder, args.rounds)


def prepare(folder: Path, sizes) -> None:
    """Generate all that is asked about, and note where it is."""
    folder.mkdir(exist_ok=True)
    roots = [generate(folder, markets, days) for markets, days in sizes]
    lines = write_json_lines(roots[0][1], folder / "lines")
    told = {"root": roots[0][1], "roots": roots, "sizes": sizes, "lines": [str(path) for path in lines]}
    (folder / "state.json").write_text(json.dumps(told))


def forget(folder: Path) -> None:
    """Take away what a tick kept in an earlier run on the same folder."""
    state = json.loads((folder / "state.json").read_text())
    for root in {root for roots in state["roots"] for root in roots.values()}:
        for table in ("latest", sql.NOW_1H):
            shutil.rmtree(
                Path(open_monitor("local", flags={"root": root}).lake.uri(table)), ignore_errors=True
            )


def compare(folder: Path, rounds: int) -> None:
    """Each question to all, on a day of all markets."""
    state = json.loads((folder / "state.json").read_text())
    print(f"\na day of {state['sizes'][0][0]:,} markets; median of {rounds} rounds taken in turn")
    for name, question in asked().items():
        asker = Asker(state["root"], name, state["lines"])
        contenders = asker.contenders()
        found = in_turn(contenders, 1)
        found |= in_turn({one: contenders[one] for one in ("engine", "floor")}, rounds)
        print(f"\n{name}: {question.says}")
        print(
            f"{'':<14}{'wall ms':>10}{'CPU ms':>10}{'peak MB':>10}{'MB read':>10}{'x engine':>10}{'CPU x floor':>13}"
        )
        for contender, row in found.items():
            command = [sys.executable, __file__, "--peak", str(folder / "state.json"), name, contender]
            peak = float(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
            )
            print(
                f"{contender:<14}{row['wall_ms']:10.1f}{row['cpu_ms']:10.1f}{peak:10.0f}"
                f"{asker.bytes_read(contender) / 1e6:10.2f}{row['wall_ms'] / found['engine']['wall_ms']:10.2f}"
                f"{row['cpu_ms'] / found['floor']['cpu_ms']:13.1f}"
            )


KEPT = {
    "spikes": QUESTIONS["spikes"].text,
    "rank": "select market_id, stddev_24h, rank_24h from stored_latest",
    "every metric of now": "select * from stored_latest",
}


def kept(folder: Path, rounds: int) -> None:
    """What a tick keeps, and the questions that are answered from it until the next."""
    state = json.loads((folder / "state.json").read_text())
    engine = Engine(open_monitor("local", flags={"root": state["root"]}), NOW)
    found = in_turn({"keeping it": lambda: keep_latest(engine)}, rounds)
    found |= in_turn({name: lambda text=text: engine.query(text) for name, text in KEPT.items()}, 3 * rounds)
    print(f"\n{'from what the tick kept':<42}{'wall ms':>10}{'CPU ms':>10}")
    for name, row in found.items():
        print(f"{name:<42}{row['wall_ms']:10.1f}{row['cpu_ms']:10.1f}")


def grow(folder: Path, rounds: int) -> None:
    """The engine's times with more history, against those with a day of it."""
    state = json.loads((folder / "state.json").read_text())
    print(f"\n{'growth with history':<42}{'1 day ms':>10}{'more ms':>10}{'x':>7}")
    for (markets, days), roots in zip(state["sizes"], state["roots"], strict=True):
        for name in asked():
            if name.startswith("month"):
                continue
            askers = {length: Asker(root, name, []) for length, root in roots.items()}
            found = in_turn({length: asker.ask for length, asker in askers.items()}, 2 * rounds)
            short, long = found["1"]["wall_ms"], found[str(days)]["wall_ms"]
            print(
                f"{f'{name}, {markets:,} markets, {days} days':<42}{short:10.1f}{long:10.1f}{long / short:7.2f}"
            )


if __name__ == "__main__":
    main()
