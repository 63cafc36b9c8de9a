"""The lint for portability: each rule fires on what it is for and says what to write, and no view is flagged."""

import pytest

from cryptomon_lib import cli, lint, metrics, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import MetricError
from cryptomon_lib.tables import TABLES

HEADER = "-- One sentence.\n-- grain: market_id\n-- units: none\n-- why: because.\n"
FILES = [path for folder in sql.folders() for path in sorted(folder.glob("*.sql"))]
CLOCK = "cast(current_timestamp at time zone 'UTC' as timestamp(3))"


def said(text):
    return [(problem.what, problem.instead) for problem in lint.lint_text(text)]


# ---- what there is


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_view_means_the_same_on_athena_trino_and_duckdb(path):
    assert [str(problem) for problem in lint.lint_file(path)] == []


@pytest.mark.parametrize("name", [*sql.views(), *(name for name in TABLES if name not in sql.views())])
def test_the_columns_of_a_view_have_the_types_that_the_engine_gives(name, local):
    arrow = {"text": "string", "number": "double", "count": "int64", "time": "timestamp[ms]"}
    arrow |= {"flag": "bool", "date": "date32[day]", "texts": "list<element: string>"}
    given = Engine(local, "2026-07-27T12:00:00Z").query(f"select * from {name}").schema
    told = {column: arrow[kind] for column, kind in lint.columns(name).items()}
    assert told == {field.name: str(field.type).replace("item:", "element:") for field in given}


def test_of_what_is_not_there_no_columns_are_told():
    with pytest.raises(MetricError, match="nowhere"):
        lint.columns("nowhere")


# ---- the rules


RULES = [
    # grammar that other readers take
    ("select a.price from ticks a qualify rank() over (order by a.price) = 1", "qualify", "in the next"),
    ("select distinct on (market_id) market_id from ticks", "distinct on", "max_by"),
    ("select * from ticks", "select *", "every column"),
    ("select * exclude (price) from ticks", "select *", "every column"),
    ("select price::varchar as x from ticks", "`::`", "cast(… as …)"),
    ("select collected_at - interval 1 hour as x from ticks", "without quotes", "interval '1' hour"),
    ("select collected_at - interval '1 hour' as x from ticks", "interval", "interval '1' hour"),
    ("select collected_at - interval '2' hours as x from ticks", "hours", "interval '1' hour"),
    ("select collected_at - interval '1' week as x from ticks", "week", "interval '1' hour"),
    ("select t.price from ticks t asof join candles c on t.collected_at >= c.opened_at", "asof", "max(at)"),
    ("select market_id from ticks where market_id in [1, 2]", "brackets", "array[…]"),
    ("select market_id, count(*) as n from ticks group by all", "group by all", "by name"),
    ("select market_id, count(*) as n from ticks group by 1", "by number", "by name"),
    ("select price from ticks where symbol ilike 'btc%'", "ilike", "lower(…) like"),
    ("select price from ticks where price == 1e0", "==", "="),
    (
        "select sum(price) over (order by collected_at rows between 9 preceding and current row exclude current row) "
        "as x from ticks",
        "exclude",
        "ends before the row",
    ),
    # what is understood differently
    (
        "select avg(price) over (order by collected_at rows 9 preceding) as x from ticks",
        "frame of rows",
        "range",
    ),
    ("select trades / 2 as x from candles", "whole number by a whole", "cast(a as double) / b"),
    ("select rank() over (order by price) / count(*) over () as x from ticks", "whole", "cast(a as double)"),
    ("select price / volume_24h as x from ticks", "division by zero", "nullif(…, 0e0)"),
    ("select price / nullif(volume_24h, 1e0) as x from ticks", "division by zero", "nullif(…, 0e0)"),
    ("select mod(trades, interval_s) as x from candles", "division by zero", "nullif"),
    ("select 1e0 / 0e0 as x", "division by zero", "nullif"),
    ("select date_diff('month', collected_at, exchange_at) as x from ticks", "date_diff in month", "divided"),
    ("select cast(price as bigint) as x from ticks", "rounds on one", "cast(round(ticks.price) as bigint)"),
    ("select cast(price as varchar) as x from ticks", "as text looks different", "as it is"),
    ("select cast(collected_at as varchar) as x from ticks", "as text looks different", "as it is"),
    ("select cast(price as decimal(18, 2)) as x from ticks", "decimals", "double"),
    ("select 1.5 * price as x from ticks", "decimal on Trino", "1.5e0"),
    ("select current_timestamp as x", "session's zone", CLOCK),
    ("select now() as x", "session's zone", CLOCK),
    ("select cast(current_timestamp as timestamp(3)) as x", "session's zone", CLOCK),
    ("select current_date as x", "current_date", f"date({CLOCK})"),
    ("select localtimestamp as x", "localtimestamp", CLOCK),
    ("select collected_at at time zone 'UTC' as x from ticks", "at time zone", "all are UTC"),
    ("select max_by(price, collected_at) as x from ticks", "max_by is null", "is not null)"),
    (
        "select min_by(price, collected_at) filter (where bid is not null) as x from ticks",
        "min_by",
        "price is not null",
    ),
    ("select row_number() over (order by price) as x from ticks", "row_number", "rank()"),
    ("select format('%.2f', price) as x from ticks", "format", "plain value"),
    ("select any_value(price) as x from ticks", "any_value", "min(…)"),
    ("select list_sum(price) as x from ticks", "list_sum() is unknown", "all three engines"),
    ("select random() as x", "rand", "differs from call to call"),
    ("select market_id as rollup from ticks", "reserved", '"rollup"'),
    # names and types
    ("select prise from ticks", "prise", "column that is there"),
    ("select measures.prise from measures", "prise", "column that is there"),
    ("select market_id from ticks where price = 'x'", "compared with a text", "both of one type"),
    ("select market_id from ticks where collected_at > 5", "a time compared with a number", "one type"),
    ("select price as x from ticks union all select symbol as x from ticks", "a text below", "one type"),
    ("select null as x from ticks", "type of x cannot be told", "cast"),
    ("select price from ticks where", "Not Trino SQL", "as Trino takes it"),
    ("select price from nowhere", "nowhere", "column that is there"),
]


@pytest.mark.parametrize(("text", "what", "instead"), RULES, ids=[rule[0][:60] for rule in RULES])
def test_what_is_not_portable_is_told_with_what_to_write_instead(text, what, instead):
    problems = said(text)
    assert [one for one in problems if what in one[0] and instead in one[1]], problems


@pytest.mark.parametrize(
    "text",
    [
        "select cast(trades as double) / 2 as x from candles",
        "select price / nullif(volume_24h, 0e0) as x from ticks",
        "select 1e2 * price / 24e0 as x from ticks",
        "select cast(round(price) as bigint) as x from ticks",
        "select cast(trades as varchar) as x from candles",
        "select cast(date(collected_at) as varchar) as x from ticks",
        f"select date_diff('millisecond', collected_at, {CLOCK}) / 1e3 as x from ticks",
        "select max_by(price, collected_at) filter (where price is not null) as x from ticks",
        "select least(1e0, cast(count(*) as double) / 60e0) as x from ticks",
        "select base || '-' || quote as x from ticks",
        "select greatest(bid, ask) as x, concat(base, quote) as y from ticks",
        "select date_diff('hour', collected_at, exchange_at) as x from ticks",
        "select count(*) as n, array[1, 2][1] as one from ticks",
        "select collected_at - interval '90' second as x from ticks where collected_at > "
        f"{CLOCK} - interval '1' hour",
        'select price as "rollup" from ticks',
        "select rank() over (partition by market_id order by price desc nulls last) as place from ticks",
    ],
)
def test_what_means_the_same_everywhere_is_not_flagged(text):
    assert said(text) == []


def test_a_problem_says_its_file_and_line(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(HEADER + "select\n    market_id,\n    price / volume_24h as x\nfrom ticks\n")
    (problem,) = lint.lint_file(path)
    assert str(problem).startswith("mine.sql:7: a division by zero") and "; write nullif(" in str(problem)


def test_a_file_may_read_what_lies_beside_it_and_its_header_is_looked_at(tmp_path):
    (tmp_path / "one.sql").write_text(HEADER + "select market_id, price as cost from ticks\n")
    (tmp_path / "two.sql").write_text("select market_id, cost + price as both from one\n")
    (tmp_path / "three.sql").write_text(HEADER.replace("market_id", "at") + "select market_id from ticks\n")
    (tmp_path / "odd.sql").write_bytes(b"\xff\xfe\x00")
    assert lint.lint_file(tmp_path / "one.sql") == []
    found = [problem.what for problem in lint.lint_file(tmp_path / "two.sql")]
    assert any("header lacks grain, units, why" in what for what in found)
    assert any("price" in what for what in found)
    (problem,) = lint.lint_file(tmp_path / "three.sql")
    assert "grain has at" in problem.what
    with pytest.raises(MetricError, match=r"odd\.sql cannot be read"):
        lint.lint_file(tmp_path / "odd.sql")


# ---- an analyst's own


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of an analyst's own views, in a project of its own."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "base.yaml").write_text("")
    folder = tmp_path / "notebooks" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sql, "home", lambda: tmp_path)
    return folder


def test_a_view_of_one_s_own_is_known_to_the_next_query_and_gone_with_its_file(mine, local):
    engine = Engine(local, "2026-07-27T12:00:00Z")
    (mine / "dear.sql").write_text(HEADER + "select market_id from ticks where price > 1e3\n")
    (mine / "dearer.sql").write_text(HEADER + "select market_id from dear\n")
    assert engine.query("select count(*) as n from dearer").to_pylist() == [{"n": 0}]
    assert [*sql.views()][-2:] == ["dear", "dearer"]
    (mine / "dear.sql").write_text(HEADER + "select market_id, price from ticks where price > 1e6\n")
    assert engine.query("select price from dear").num_rows == 0
    (mine / "dearer.sql").unlink()
    assert "dearer" not in sql.views() and "dear" in sql.views()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("broken", "selec", "header lacks"),
        ("broken", HEADER + "select (market_id from ticks", "broken.sql"),
        ("broken", HEADER + "select market_id from tikcs", "reads tikcs, which is no table"),
        ("broken", HEADER + "select market_id from broken", "reads broken, which is no table"),
        ("broken", "\udcff", "cannot be read"),
    ],
)
def test_a_view_of_one_s_own_that_cannot_be_used_stops_nothing_and_says_why(name, text, says, mine, local):
    (mine / f"{name}.sql").write_bytes(text.encode("utf-8", "surrogateescape"))
    (mine / "fine.sql").write_text(HEADER + "select market_id from ticks\n")
    engine = Engine(local, "2026-07-27T12:00:00Z")
    assert engine.query("select market_id from fine").num_rows == 0
    assert engine.query("select market_id from latest").num_rows == 0
    with pytest.raises(Exception, match=f"{name}.*|reads") as caught:
        engine.query(f"select market_id from {name}")
    assert says in str(caught.value)


def test_a_view_is_written_where_one_s_own_are_and_looked_at_in_a_table(mine):
    lines = [*HEADER.splitlines(), "select market_id, price / volume_24h as x from ticks"]
    found = metrics.lint_view(metrics.write_view("mine", lines))
    assert found["line"].tolist() == [5] and found["instead"].tolist() == ["nullif(…, 0e0)"]
    assert metrics.write_view("mine", lines) == mine / "mine.sql" and "mine" in sql.views()
    for name in ("latest", "../out", "My"):
        with pytest.raises(MetricError):
            metrics.write_view(name, lines)
    assert [path.name for path in mine.parent.rglob("*.sql")] == ["mine.sql"]
    mine.joinpath("mine.sql").unlink()
    mine.rmdir()
    with pytest.raises(MetricError, match="There is no folder"):
        metrics.write_view("mine", lines)


@pytest.mark.parametrize(
    ("name", "says"),
    [("latest", "of that name"), ("ticks", "of that name"), ("My-View", "small letters")],
)
def test_a_view_of_one_s_own_takes_no_name_of_the_project(name, says, mine):
    (mine / f"{name}.sql").write_text(HEADER + "select market_id from candles\n")
    assert says in sql.unusable()[name]
    assert "candles" not in sql.views().get(name, sql.views()["latest"]).reads


# ---- the command


def test_the_command_checks_all_files_or_those_that_it_is_given(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["cryptomon", "lint-sql", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code or 0, capsys.readouterr()

    code, said_ = run(*FILES[:2])
    assert code == 0 and said_.out.startswith("2 looked at, nothing to mend")
    bad = tmp_path / "bad.sql"
    bad.write_text(HEADER + "select market_id, 1.5 * price as x from ticks\n")
    code, said_ = run(bad)
    assert code == MetricError.exit_code
    assert said_.out == "bad.sql:5: 1.5 is a double on Athena and a decimal on Trino; write 1.5e0\n"
    assert "1 to mend, in 1 looked at" in said_.err
    code, said_ = run(tmp_path / "none.sql")
    assert code == MetricError.exit_code and "none.sql cannot be read" in said_.err
