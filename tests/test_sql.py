"""The views as text: headers, order, spelling for DuckDB, and that pruning by lookback changes no row."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest
import sqlglot

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import MetricError, QueryError
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.tables import CONTRACTS, TABLES

HEADER = "-- One sentence.\n-- grain: market_id\n-- units: none\n-- why: because.\n"
NOW = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def folder(tmp_path):
    """Writes views into a folder of their own, and reads them."""

    def write(**views):
        for name, text in views.items():
            (tmp_path / f"{name}.sql").write_text(text, encoding="utf-8")
        return sql.views(tmp_path)

    return write


# ---- the project's own views


@pytest.mark.parametrize("name", sql.views())
def test_a_view_has_a_header_a_grain_it_selects_and_is_trino_sql(name):
    view = sql.views()[name]
    columns = sqlglot.parse_one(view.text, read="trino").named_selects
    assert view.says.endswith(".") and view.units and view.why
    assert set(view.grain) <= set(columns) and len(set(columns)) == len(columns)
    assert "*" not in columns
    assert "select *" not in view.text and view.text == view.text.rstrip() + "\n"


@pytest.mark.parametrize("name", sql.views())
def test_a_view_spelled_for_duckdb_knows_no_clock_of_its_own(name):
    spelled = sql.at_moment(sql.for_duckdb(sql.views()[name].text), NOW)
    assert "current_timestamp" not in spelled.lower() and "$$" not in spelled
    assert "2026-07-27 12:00:30.000" in spelled or "current_timestamp" not in sql.views()[name].text


@pytest.mark.parametrize("name", sorted(CONTRACTS.keys() & sql.views().keys()))
def test_a_view_offers_the_columns_that_others_build_on(name):
    columns = sqlglot.parse_one(sql.views()[name].text, read="trino").named_selects
    assert [column for column in CONTRACTS[name] if column not in columns] == []


def test_a_view_stands_after_all_that_it_reads():
    seen = set()
    for name, view in sql.views().items():
        assert view.reads - TABLES.keys() - {name} <= seen, name
        seen.add(name)
    assert {path.stem for path in sql.FOLDER.glob("*.sql")} == seen


# ---- what a file may not be


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select 1 as market_id\n", "lacks grain, units, why"),
        (HEADER.replace("-- units: none\n", "") + "select 1 as market_id", "lacks units"),
        (HEADER.replace("-- One sentence.\n", "") + "select 1 as market_id", "first sentence"),
        (HEADER.replace("none", "") + "select 1 as market_id", "lacks units"),
        (HEADER + "-- lookback: a while\nselect 1 as market_id", "write it as 75 min, 26 h or 8 d"),
        (HEADER + "-- reach: 1 hour\nselect 1 as market_id", "reach is '1 hour'; write it as 75 min, 26 h"),
        (HEADER + "-- time: at\nselect 1 as market_id", "time is 'at', which it does not select"),
        (HEADER + "selekt 1 as market_id", "broken.sql"),
        (HEADER + "select (1 as market_id", "broken.sql"),
        (HEADER + "drop table ticks", "nothing but a query"),
        (HEADER + "select 1 as market_id; select 2 as market_id", "One query at a time"),
        (HEADER, "One query at a time"),
        (HEADER + "select market_id from tikcs", "reads tikcs, which is no table and no view"),
    ],
)
def test_a_view_that_cannot_be_used_is_named_with_what_it_lacks(text, says, folder):
    with pytest.raises(MetricError, match="broken") as caught:
        folder(broken=text)
    assert says in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_views_that_read_each_other_in_a_circle_are_named(folder):
    with pytest.raises(MetricError, match="circle") as caught:
        folder(
            one=HEADER + "select market_id from two",
            two=HEADER + "select market_id from three",
            three=HEADER + "select market_id from one",
        )
    assert all(name in str(caught.value) for name in ("one", "two", "three"))


def test_a_line_of_the_header_may_go_on_in_the_next(folder):
    view = folder(
        view="-- A sentence\n-- of two lines.\n-- grain: a,\n--   b\n-- units: of a,\n--        of b\n"
        "-- lookback: 75 min\n-- why: so\n--   it is.\nselect 1 as a, 2 as b -- grain: c\n"
    )["view"]
    assert (view.says, view.grain) == ("A sentence of two lines.", ("a", "b"))
    assert (view.units, view.why, view.lookback) == ("of a, of b", "so it is.", timedelta(minutes=75))


def test_the_header_says_which_column_is_the_time_and_how_far_before_it_rows_are_read(folder):
    known = folder(
        mean=HEADER + "-- time: at\n-- reach: 1 h\nselect market_id, collected_at as at from ticks",
        plain=HEADER + "select market_id from ticks",
    )
    assert (known["mean"].time, known["mean"].reach) == ("at", timedelta(hours=1))
    assert (known["plain"].time, known["plain"].reach) == (None, timedelta(0))


def test_a_step_that_only_picks_rows_of_a_table_is_read_again_and_not_kept():
    spelled = sql.for_duckdb(
        "with picked as (select market_id, price from ticks where price > 1e0), counted as (select market_id, "
        "count(*) as n from picked group by market_id), viewed as (select market_id from measures) select 1 as x"
    ).lower()
    assert [name for name in ("picked", "counted", "viewed") if f"{name} as not materialized" in spelled] == [
        "picked"
    ]


# ---- what a query needs


def test_a_view_that_declares_a_lookback_needs_nothing_older_from_what_it_reads(folder):
    known = folder(
        long=HEADER + "-- lookback: 26 h\nselect market_id from ticks",
        short=HEADER + "-- lookback: 75 min\nselect market_id from long",
        whole=HEADER + "select market_id from candles",
    )

    def tables(*names):
        return sql.needed(frozenset(names), known)[1]

    assert tables("long") == {"ticks": timedelta(hours=26)}
    assert tables("short") == {"ticks": timedelta(minutes=75)}
    assert tables("short", "long") == {"ticks": timedelta(hours=26)}
    assert tables("short", "ticks") == {"ticks": None}
    assert tables("whole", "short") == {"candles": None, "ticks": timedelta(minutes=75)}
    assert sql.needed(frozenset({"short"}), known)[0] == ["long", "short"]


def test_the_steps_of_a_query_are_no_tables():
    tree = sql.parse("with ticks_of as (select * from ticks) select * from ticks_of join latest on true")
    assert sql.reads(tree) == {"ticks", "latest"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("with ticks as (select * from ticks) select * from ticks", {"ticks"}),
        ("with a as (select * from b), b as (select 1 as x) select * from a, b", {"b"}),
        ("with recursive a as (select 1 union all select * from a) select * from a, Latest", {"latest"}),
        ("select * from a where x in (with a as (select 1) select * from a)", {"a"}),
        ("select (select max(x) from stored_latest) from (select * from a) as t", {"stored_latest", "a"}),
        ("select * from s.ticks", {"s.ticks"}),
    ],
)
def test_a_step_hides_a_name_where_it_is_seen_and_nowhere_else(text, names):
    assert sql.reads(sql.parse(text)) == names


def test_the_names_that_want_values_are_found():
    assert sql.placeholders(sql.parse("select :a from x where b = :b or a = :a or c = ':d'")) == {"a", "b"}


# ---- as of a moment, for an engine whose created views follow its own clock


def test_views_become_steps_and_nothing_follows_the_clock(folder):
    known = folder(
        one=HEADER + "select market_id from ticks where collected_at <= "
        "cast(current_timestamp at time zone 'UTC' as timestamp(3))\n",
        two=HEADER + "with final as (select one.market_id from one) select market_id from final\n",
    )
    text = "-- with\nwith one as (select ' current_date' as x, current_date as d from TWO) select one.x from one;"
    found = sql.inlined(text, known, NOW)
    assert sql.reads(sql.parse(found)) == {"ticks"}
    assert "current_timestamp" not in found and "timestamp '2026-07-27 12:00:30.000'" in found
    assert "' current_date' as x, date '2026-07-27' as d from as_of_two as two)" in found
    assert "as_of_one as one" in found and found.endswith("select one.x from one")


def alike(rows):
    """Rows to compare with: sums of the same numbers may be taken in another order."""
    return [
        {name: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for name, v in row.items()}
        for row in rows.to_pylist()
    ]


@pytest.mark.parametrize("name", sql.views())
def test_a_view_inlined_gives_the_rows_that_it_gives_by_name(name, three_days):
    engine = Engine(three_days, NOW)
    keys = ", ".join(sql.views()[name].grain)
    text = f"select {name}.* from {name} order by {keys}"
    assert engine.query(sql.inlined(text, sql.views(), NOW)).to_pylist() == alike(engine.query(text))


# ---- one meaning in both spellings


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Asks an engine without data, at 2026-07-27 12:00:30.250."""
    monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("none"))})
    engine = Engine(monitor, "2026-07-27T12:00:30.250Z")
    return lambda text: next(iter(engine.query(f"select {text} as it").to_pylist()[0].values()))


@pytest.mark.parametrize(
    ("trino", "value"),
    [
        # whole units that have passed, not boundaries crossed
        ("date_diff('hour', timestamp '2026-07-27 10:59:00', timestamp '2026-07-27 12:01:00')", 1),
        ("date_diff('minute', timestamp '2026-07-27 10:59:59', timestamp '2026-07-27 11:00:01')", 0),
        ("date_diff('millisecond', timestamp '2026-07-27 10:59:59', timestamp '2026-07-27 11:00:01')", 2000),
        # at a null the answer is null, not that of the next row
        ("(select max_by(x, t) from (values (1, 1), (cast(null as integer), 2)) as v(x, t))", None),
        ("(select min_by(x, t) from (values (1, 2), (cast(null as integer), 1)) as v(x, t))", None),
        ("(select max_by(x, t) from (values (1, 1), (5, 2)) as v(x, t))", 5),
        (
            "cast(current_timestamp at time zone 'UTC' as timestamp(3))",
            (NOW + timedelta(milliseconds=250)).replace(tzinfo=None),
        ),
        ("cast(date(cast(current_timestamp at time zone 'UTC' as timestamp(3))) as varchar)", "2026-07-27"),
        (
            "cast(current_timestamp at time zone 'UTC' as timestamp(3)) - interval '24' hour",
            (NOW - timedelta(milliseconds=-250, days=1)).replace(tzinfo=None),
        ),
        ("current_date", NOW.date()),
        ("localtimestamp", (NOW + timedelta(milliseconds=250)).replace(tzinfo=None)),
        ("cast(1 as double) / 2", 0.5),
        ("1e0 / nullif(0e0, 0e0)", None),
        ("count(*)", 1),
    ],
)
def test_a_construct_means_in_duckdb_what_it_means_in_trino(trino, value, ask):
    assert ask(trino) == value


@pytest.mark.parametrize(
    ("text", "rowless", "whole"),
    [
        ("select a from ticks", 1, True),
        ("select a from candles", 0, False),
        ("select max(a) as a from ticks", 0, False),
        ("select b, max(a) as a from ticks group by b", 1, True),
        ("select b, max(a) as a from ticks group by rollup (b)", 0, False),
        ("select count(*) over () as a from ticks", 1, True),
        ("select candles.a from candles inner join ticks on candles.a = ticks.a", 1, True),
        ("select candles.a from candles cross join ticks", 1, True),
        ("select candles.a from candles left join ticks on candles.a = ticks.a", 0, False),
        ("select candles.a from ticks left join candles on candles.a = ticks.a", 1, True),
        ("select candles.a from ticks right join candles on candles.a = ticks.a", 0, False),
        ("select a from (select a from ticks) as inner_one", 2, True),
        ("with t as (select a from ticks) select a from t union all select a from candles", 2, False),
        ("with t as (select a from ticks) select a from candles where a in (select a from t)", 1, False),
        ("with ticks as (select 1 as a) select a from ticks", 0, False),
        ("with ticks as (select a from ticks) select a from ticks", 2, True),
        ("with recursive t (a) as (select a from ticks union all select a from t) select a from t", 1, False),
        ("select a from ticks except select a from candles", 0, False),
        ("select 1 as a union all select a from ticks", 1, False),
    ],
)
def test_what_has_no_row_because_a_table_has_none_is_told(text, rowless, whole):
    tree = sql.parse(text)
    places = {number for number, one in enumerate(sql.sources(tree)) if sql.source_name(one) == "ticks"}
    found, none = sql.without_rows(tree, places)
    assert (len(found), none) == (rowless, whole)
    # and so it is
    connection = duckdb.connect()
    connection.execute("create table ticks (a int, b int); create table candles as select 1 as a, 2 as b")
    if none:
        assert connection.execute(sql.for_duckdb(text)).fetchall() == []


@pytest.mark.parametrize("text", ["", "   ", "-- nothing", "select 1; select 2", "delete from ticks", "1"])
def test_what_is_no_query_is_refused(text):
    with pytest.raises(QueryError):
        sql.parse(text)
