"""What a query needs of each file: never less than its rows, found where it can be shown, given up where not."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines import duckdb
from cryptomon_lib.engines.duckdb import Backend
from cryptomon_lib.engines.files import Snapshot

# where the fixture three_days ends
NOW = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC)
CLOCK = "cast(current_timestamp at time zone 'UTC' as timestamp(3))"


@pytest.fixture
def whole(monkeypatch):
    """Asks with every file of every table read, and nothing skipped within them or left out of the text."""

    def ask(monitor, text, **values):
        with monkeypatch.context() as patched:
            patched.setattr(Snapshot, "needed", lambda self, *given: [True] * len(self.paths))
            patched.setattr(duckdb, "_within", lambda *given: "")
            patched.setattr(duckdb, "_without_rows", lambda *given: (frozenset(), False))
            return Engine(monitor, NOW).query(text, **values).to_pylist()

    return ask


class Near(float):
    """A number that is as good as another: sums of the same numbers may be taken in another order."""

    def __eq__(self, other):
        return math.isclose(self, other, rel_tol=1e-9, abs_tol=1e-12)

    __hash__ = float.__hash__


def rows_alike(rows):
    """Rows in an order of their own, to be compared with others."""
    made = [tuple(Near(v) if isinstance(v, float) else v for v in row.values()) for row in rows]
    return sorted(made, key=lambda row: ([str(v) for v in row if not isinstance(v, float)], repr(row)))


# ---- the shipped views, whatever is asked of them


@pytest.mark.parametrize("name", sql.views())
def test_a_view_gives_the_same_rows_whether_older_files_are_read_or_not(name, three_days, whole):
    view = sql.views()[name]
    text = f"select * from {name}"
    pruned = Engine(three_days, NOW).query(text)
    assert rows_alike(pruned.to_pylist()) == rows_alike(whole(three_days, text))
    # what reaches back further than these three days reads all of them
    if view.lookback and view.lookback < timedelta(days=3) and pruned.num_rows:
        reads = Backend(three_days).reads(text, {}, NOW)
        assert all(
            len(files) < len(three_days.lake.files(table))
            for table, files in reads
            if three_days.lake.files(table)
        )


@pytest.mark.parametrize("name", [name for name, view in sql.views().items() if view.time])
def test_a_view_asked_for_a_window_of_its_time_gives_what_it_gives_of_it_unasked(name, three_days, whole):
    time, chance = sql.views()[name].time, random.Random(name)
    for _ in range(6):
        since = NOW - timedelta(
            minutes=chance.choice([5, 30, 70, 200, 700, 1600]), seconds=chance.randint(0, 90)
        )
        until = since + timedelta(minutes=chance.choice([1, 30, 300]))
        values = {"since": since.replace(tzinfo=None), "until": until.replace(tzinfo=None)}
        text = f"select * from {name} where {time} >= :since and {time} < :until"
        pruned = Engine(three_days, NOW).query(text, **values).to_pylist()
        assert rows_alike(pruned) == rows_alike(whole(three_days, text, **values)), values


# ---- queries as they come: every one made of the parts that are followed, and of those that hide the way


class Maker:
    """Makes queries of three columns, id, t and v, out of views, tables and each other."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.names = 0

    def moment(self):
        kind = self.chance.randint(0, 7)
        minutes = self.chance.choice([3, 20, 70, 200, 600, 1500, 3000])
        return [
            f"{CLOCK} - interval '{minutes}' minute",
            f"date_trunc('hour', {CLOCK} - interval '{minutes}' minute)",
            f"timestamp '{NOW - timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S}'",
            f"cast(date({CLOCK}) as timestamp(3)) + interval '{minutes % 700}' minute",
            f"(select max(collected_at) from ticks where collected_at < {CLOCK} - interval '{minutes}' minute)",
            "cast(:since as timestamp(3))",
            f"greatest({CLOCK} - interval '{minutes}' minute, date_trunc('day', {CLOCK}))",
            f"(select max(at) - interval '{minutes}' minute from measures)",
        ][kind]

    def condition(self, of, t="t", id="id", v="v", depth=0):
        kind = self.chance.randint(0, 13)
        market = self.chance.choice(["BTC-USD", "SOL-USD", "NO-USD"])
        t, id, v = (f"{of}.{name}" if of else name for name in (t, id, v))
        less = self.chance.choice(["<", "<=", ">", ">=", "="])
        if kind == 7 and depth < 2:
            return f"({self.condition(of, depth=depth + 1)} or {self.condition(of, depth=depth + 1)})"
        if kind == 8 and depth < 2:
            return f"not ({self.condition(of, depth=depth + 1)})"
        if kind == 9 and depth < 2:
            return f"({self.condition(of, depth=depth + 1)} and {self.condition(of, depth=depth + 1)})"
        return [
            f"{t} >= {self.moment()}",
            f"{t} > {self.moment()}",
            f"{self.moment()} < {t}",
            f"{t} <= {self.moment()}",
            f"{t} {less} {self.moment()}",
            f"{t} between {self.moment()} and {CLOCK} - interval '{self.chance.randint(0, 90)}' minute",
            f"{id} = 'kraken:kraken:{market}'",
            f"{id} in ('kraken:kraken:{market}', 'kraken:kraken:ETH-USD')",
            f"{id} is null",
            f"{v} > {self.chance.randint(0, 300)}e0",
            f"{t} + interval '1' hour > {self.moment()}",
            f"coalesce({t}, {CLOCK}) > {self.moment()}",
            f"date_trunc('hour', {t}) = date_trunc('hour', {self.moment()})",
            f"{t} = (select max(x.t) from ({self.base()}) as x where x.id = {id})",
        ][kind]

    def base(self):
        of = self.chance.choice(["", "x", "ticks"])
        pick = self.chance.randint(0, 5)
        if pick == 0:
            narrow = self.condition("", "collected_at", "market_id", "price", 9)
            return f"select market_id as id, collected_at as t, price as v from ticks where {narrow}"
        if pick == 1:
            alias = of or "ticks"
            return (
                f"select {alias}.market_id as id, {alias}.collected_at as t, {alias}.bid as v from ticks as {alias} "
                f"where {alias}.day >= '2026-07-2{self.chance.randint(4, 8)}' and {alias}.source in ('kraken', 'x')"
            )
        if pick == 2:
            measure = self.chance.choice(["price", "volume_1m", "spread_bps", "none"])
            return f"select market_id as id, at as t, value as v from measures where measure = '{measure}'"
        if pick == 3:
            return "select market_id as id, opened_at as t, volume as v from candles"
        if pick == 4:
            return "select market_id as id, at as t, ratio_1h as v from trailing_1h where samples > 3"
        return "select market_id as id, at as t, volume as v from volume_1m"

    def name(self):
        self.names += 1
        # names of tables, views and columns too: a step may have them
        return self.chance.choice(["a", "b", "final", "ticks", "measures", "t"]) + str(self.names)

    def query(self, depth):
        if depth == 0:
            return self.base()
        kind = self.chance.randint(0, 15)
        one, name = self.query(depth - 1), self.name()
        narrow = f"where {self.condition(self.chance.choice(['', name]))}"
        if kind == 0:
            return f"select id, t, v from ({one}) as {name} {narrow}"
        if kind == 1:
            return f"select {name}.id, max({name}.t) as t, count(*) as v from ({one}) as {name} {narrow} group by {name}.id"
        if kind == 2:
            return (
                f"select id, t, max(v) as v from ({one}) as {name} {narrow} group by 1, t having count(*) < 9"
            )
        if kind == 3:
            by = self.chance.choice(["id", "t", "id, t"])
            over = f"partition by {by} order by t, id, v rows between 1 preceding and current row"
            return f"select id, t, count(v) over ({over}) as v from ({one}) as {name} {narrow}"
        if kind == 4:
            return f"select id, lag(t) over (partition by id order by t, v) as t, v from ({one}) as {name}"
        if kind == 5:
            return f"select id, t, v from ({one}) as {name} {narrow} union all ({self.query(depth - 1)})"
        if kind == 6:
            return f"select distinct id, t, 1e0 as v from ({one}) as {name} {narrow}"
        if kind == 7:
            return f"select id, t, v from ({one}) as {name} {narrow} order by t, id, v limit {self.chance.randint(1, 40)}"
        if kind == 8:
            return self.joined(one, self.query(depth - 1))
        if kind == 9:
            moved = [
                "t + interval '5' hour",
                "t - interval '90' minute",
                "date_trunc('hour', t)",
                "date_trunc('day', t)",
            ]
            return f"select distinct id, {self.chance.choice(moved)} as t, 1e0 as v from ({one}) as {name} {narrow}"
        if kind == 10:
            return (
                f"with {name} as ({one}) select id, t, v from {name} where {self.condition('')} "
                f"union all select id, t, v from {name} where {self.condition(name)}"
            )
        if kind == 11:
            other = f"other as (select id, t, v from {name} {narrow})"
            return (
                f"with {name} as ({one}), {other} select id, t, v from other where {self.condition('other')}"
            )
        if kind == 12:
            some = f"select id from ({self.query(depth - 1)}) as t where {self.condition('')}"
            return (
                f"select id, t, v from ({one}) as {name} {narrow} and id in ({some}) and {self.condition('')}"
            )
        if kind == 13:
            return f"select * from ({one}) as {name} {narrow}"
        if kind == 14:
            return f"select id, t, v from ({one}) as {name} except select id, t, v from ({one}) as {name} {narrow}"
        return f"select * from (select id as v, v as id, t from ({one}) as x) as y(id, v, t) where {self.condition('y')}"

    def joined(self, one, other):
        side = self.chance.choice(["left join", "right join", "full join", "join", "inner join"])
        on = self.chance.choice(
            [
                "l.id = r.id and l.t = r.t",
                f"l.id = r.id and {self.condition('r')}",
                f"l.t = r.t and {self.condition('l')}",
            ]
        )
        left, right = (
            f"(select id, max(t) as t, {how}(v) as v from ({rows}) as x group by id, date_trunc('hour', t))"
            for how, rows in (("max", one), ("min", other))
        )
        taken = self.chance.choice(["l", "r"])
        return (
            f"select {taken}.id, {taken}.t, r.v from {left} as l {side} {right} as r on {on} "
            f"where {self.condition(self.chance.choice(['l', 'r']))}"
        )


@pytest.mark.parametrize("seed", range(4))
def test_no_query_misses_a_row_for_a_file_that_was_not_read(seed, three_days, whole):
    maker, few, many = Maker(seed), 0, 0
    backend, values = Backend(three_days), {"since": (NOW - timedelta(hours=3)).replace(tzinfo=None)}
    sizes = {name: len(three_days.lake.files(name)) for name in ("ticks", "candles")}
    for number in range(14):
        text = maker.query(number % 4)
        text = f"select id, t, v from ({text}) as outermost where {maker.condition('outermost')}"
        given = values if ":since" in text else {}
        pruned = Engine(three_days, NOW).query(text, **given).to_pylist()
        assert rows_alike(pruned) == rows_alike(whole(three_days, text, **given)), text
        for table, files in backend.reads(text, given, NOW):
            few, many = few + len(files), many + sizes[table]
    # the test would say nothing if nothing were left out
    assert few < many * 0.7
