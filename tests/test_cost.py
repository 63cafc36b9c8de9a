"""What a month costs: the model against sums done by hand, how it grows, its levers, and the figures that it stands on."""

import json
import re
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryptomon_lib import cli, collect_payloads, cost, evaluate_alerts, flatten_payloads, keep_latest, sql
from cryptomon_lib.config import load_settings
from cryptomon_lib.cost import (
    HOST,
    HOST_ATHENA,
    MEASURED,
    SAGEMAKER,
    WAYS,
    Machine,
    Plan,
    Requests,
    Scan,
    load_prices,
    plan_of,
    sheet,
)
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.notify import send_notices
from cryptomon_lib.schedule import load_schedule
from cryptomon_lib.simulator import Simulator

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "benchmarks"))
GIB = 2**30
# round numbers, so that sums can be done by hand
ROUND = replace(
    MEASURED,
    tick=Requests(50, 100),
    jobs=Requests(100, 1_000),
    compact=Requests(10, 20),
    payloads_more=10,
    tick_more=Requests(100, 500),
    archive_row_bytes=100,
    tick_row_bytes=10,
    minute_row_bytes=50,
    scan_tick=(Scan(1_000, 2, 3), Scan(50_000, 4, 0)),
    views=33,
    scan_checks=Scan(33 * 2_000, 33, 0),
    scan_page=Scan(20_000, 1, 1),
)


@pytest.fixture(scope="module")
def prices():
    return load_prices()


@pytest.fixture
def plan():
    return Plan(markets=10_000, sources=5, followed=6)


@pytest.fixture
def line(prices):
    """Finds a line of a plan's sheet by the beginning of its item."""

    def found(plan, item, measured=ROUND):
        return next(one for one in sheet(plan, prices, measured).lines if one.item.startswith(item))

    return found


# ---- by hand


def test_storage_is_bytes_of_the_rows_that_are_kept(plan, line):
    # 10,000 markets x 1,440 minutes x 100 bytes = 1.44 GB a day, for 30 days
    archive = line(plan, "S3: archive")
    assert archive.quantity == pytest.approx(43.2e9 / GIB)
    assert archive.usd == pytest.approx(43.2e9 / GIB * 0.023)
    # for ever: a year by its end
    assert line(plan, "S3: table ticks").quantity == pytest.approx(14.4e6 * 10 * 365 / GIB)
    assert line(replace(plan, ticks_days=90), "S3: table ticks").quantity == pytest.approx(
        14.4e6 * 10 * 90 / GIB
    )
    # of the first month no more can be there than a month
    assert line(replace(plan, ticks_days=90, months=1), "S3: table ticks").quantity == pytest.approx(
        14.4e6 * 10 * 365 / 12 / GIB
    )


def test_requests_are_those_of_the_payloads_of_each_tick_and_hour(plan, line):
    # 11 payloads: 150 writes and 600 reads a tick, 43,800 ticks; the jobs of 5 sources 550 writes an hour, 730 hours
    writes, reads = line(plan, "S3 writes and listings of ticks"), line(plan, "S3 reads of ticks")
    assert writes.quantity == pytest.approx(150 * 43_800) and writes.usd == pytest.approx(32.85)
    assert reads.quantity == pytest.approx(600 * 43_800) and reads.usd == pytest.approx(10.512)
    assert line(plan, "S3 writes and listings of hourly jobs").quantity == pytest.approx(550 * 730)
    # with 6 payloads half way between those of 1 and of 11
    assert line(replace(plan, followed=1), "S3 writes and listings of ticks").quantity == pytest.approx(
        100 * 43_800
    )


def test_athena_bills_ten_megabytes_of_a_query_at_least(plan, line):
    # 10 MB each at 100 markets; at 10,000 the second reads 500 MB
    small = line(replace(plan, markets=100), "Athena scans of ticks")
    assert small.quantity == pytest.approx(43_800 * 2 * 10e6 / 1e12)
    large = line(plan, "Athena scans of ticks")
    assert large.quantity == pytest.approx(43_800 * (10e6 + 500e6) / 1e12)
    assert large.usd == pytest.approx(111.69) and large.ways == {HOST_ATHENA, "SageMaker, Athena"}
    # 33 views of 20 MB each hour
    assert line(plan, "Athena scans of the hourly check").quantity == pytest.approx(730 * 33 * 20e6 / 1e12)


def test_a_job_of_sagemaker_runs_75_minutes_of_each_hour_and_does_a_quarter_of_the_ticks_twice(plan, line):
    assert line(plan, "S3 writes of ticks that two jobs do").quantity == pytest.approx(150 * 43_800 / 4)
    sampling = line(plan, "ml.t3.medium, the hourly job of the ticks")
    assert sampling.quantity == pytest.approx(730 * (75 + 3) / 60) and not sampling.measured
    hourly = [name for name, job in load_schedule().items() if re.fullmatch(r"\d+ \* \* \* \*", job.cron)]
    assert line(plan, f"ml.t3.medium, {len(hourly)} other jobs an hour").quantity == pytest.approx(
        730 * 4 * 5 / 60
    )


def test_what_was_replaced_is_paid_for_where_the_bucket_keeps_versions(plan, line, prices):
    kept = line(replace(plan, versions_days=30), "S3: versions")
    # minute files and hours for 30 days, the queue's payloads and latest for one
    a_day = 14.4e6 * (100 + MEASURED.latest_market_bytes)
    assert kept.quantity == pytest.approx((14.4e6 * 60 * 30 + a_day) / GIB)
    assert not [one for one in sheet(plan, prices).lines if "versions" in one.item]


def test_a_total_is_the_sum_of_the_lines_of_its_way(plan, prices):
    found = sheet(plan, prices)
    for way in WAYS:
        assert found.total(way) == pytest.approx(sum(one.usd for one in found.lines if way in one.ways))
        assert any(one.ways == frozenset(WAYS) for one in found.lines)


# ---- how it grows


def test_bytes_are_linear_in_markets_and_requests_are_not_of_markets_at_all(plan, prices):
    few, many = (
        {one.item: one.quantity for one in sheet(each, prices).lines}
        for each in (plan, replace(plan, markets=30_000))
    )
    linear = [
        item
        for item in few
        if item.startswith(("S3: archive", "S3: table ticks", "S3: hourly", "S3: latest", "Athena scans"))
    ]
    assert len(linear) == 7
    for item in linear:
        # but for the freshness, which reads less than the 10 MB that are billed at least
        assert many[item] == pytest.approx(3 * few[item], rel=1e-2), item
    requests = [item for item in few if item.startswith(("S3 writes", "S3 reads"))]
    assert len(requests) == 7 and all(many[item] == few[item] for item in requests)


def test_half_the_samples_are_half_the_requests_and_bytes_of_ticks(plan, line):
    halved = replace(plan, every_min=2)
    for item in ("S3 writes and listings of ticks", "S3 reads of ticks", "S3: archive", "S3: table ticks"):
        assert line(halved, item).quantity == pytest.approx(line(plan, item).quantity / 2)
    jobs = "S3 reads of hourly jobs"
    assert line(halved, jobs).quantity == line(plan, jobs).quantity


def test_the_cheapest_machine_that_fits_is_taken_and_none_that_does_not():
    def machine(usd, cpus, memory_gb, steady=1.0):
        return Machine(usd=usd, cpus=cpus, memory_gb=memory_gb, steady=steady, sure=True)

    offered = {"large": machine(4, 8, 64), "burst": machine(1, 2, 8, 0.2), "small": machine(2, 2, 8)}
    assert cost.fitting(offered, 4_000, 0.3, "hosts")[0] == "burst"
    assert cost.fitting(offered, 4_000, 1.5, "hosts")[0] == "small"
    assert cost.fitting(offered, 9_000, 0.1, "hosts")[0] == "large"
    with pytest.raises(ConfigError, match=r"params/prices.yaml: hosts has none with 97.7 GB.*add a larger"):
        cost.fitting(offered, 100_000, 0.1, "hosts")


def test_a_plan_takes_what_the_environment_says():
    settings = load_settings("prod", flags={"retention": {"tables_days": {"ticks": 400}}})
    found = plan_of(settings, 2_500)
    assert (found.sources, found.followed, found.every_min) == (3, 30, 1)
    assert (found.archive_days, found.ticks_days, found.versions_days) == (30, 400, 30)
    assert plan_of(load_settings("dev"), 2_500, sources=1).versions_days == 0
    for wrong in ({"markets": 0}, {"markets": 5, "sources": 6}, {"markets": 5, "months": 0}):
        with pytest.raises(ConfigError):
            plan_of(settings, **wrong)


# ---- levers

# what costs more than it saves, at these sizes and settings
DEARER = "archive to Glacier"


def test_each_lever_saves_what_two_sheets_differ_by(prices):
    plans = [plan_of(load_settings("prod"), size) for size in cost.SIZES]
    found = cost.levers(plans, prices)
    by_name = {(one.name, one.way): one.saves for one in found}
    for number, plan in enumerate(plans):
        base = sheet(plan, prices)
        assert by_name["archive for 7 days", HOST][number] == pytest.approx(
            base.total(HOST) - sheet(replace(plan, archive_days=7), prices).total(HOST)
        )
        assert by_name["a host in place of SageMaker", SAGEMAKER][number] == pytest.approx(
            base.total(SAGEMAKER) - base.total(HOST)
        )
    assert len(found) == len(by_name) == 10
    assert [one.saves[-1] for one in found] == sorted((one.saves[-1] for one in found), reverse=True)
    # without compaction the job is saved, and the space of minute files is paid for: either may be more
    for one in (lever for lever in found if not lever.name.startswith("no compaction")):
        assert all(usd < 0 if one.name.startswith(DEARER) else usd > 0 for usd in one.saves[1:]), one.name


@pytest.mark.parametrize(
    ("change", "items"),
    [
        ({"archive_days": 7}, {"S3: archive of payloads"}),
        ({"ticks_days": 90}, {"S3: table ticks"}),
        ({"followed": 2}, {"S3: table candles", "S3 writes and listings of ticks", "S3 reads of ticks"}),
        ({"versions_days": 0}, {"S3: versions of what was replaced"}),
    ],
)
def test_a_lever_lowers_its_own_lines_and_raises_none(plan, prices, change, items):
    plan = replace(plan, versions_days=7)
    before, after = (
        {one.item: one.quantity for one in sheet(each, prices).lines}
        for each in (plan, replace(plan, **change))
    )
    for item, quantity in before.items():
        assert after.get(item, 0) <= quantity
    assert all(after.get(item, 0) < before[item] for item in items)


def test_without_compaction_ticks_take_the_space_of_minute_files_and_no_job_joins_them(plan, line):
    apart = replace(plan, compacted=False)
    assert line(apart, "S3: table ticks").usd == pytest.approx(5 * line(plan, "S3: table ticks").usd)
    # 5 sources, 10 writes an hour each
    item = "S3 writes and listings of hourly jobs"
    assert line(plan, item).quantity - line(apart, item).quantity == pytest.approx(5 * 10 * 730)


def test_a_long_archive_of_large_payloads_is_cheaper_in_glacier(prices):
    few_large = Plan(markets=50_000, sources=5, followed=0, archive_days=365)
    assert sheet(replace(few_large, glacier=True), prices).total(HOST) < sheet(few_large, prices).total(HOST)


# ---- the file of prices


@pytest.fixture
def write_prices(tmp_path, monkeypatch):
    """A project of its own, whose prices.yaml is changed as text."""
    (tmp_path / "params").mkdir()
    for name in ("base.yaml", "dev.yaml", "prices.yaml"):
        shutil.copy(PROJECT / "params" / name, tmp_path / "params")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    path = tmp_path / "params" / "prices.yaml"

    def write(old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return write


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("s3_write:", "s3_writes:", "unknown key prices.s3_writes. Did you mean s3_write?"),
        ("    s3_read: ", "    # s3_read: ", "missing required field `s3_read`"),
        ("usd: 0.023,", "usd: cheap,", "prices.s3_standard.usd is 'cheap'"),
        ("usd: 0.023,", "usd: -1,", "prices.s3_standard.usd is -1"),
        ("usd: 0.023,", "usd: .inf,", "it has to be a finite number"),
        ("per: 1000,", "per: 0,", ".per is 0"),
        ('as_of: "2025-06"', "as_of: lately", "as_of is 'lately'"),
        ("steady: 0.2", "steady: 20", "hosts is"),
        ("region: us-east-1", "region: [", "not valid YAML"),
    ],
)
def test_a_wrong_price_is_told_with_file_key_and_reason(write_prices, old, new, says):
    write_prices(old, new)
    with pytest.raises(ConfigError) as told:
        load_prices()
    assert "prices.yaml" in str(told.value) and says in str(told.value)


def test_a_price_that_is_corrected_is_the_one_that_is_counted_with(write_prices, plan):
    before = sheet(plan, load_prices()).total(HOST)
    write_prices("usd: 0.023,", "usd: 0.046,")
    stored = sum(one.usd for one in sheet(plan, load_prices()).lines if one.item.startswith("S3: "))
    assert sheet(plan, load_prices()).total(HOST) == pytest.approx(before + stored / 2)


# ---- the command, and the page


def run(*words):
    done = CliRunner().invoke(cli.app, ["cost", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_tells_items_totals_levers_and_whose_prices_they_are():
    told = run("--markets", "2000")
    assert "us-east-1" in told and "not checked" in told and "eu-central-1" in told
    assert "2,000 markets of 2 sources" in told and "USD a month" in told
    assert "archive for 7 days" in told


def test_json_has_the_same_sheets():
    told = json.loads(run("--markets", "1000", "--markets", "5000", "--json"))
    assert [one["markets"] for one in told["sheets"]] == [1_000, 5_000]
    for one in told["sheets"]:
        for way in WAYS:
            lines = [line["usd"] for line in one["lines"] if way in line["ways"]]
            assert one["usd"][way] == pytest.approx(sum(lines))
    assert {"1000", "5000"} == set(told["levers"][0]["saves_usd"])
    assert told["prices"]["checked"] is False


def test_the_page_has_the_sheets_that_the_command_writes():
    page = (PROJECT / cost.PAGE).read_text(encoding="utf-8")
    assert cost.part_of(page) == run("--markdown").strip(), "run `make docs`"


# ---- what the figures stand on


def test_the_model_counts_the_views_that_there_are():
    assert MEASURED.views == len(sql.views())


@pytest.mark.s3
def test_a_tick_still_asks_of_s3_what_was_measured(s3, open_at):
    """The notebooks' own calls without kernels, whose records are a dozen writes more."""
    from s3_requests import Counting

    proxy, ticks = Counting(s3.endpoint_url), 4
    with Simulator() as simulator:
        monitor = open_at(
            s3.root, proxy.address, dict(simulator.hosts), exchanges=["kraken"], watchlist=["NONE-USD"], engine="duckdb"
        )  # fmt: skip
        begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=ticks + 5)
        for number in range(ticks + 2):
            if number == 2:
                proxy.billed.clear()
            now = begin + timedelta(minutes=number)
            collect_payloads(monitor, as_of=now)
            flatten_payloads(monitor)
            engine = Engine(monitor, now)
            engine.query("select * from freshness")
            keep_latest(engine)
            engine.query("select * from spikes")
            step = evaluate_alerts(monitor, now)
            send_notices(monitor, evaluated=step.at, now=now)
    proxy.close()
    found = {kind: proxy.billed[kind] / ticks for kind in ("put", "get")}
    assert 0.5 * MEASURED.tick.writes <= found["put"] <= MEASURED.tick.writes
    assert 0.4 * MEASURED.tick.reads <= found["get"] <= MEASURED.tick.reads
