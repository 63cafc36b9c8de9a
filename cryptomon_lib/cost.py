"""What a month on AWS costs: measured quantities times the prices of `params/prices.yaml`, as sheets and levers.

Owns how each quantity grows with the number of markets, and what is measured (MEASURED) and what is supposed
(SUPPOSED). It asks nobody: neither AWS nor the root.

How things grow with markets:

- Bytes are linear: a market is a row of each payload, of each minute's file, of each hour's roll-up.
- Requests do not depend on markets but on payloads, for each is an object whatever its size: one of tickers for each
  source, one of candles for each source and market followed. What two measured monitors differ by is a payload's share.
  An object stays one request up to 5 MB, 80,000 markets of one source in a minute's file; DuckDB reads files up to 8 MB
  whole, an hour of 10,000 markets of one source. Markets come with sources (SUPPOSED), so neither is reached here.
- Scans are linear, but no query is billed for less than 10 MB. Files that Athena opens grow with sources, for ticks and
  candles have files of their own for each.
- Machines come in steps: the cheapest that has the memory and the processors.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from cryptomon_lib.config import (
    NotNegative,
    Positive,
    Section,
    Settings,
    checked,
    home,
    load_settings,
    read_yaml,
)
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.markdown import table

FILE = "prices.yaml"
PAGE = "docs/aws.md"
_BEGINS, _ENDS = "<!-- written by `make docs`: cryptomon cost --markdown -->", "<!-- until here -->"
SIZES = (1_000, 10_000, 100_000)
HOURS = 730
DAYS = HOURS / 24
MINUTES = HOURS * 60
_GB = 2**30
_TB = 10**12
_BILLED_AT_LEAST = 10_000_000
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/glacier-instant-retrieval.html
_GLACIER_DAYS, _GLACIER_BYTES = 90, 128 * 1024

# where jobs run and who answers queries; all alike else
WAYS = ("host, DuckDB", "host, Athena", "SageMaker, DuckDB", "SageMaker, Athena")
HOST, HOST_ATHENA, SAGEMAKER, SAGEMAKER_ATHENA = WAYS
_ALL = frozenset(WAYS)
_HOSTS, _SAGEMAKERS = frozenset((HOST, HOST_ATHENA)), frozenset((SAGEMAKER, SAGEMAKER_ATHENA))
_ATHENA = frozenset((HOST_ATHENA, SAGEMAKER_ATHENA))


# ---- prices


class Price(Section):
    """US dollars for so many of a unit. sure: the number is not a guess."""

    usd: NotNegative
    per: Positive
    unit: Annotated[str, msgspec.Meta(min_length=1)]
    sure: bool

    @property
    def each(self) -> float:
        """US dollars of one."""
        return self.usd / self.per


class Machine(Section):
    """US dollars an hour of a machine, and what it has. steady: the share of its processors that it may use for ever."""

    usd: NotNegative
    cpus: Annotated[int, msgspec.Meta(ge=1)]
    memory_gb: Positive
    steady: Annotated[float, msgspec.Meta(gt=0, le=1)]
    sure: bool


class PriceList(Section):
    """All prices by name. `params/prices.yaml` says what each is for."""

    s3_standard: Price
    s3_glacier_ir: Price
    s3_glacier_ir_move: Price
    s3_write: Price
    s3_read: Price
    athena_scan: Price
    sns_publish: Price
    cloudwatch_alarm: Price
    cloudwatch_metric: Price
    cloudwatch_put: Price
    glue_request: Price
    kms_key: Price
    ebs_gp3: Price
    public_ipv4: Price
    sagemaker_storage: Price


class Prices(Section):
    """The file: prices of a region, from when they are, and whether somebody compared them with AWS' own page."""

    region: Annotated[str, msgspec.Meta(min_length=1)]
    as_of: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]
    checked: bool
    prices: PriceList
    hosts: Annotated[dict[str, Machine], msgspec.Meta(min_length=1)]
    sagemaker: Annotated[dict[str, Machine], msgspec.Meta(min_length=1)]


def load_prices() -> Prices:
    """The prices of params/prices.yaml.

    Raises ConfigError: names the file, the key, and the nearest known one.
    """
    values, where = read_yaml(home() / "params" / FILE), f"params/{FILE}"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: it has to be keys and values, as region: us-east-1.")
    return checked(values, Prices, where)


# ---- what is measured, and what is not


@dataclass(frozen=True)
class Requests:
    """Requests to S3 as it bills them: writes (PUT, COPY, POST, LIST) and reads (GET, HEAD); DELETE is free."""

    writes: float
    reads: float

    def __add__(self, other: "Requests") -> "Requests":
        return Requests(self.writes + other.writes, self.reads + other.reads)

    def __mul__(self, times: float) -> "Requests":
        return Requests(self.writes * times, self.reads * times)


@dataclass(frozen=True)
class Scan:
    """What a query reads: bytes a market, files of tables that have some for each source, and files of the others."""

    bytes: float
    files_of_source: float
    files: float


@dataclass(frozen=True)
class Measured:
    """What was measured; each figure says by which command of docs/benchmarks.md."""

    # `python benchmarks/s3_requests.py --hourly --warm 6 --ticks 60 --only "one payload"`: the mean of 60 ticks; the hour's
    # checks, backfill and health together; compaction with roll-ups, of 60 minutes
    tick: Requests = Requests(57.1, 223.8)
    jobs: Requests = Requests(118, 1_082)
    compact: Requests = Requests(100, 1_181)
    # the same script with `--ticks 13`, of nine payloads (three sources, six of candles) and of one: what eight payloads add
    # to the mean of the third to the fifteenth tick
    payloads_more: int = 8
    tick_more: Requests = Requests(71.8 - 51.6, 324.2 - 179.6)
    # the same: bytes of the archive's payloads a row of ticks; of tables `latest` and `now_1h` a market and tick, of 102
    # markets, where much of a file is its own description; of records and notebooks a tick
    archive_row_bytes: float = 102
    latest_market_bytes: float = 370
    runs_tick_bytes: float = 4_600
    # `python benchmarks/metrics.py`, a closed day of 9,590 markets; `benchmarks/compact.py`, before and after
    tick_row_bytes: float = 12.8
    minute_row_bytes: float = 57.7
    # `python benchmarks/scans.py`: 37 hours of 1,918 markets rolled up, both tables
    rollup_market_hour_bytes: float = 142.3 + 43.8
    # the same, each mention counted: the four queries of a tick, the hourly check of all views, the rank, which is the
    # dearest question of a page
    scan_tick: tuple[Scan, ...] = (
        Scan(46, 66, 10),
        Scan(54_297, 467, 97),
        Scan(7_906, 228, 0),
        Scan(7_906, 228, 0),
    )
    scan_checks: Scan = Scan(808_359, 6_666, 630)
    views: int = 34
    scan_page: Scan = Scan(7_548, 65, 20)
    # docs/schedule.md: CPU and memory of runner and kernel, three simulated exchanges (84 markets); `benchmarks/tick.py`:
    # those of 9,590 markets; `benchmarks/compact.py`: the highest of compaction; `benchmarks/dashboard.py`: its server
    markets_small: int = 84
    markets_large: int = 9_590
    tick_cpu_s: tuple[float, float] = (1.9, 3.91)
    tick_mb: tuple[float, float] = (370, 1_362)
    compact_mb: float = 624
    dashboard_mb: float = 489
    # docs/benchmarks.md, replay of 18 markets by bars: what is told a day, ends of alerts included
    told_market_day: float = 38 / 18 * 273 / 139
    told_followed_day: float = 101 / 18 * 273 / 139


@dataclass(frozen=True)
class Supposed:
    """What nobody has measured; the sheet says so."""

    # an exchange lists some hundreds to some thousands
    markets_of_source: int = 1_000
    # of memory and of processors that a machine is filled to
    filled: float = 0.75
    # questions a day that pages and programs put to Athena
    pages_a_day: int = 500
    # of S3 for each file that Athena opens: its end, its columns
    reads_of_file: float = 2
    # of the Glue catalog for each query
    glue_of_query: float = 10
    # minutes until a job of SageMaker runs, which are billed, and minutes that a job of an hour runs
    start_min: float = 3
    job_min: float = 2
    system_gb: float = 30


MEASURED = Measured()
SUPPOSED = Supposed()
# aws/pipelines.py: the job of the ticks runs 75 minutes of each hour, so a quarter of them is done twice
_TWICE = 0.25
# scheduled/schedule.yaml: checks, compact, backfill, health; aws/templates/watch.yaml; the notebooks' publish_metrics
_HOURLY_JOBS, _ALARMS, _METRICS = 4, 2, 5


# ---- what is asked about


@dataclass(frozen=True)
class Plan:
    """A monitor whose month is asked about.

    followed: payloads of candles a tick. every_min: minutes between two samples. months: the month that is billed, the
    first being 1; what is kept for ever has grown by then. *_days: how long it is kept; ticks_days and rollups_days None:
    for ever. versions_days: the bucket keeps what was replaced for so long; 0: it does not. compacted: minute files become
    hours and days. glacier: the archive moves to Glacier Instant Retrieval after a day.
    """

    markets: int
    sources: int
    followed: int
    every_min: int = 1
    months: int = 12
    archive_days: int = 30
    runs_days: int = 30
    ticks_days: int | None = None
    rollups_days: int | None = None
    versions_days: int = 0
    compacted: bool = True
    glacier: bool = False
    job_volume_gb: int = 10
    metrics: bool = True

    @property
    def ticks(self) -> float:
        """A month."""
        return MINUTES / self.every_min

    @property
    def ticks_a_day(self) -> float:
        return 1440 / self.every_min

    @property
    def payloads(self) -> int:
        """A tick: one of tickers for each source, and those of candles."""
        return self.sources + self.followed

    def days(self, kept: int | None) -> float:
        """How many days there are of what is kept so long."""
        grown = self.months * DAYS
        return grown if kept is None else min(kept, grown)


def plan_of(
    settings: Settings,
    markets: int,
    *,
    sources: int | None = None,
    months: int = 12,
    supposed: Supposed = SUPPOSED,
) -> Plan:
    """The plan of an environment's settings for so many markets.

    sources: exchanges that are polled; None: one for each thousand markets. Candles are asked of as many sources as the
    params name, of each market of the watchlist, which is the most that there can be.

    Raises ConfigError: numbers below 1, or fewer markets than sources.
    """
    if min(markets, months) < 1:
        raise ConfigError(f"{markets} markets, {months} months: both have to be 1 or more.")
    sources = math.ceil(markets / supposed.markets_of_source) if sources is None else sources
    if not 1 <= sources <= markets:
        raise ConfigError(f"{sources} sources of {markets} markets: each has one at least.")
    kept = settings.retention
    return Plan(
        markets=markets,
        sources=sources,
        followed=min(sources, len(settings.exchanges)) * len(settings.watchlist),
        every_min=max(1, round(settings.cadence_s / 60)),
        months=months,
        archive_days=kept.archive_days,
        runs_days=kept.runs_days,
        ticks_days=kept.tables_days.get("ticks"),
        rollups_days=kept.tables_days.get("rollups_1h"),
        versions_days=settings.aws.versions_days if settings.aws.versioned else 0,
        job_volume_gb=settings.aws.volume_gb,
        metrics=settings.aws.metrics,
    )


# ---- the sheet


@dataclass(frozen=True)
class Line:
    """One item of a month: how much of what, at which price, in which of the ways of running.

    measured: the quantity follows from what was measured, else from SUPPOSED, too. sure: the price is no guess.
    """

    item: str
    quantity: float
    unit: str
    each: float
    ways: frozenset[str] = _ALL
    measured: bool = True
    sure: bool = True

    @property
    def usd(self) -> float:
        return self.quantity * self.each


@dataclass(frozen=True)
class Sheet:
    """A month: its plan and its lines."""

    plan: Plan
    lines: tuple[Line, ...]

    def total(self, way: str) -> float:
        """US dollars of the month, run that way."""
        return sum(line.usd for line in self.lines if way in line.ways)


def sheet(plan: Plan, prices: Prices, measured: Measured = MEASURED, supposed: Supposed = SUPPOSED) -> Sheet:
    """The month of a plan.

    Raises ConfigError: no machine of the prices has the memory and the processors for it.
    """
    lines = [
        *_storage(plan, prices.prices, measured),
        *_requests(plan, prices.prices, measured),
        *_machines(plan, prices, measured, supposed),
        *_athena(plan, prices.prices, measured, supposed),
        *_told(plan, prices.prices, measured),
    ]
    return Sheet(plan, tuple(line for line in lines if line.quantity))


def _storage(plan: Plan, prices: PriceList, measured: Measured) -> Iterable[Line]:
    """Bytes that lie there at the end of the month; they are billed by the month's mean, which is a little less."""
    rows_a_day = plan.markets * plan.ticks_a_day
    a_candle_day = plan.followed * plan.ticks_a_day
    row = measured.tick_row_bytes if plan.compacted else measured.minute_row_bytes
    archive = rows_a_day * measured.archive_row_bytes
    if plan.glacier:
        yield from _glacier(plan, prices, archive)
    else:
        yield _kept("archive of payloads", archive * plan.days(plan.archive_days), prices)
    yield _kept("table ticks", rows_a_day * row * plan.days(plan.ticks_days), prices)
    yield _kept("table candles", a_candle_day * row * plan.days(None), prices)
    hours = 24 * plan.days(plan.rollups_days)
    yield _kept("hourly roll-ups", plan.markets * hours * measured.rollup_market_hour_bytes, prices)
    # a table's old files stay until they are vacuumed, an hour later
    an_hour = (
        plan.markets * plan.ticks_a_day / 24 * (measured.latest_market_bytes + measured.minute_row_bytes)
    )
    yield _kept("latest, now_1h and files of the last hours", 2 * an_hour, prices)
    yield _kept(
        "records of runs", plan.ticks_a_day * measured.runs_tick_bytes * plan.days(plan.runs_days), prices
    )
    if plan.versions_days:
        # minute files and the hours' go when they are joined; the queue's payloads and latest are versions for a day
        joined = rows_a_day * (measured.minute_row_bytes + measured.tick_row_bytes) * plan.compacted
        a_day = rows_a_day * (measured.archive_row_bytes + measured.latest_market_bytes)
        yield _kept("versions of what was replaced", joined * plan.days(plan.versions_days) + a_day, prices)


def _glacier(plan: Plan, prices: PriceList, archive: float) -> Iterable[Line]:
    """Of the archive a day as it is, the rest moved: 90 days and 128 KB are billed for each object at least."""
    objects = plan.payloads * plan.ticks_a_day
    billed = max(archive / objects, _GLACIER_BYTES) * objects
    kept = max(plan.archive_days, _GLACIER_DAYS)
    yield _kept("archive of payloads", archive, prices)
    yield Line(
        "archive in Glacier Instant Retrieval",
        billed * plan.days(kept) / _GB,
        "GB-month",
        prices.s3_glacier_ir.each,
        sure=prices.s3_glacier_ir.sure,
    )
    yield _line("archive: objects moved there", objects * DAYS, prices.s3_glacier_ir_move)


def _requests(plan: Plan, prices: PriceList, measured: Measured) -> Iterable[Line]:
    """Of the hourly jobs one source was measured; others are supposed to ask for as much each, which is too much."""
    ticks = of_payloads(measured, plan.payloads) * plan.ticks
    an_hour = measured.jobs + measured.compact if plan.compacted else measured.jobs
    jobs, known = an_hour * plan.sources * HOURS, plan.sources == 1
    yield _line("S3 writes and listings of ticks", ticks.writes, prices.s3_write)
    yield _line("S3 reads of ticks", ticks.reads, prices.s3_read)
    yield _line("S3 writes and listings of hourly jobs", jobs.writes, prices.s3_write, measured=known)
    yield _line("S3 reads of hourly jobs", jobs.reads, prices.s3_read, measured=known)
    twice = ticks * _TWICE
    yield _line("S3 writes of ticks that two jobs do", twice.writes, prices.s3_write, _SAGEMAKERS)
    yield _line("S3 reads of ticks that two jobs do", twice.reads, prices.s3_read, _SAGEMAKERS)


def of_payloads(measured: Measured, payloads: int) -> Requests:
    """Requests of a tick of so many payloads, on the line through what was measured with few and with more of them."""
    return measured.tick + measured.tick_more * ((payloads - 1) / measured.payloads_more)


def _machines(plan: Plan, prices: Prices, measured: Measured, supposed: Supposed) -> Iterable[Line]:
    cpu_s, tick_mb = (_between(measured, at, plan.markets) for at in (measured.tick_cpu_s, measured.tick_mb))
    beside_mb = measured.compact_mb + measured.dashboard_mb * max(1, plan.markets / measured.markets_large)
    steady = cpu_s / (60 * plan.every_min) / supposed.filled
    listed = prices.prices
    name, host = fitting(prices.hosts, (tick_mb + beside_mb) / supposed.filled, steady, "hosts")
    yield Line(f"host {name}", HOURS, "hours", host.usd, _HOSTS, sure=host.sure)
    yield _line("disk of the host", supposed.system_gb, listed.ebs_gp3, _HOSTS)
    yield _line("address of the host", HOURS, listed.public_ipv4, _HOSTS)
    needed_mb = max(tick_mb, measured.compact_mb) / supposed.filled
    name, machine = fitting(prices.sagemaker, needed_mb, steady, "sagemaker")
    sampling = HOURS * (1 + _TWICE + supposed.start_min / 60)
    jobs = HOURS * _HOURLY_JOBS * (supposed.start_min + supposed.job_min) / 60
    yield Line(
        f"{name}, the hourly job of the ticks",
        sampling,
        "hours",
        machine.usd,
        _SAGEMAKERS,
        False,
        machine.sure,
    )
    yield Line(
        f"{name}, {_HOURLY_JOBS} other jobs an hour",
        jobs,
        "hours",
        machine.usd,
        _SAGEMAKERS,
        False,
        machine.sure,
    )
    disk = plan.job_volume_gb * (sampling + jobs) / HOURS
    yield _line("disks of the jobs", disk, listed.sagemaker_storage, _SAGEMAKERS, False)


def _between(measured: Measured, at: tuple[float, float], markets: int) -> float:
    """On the line through two measured sizes; beyond the larger one nobody has looked."""
    slope = (at[1] - at[0]) / (measured.markets_large - measured.markets_small)
    return at[0] + slope * max(0, markets - measured.markets_small)


def fitting(
    machines: Mapping[str, Machine], memory_mb: float, cpus: float, where: str
) -> tuple[str, Machine]:
    """The cheapest machine with so much memory and so many processors to use for ever.

    Raises ConfigError: none has.
    """
    fits = {
        name: one
        for name, one in machines.items()
        if one.memory_gb * 1024 >= memory_mb and one.cpus * one.steady >= cpus
    }
    if not fits:
        raise ConfigError(
            f"params/{FILE}: {where} has none with {memory_mb / 1024:.1f} GB and {cpus:.2f} processors: add a larger one."
        )
    name = min(fits, key=lambda one: fits[one].usd)
    return name, fits[name]


def _athena(plan: Plan, prices: PriceList, measured: Measured, supposed: Supposed) -> Iterable[Line]:
    """A query reads the same at fewer samples here: how much of it are roll-ups, which stay, was not told apart. Nor was
    it measured without compaction, where it is more."""
    ticks = [(scan, plan.ticks) for scan in measured.scan_tick]
    each = replace(
        measured.scan_checks,
        **{name: value / measured.views for name, value in vars(measured.scan_checks).items()},
    )
    checks = [(each, HOURS * measured.views)]
    pages = [(measured.scan_page, supposed.pages_a_day * DAYS)]
    for item, asked, known in (
        ("Athena scans of ticks", ticks, True),
        ("Athena scans of the hourly check", checks, True),
        ("Athena scans of pages and programs", pages, False),
    ):
        scanned = sum(billed(scan, plan.markets) * times for scan, times in asked)
        yield _line(item, scanned / _TB, prices.athena_scan, _ATHENA, known)
    every = [*ticks, *checks, *pages]
    files = sum((scan.files_of_source * plan.sources + scan.files) * times for scan, times in every)
    yield _line("S3 reads by Athena", files * supposed.reads_of_file, prices.s3_read, _ATHENA, False)
    glue = max(0, sum(times for _, times in every) * supposed.glue_of_query - 1_000_000)
    yield _line("Glue requests beyond the free million", glue, prices.glue_request, _ATHENA, False)


def billed(scan: Scan, markets: int) -> float:
    """Bytes that Athena bills of one query."""
    return max(_BILLED_AT_LEAST, scan.bytes * markets)


def _told(plan: Plan, prices: PriceList, measured: Measured) -> Iterable[Line]:
    told = plan.markets * measured.told_market_day + plan.followed * measured.told_followed_day
    yield _line("SNS publishes, if a topic is told all", told * DAYS, prices.sns_publish, measured=False)
    yield _line("CloudWatch alarms", _ALARMS, prices.cloudwatch_alarm)
    if plan.metrics:
        yield _line("CloudWatch metrics", _METRICS, prices.cloudwatch_metric)
        yield _line("CloudWatch: telling it", plan.ticks + HOURS, prices.cloudwatch_put)
    yield _line("key of the topics", 1, prices.kms_key)


def _kept(item: str, size: float, prices: PriceList) -> Line:
    return _line(f"S3: {item}", size / _GB, prices.s3_standard)


def _line(
    item: str, quantity: float, price: Price, ways: frozenset[str] = _ALL, measured: bool = True
) -> Line:
    return Line(item, quantity, price.unit, price.each, ways, measured, price.sure)


# ---- levers


@dataclass(frozen=True)
class Lever:
    """Something that may be done: in which way of running, and US dollars a month that it saves at each size.

    A negative figure is what it costs.
    """

    name: str
    way: str
    saves: tuple[float, ...]


def levers(
    plans: Sequence[Plan], prices: Prices, measured: Measured = MEASURED, supposed: Supposed = SUPPOSED
) -> list[Lever]:
    """Each lever pulled alone, at each plan; what saves most at the last of them comes first."""

    def total(plan: Plan, way: str) -> float:
        return sheet(plan, prices, measured, supposed).total(way)

    def changed(name: str, way: str, change: Callable[[Plan], Plan]) -> Lever:
        return Lever(name, way, tuple(total(plan, way) - total(change(plan), way) for plan in plans))

    def moved(name: str, way: str, to: str) -> Lever:
        return Lever(name, way, tuple(total(plan, way) - total(plan, to) for plan in plans))

    found = [
        moved("DuckDB on the host in place of Athena", HOST_ATHENA, HOST),
        moved("a host in place of SageMaker", SAGEMAKER, HOST),
        changed("a sample each 5 minutes", HOST, lambda plan: replace(plan, every_min=5 * plan.every_min)),
        changed(
            "a sample each 5 minutes", HOST_ATHENA, lambda plan: replace(plan, every_min=5 * plan.every_min)
        ),
        changed(
            "follow a third as many markets by candles",
            HOST,
            lambda plan: replace(plan, followed=plan.followed // 3),
        ),
        changed(
            "archive for 7 days", HOST, lambda plan: replace(plan, archive_days=min(7, plan.archive_days))
        ),
        changed(
            "archive to Glacier Instant Retrieval after a day", HOST, lambda plan: replace(plan, glacier=True)
        ),
        changed(
            "ticks for 90 days", HOST, lambda plan: replace(plan, ticks_days=min(90, plan.ticks_days or 90))
        ),
        changed(
            "no compaction: space and the job alone, not what each query then takes",
            HOST,
            lambda plan: replace(plan, compacted=False),
        ),
    ]
    if any(plan.versions_days for plan in plans):
        found.append(
            changed("no versions of what was replaced", HOST, lambda plan: replace(plan, versions_days=0))
        )
    return sorted(found, key=lambda one: -one.saves[-1])


# ---- as text


def rows_of(found: Sheet) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a sheet: item, quantity, unit, price of one, and US dollars of each way; the totals come last."""
    head = ["item", "quantity", "unit", "USD each", *WAYS]
    rows = [
        [
            line.item,
            _figure(line.quantity) + ("" if line.measured else "?"),
            line.unit,
            f"{line.each:.3g}" + ("" if line.sure else "?"),
            *(f"{line.usd:,.2f}" if way in line.ways else "" for way in WAYS),
        ]
        for line in found.lines
    ]
    rows.append(["USD a month", "", "", "", *(f"{found.total(way):,.0f}" for way in WAYS)])
    return head, rows


def lever_rows(found: Sequence[Lever], plans: Sequence[Plan]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of levers: what is done, run which way, US dollars a month saved at each size."""
    head = ["lever", "run as", *(f"{plan.markets:,} markets" for plan in plans)]
    return head, [[one.name, one.way, *(f"{usd:,.2f}" for usd in one.saves)] for one in found]


def title_of(plan: Plan) -> str:
    """What a sheet is of, in a line."""
    ever = "for ever" if plan.ticks_days is None else f"for {plan.ticks_days} days"
    return (
        f"{plan.markets:,} markets of {plan.sources} source{'s' * (plan.sources != 1)}, {plan.followed} followed by "
        f"candles, each {'minute' if plan.every_min == 1 else f'{plan.every_min} minutes'}; month {plan.months}, "
        f"archive kept {plan.archive_days} days, ticks {ever}"
    )


def says_of(prices: Prices, region: str) -> str:
    """Whose prices they are and how far to trust them; region: the environment's own."""
    trust = "compared with AWS' page" if prices.checked else "not checked: see params/prices.yaml"
    other = "" if prices.region == region else f"; the environment is in {region}, where they differ"
    return f"List prices of {prices.region} as of {prices.as_of}, {trust}{other}. A question mark is a guess."


def as_markdown(sheets: Sequence[Sheet], found: Sequence[Lever], says: str) -> str:
    """The sheets and the levers as docs/aws.md has them."""
    parts = [says]
    for one in sheets:
        parts += [f"**{title_of(one.plan)}**", table(*rows_of(one))]
    levers_say = "**Levers**, each alone: USD a month saved; a negative figure is what it costs"
    return "\n\n".join([*parts, levers_say, table(*lever_rows(found, [one.plan for one in sheets]))])


def as_data(sheets: Sequence[Sheet], found: Sequence[Lever], prices: Prices) -> dict:
    """Sheets and levers as plain values: what `--json` writes."""
    return {
        "prices": {"region": prices.region, "as_of": prices.as_of, "checked": prices.checked},
        "sheets": [
            {
                "markets": one.plan.markets,
                "sources": one.plan.sources,
                "followed": one.plan.followed,
                "every_min": one.plan.every_min,
                "month": one.plan.months,
                "lines": [
                    {
                        "item": line.item,
                        "quantity": line.quantity,
                        "unit": line.unit,
                        "usd_each": line.each,
                        "usd": line.usd,
                        "measured": line.measured,
                        "sure": line.sure,
                        "ways": [way for way in WAYS if way in line.ways],
                    }
                    for line in one.lines
                ],
                "usd": {way: one.total(way) for way in WAYS},
            }
            for one in sheets
        ],
        "levers": [
            {
                "lever": one.name,
                "way": one.way,
                "saves_usd": {
                    str(made.plan.markets): usd for made, usd in zip(sheets, one.saves, strict=True)
                },
            }
            for one in found
        ],
    }


def _figure(value: float) -> str:
    """Three digits, which is more than the model knows."""
    if value >= 1_000_000:
        return f"{value / 1e6:,.3g} million" if value < 1e9 else f"{value / 1e6:,.0f} million"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# ---- the page


def part_of(page: str) -> str:
    """What the page has between its marks.

    Raises ValueError: it has no marks.
    """
    return page[page.index(_BEGINS) + len(_BEGINS) : page.index(_ENDS)].strip()


def main() -> None:
    """Write the sheets into the page, as the command tells them where nothing else is said."""
    settings, prices = load_settings("dev"), load_prices()
    plans = [plan_of(settings, size) for size in SIZES]
    text = as_markdown(
        [sheet(plan, prices) for plan in plans],
        levers(plans, prices),
        says_of(prices, settings.athena.region),
    )
    path = home() / PAGE
    page = path.read_text(encoding="utf-8")
    path.write_text(page.replace(f"{part_of(page)}\n", f"{text}\n", 1), encoding="utf-8")


if __name__ == "__main__":
    main()
