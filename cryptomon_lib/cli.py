"""The command line: one command per job of an operator or analyst. Exit codes are those of errors.py."""

import json
import logging
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cryptomon_lib import cli_aws, cli_backup, cli_cost, cli_operations, cli_schedule, config, logs
from cryptomon_lib.cli_options import Environment, Flags, choose, pairs, print_table
from cryptomon_lib.errors import ConfigError, CryptomonError, NotifyError, ParameterError

log = logging.getLogger(__name__)

# heavy modules are imported by the command that needs them: --help and simulate come at once

app = typer.Typer(
    help="A crypto market monitor that analysts own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_schedule.app, name="schedule")
rules_app = typer.Typer(help="The alert rules of params/alerts.yaml.", no_args_is_help=True)
app.add_typer(rules_app, name="rules")
cli_aws.add_to(app)
cli_operations.add_to(app)
cli_backup.add_to(app)
cli_cost.add_to(app)

# typer has a click of its own, or in earlier versions that of the package; this is what either says of a wrong call
_Refused = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

AsOf = Annotated[str, typer.Option(help="The moment that counts as now: 2026-01-31T12:00:00Z.")]


@app.command()
def up(
    environment: Environment = "local",
    hours: Annotated[int, typer.Option(help="History to fill, where the exchange is simulated.", min=0)] = 24,
    minutes: Annotated[int | None, typer.Option(help="End by itself after so many minutes.", min=0)] = None,
    flags: Flags = [],  # noqa: B006
) -> None:
    """Run everything: simulated exchange, first 24 h, dashboard, a tick each minute, until Ctrl-C."""
    from cryptomon_lib.up import up as run_everything

    choose(environment, flags)
    run_everything(environment, hours, minutes)


@app.command()
def run(
    job: Annotated[
        str, typer.Argument(help="A job of the schedule (tick), or a notebook (collect, 10_collect).")
    ],
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", help="name=value, for the notebook.")
    ] = [],  # noqa: B006
    as_json: Annotated[
        bool, typer.Option("--json", help="The record of each notebook, one JSON object a line.")
    ] = False,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Execute a job's notebooks through papermill; keep the executed copies and a record of each."""
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.run import run_job, signals

    choose(environment, flags)
    with signals():
        for record in run_job(open_monitor(environment), job, pairs(parameter)):
            if as_json:
                typer.echo(json.dumps(record, default=str))
                continue
            facts = ", ".join(f"{name} {value}" for name, value in record["facts"].items())
            typer.echo(f"{record['notebook']} {record['status']} in {record['duration_s']:.1f} s: {facts}")


@app.command()
def runs(
    days: Annotated[int, typer.Option(help="Of so many days, today among them.", min=1)] = 1,
    count: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 20,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """List the newest runs: when, what, how long, how it ended."""
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.runs import load_runs

    choose(environment, flags)
    found = load_runs(open_monitor(environment), days)[:count]
    print_table(
        ["started_at", "notebook", "duration_s", "status", "reason"],
        [
            [
                str(record[name] if record[name] is not None else "")
                for name in ("started_at", "notebook", "duration_s", "status", "reason")
            ]
            for record in found
        ],
    )


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="Trino SQL over tables and views.")],
    as_of: AsOf = "",
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, all rows.")] = False,
    engine: Annotated[
        str, typer.Option(help="duckdb, athena or trino; that of the params where not given.")
    ] = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Print the rows of a query over tables and views."""
    from pyarrow import csv as arrow_csv

    from cryptomon_lib.engine import Engine
    from cryptomon_lib.monitor import open_monitor

    choose(environment, [*flags, *([f"engine={engine}"] if engine else [])])
    asked = Engine(open_monitor(environment), as_of or None)
    rows, took = asked.query(query), asked.last
    if csv:
        arrow_csv.write_csv(rows, sys.stdout.buffer)
        return
    print_table(
        rows.column_names,
        [[_shown(value) for value in row.values()] for row in rows.slice(0, 50).to_pylist()],
    )
    more = ", the first 50 shown (--csv gives all)" if rows.num_rows > 50 else ""
    scanned = "" if took.bytes_scanned is None else f", {took.bytes_scanned / 1e6:,.1f} MB scanned"
    billed = "" if took.cost_usd is None else f", {took.cost_usd:.6f} USD"
    logs.tell(f"{took.rows:,} rows in {took.seconds:.2f} s{scanned}{billed}{more}")


@app.command()
def duckdb(
    path: Annotated[Path, typer.Argument(help="The database file to write, or to write anew.")],
    as_of: AsOf = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Write a database file in which any DuckDB client sees all tables and views, as they are now."""
    from cryptomon_lib.engines.duckdb import write_database
    from cryptomon_lib.monitor import open_monitor

    choose(environment, flags)
    write_database(open_monitor(environment), path, as_of or None)
    typer.echo(f"{path}: open it with any DuckDB client; write it anew to see what came later")


@app.command("set-up")
def set_up(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every statement and ask nobody anything.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Make everything anew.")] = False,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Tell Athena or Trino of the tables and views; nothing is done where nothing changed."""
    from cryptomon_lib import catalog
    from cryptomon_lib.monitor import open_monitor

    choose(environment, flags)
    monitor = open_monitor(environment)
    if monitor.settings.engine == "duckdb":
        logs.tell("DuckDB reads the tables as they are: nothing to set up.")
    elif dry_run:
        for one in catalog.statements(monitor.settings):
            typer.echo(f"-- {one.kind} {one.name}\n{one.text};\n")
    else:
        done = catalog.set_up_catalog(monitor, again).reset_index()
        print_table(list(done.columns), done.astype(str).to_numpy().tolist())


@app.command()
def notify(
    test: Annotated[str, typer.Option(help="Send a test message to each receiver of this user.")] = "",
    check: Annotated[
        bool,
        typer.Option("--check", help="Only look whether alerts are still evaluated; exit code 7 if not."),
    ] = False,
    retry_parked: Annotated[
        bool, typer.Option("--retry-parked", help="Send again what was given up, after a fix.")
    ] = False,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Tell users what is new in the alerts, and go on with messages that are on their way."""
    from cryptomon_lib import delivery
    from cryptomon_lib import notify as notifier
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.receivers import user_named

    choose(environment, flags)
    monitor = open_monitor(environment)
    if check:
        age_s = notifier.check_evaluated(monitor).total_seconds()
        typer.echo(f"Alerts were evaluated {age_s:.0f} s ago.")
        return
    if test:
        tried = delivery.try_receivers(monitor, user_named(test))
        print_table(
            ["receiver", *tried.columns], [[name, *map(str, row)] for name, *row in tried.itertuples()]
        )
        missed = list(tried.index[tried["result"] != "sent"])
        if missed:
            raise NotifyError(
                f"{test} got no test message by {', '.join(missed)}; the reason stands beside it."
            )
        return
    if retry_parked:
        typer.echo(f"{notifier.retry_parked(monitor)} messages are on their way again.")
    print_table(
        ["count", "", "of"],
        [[name, *map(str, row)] for name, *row in notifier.send_notices(monitor).table.itertuples()],
    )


@app.command("lint-sql")
def lint_sql(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="View files; all of the project and of notebooks/mine if none."),
    ] = None,
) -> None:
    """Find what view files say that Athena, Trino and DuckDB do not understand alike."""
    from cryptomon_lib import lint
    from cryptomon_lib import sql as views
    from cryptomon_lib.errors import MetricError

    chosen = files or [path for folder in views.folders() for path in sorted(folder.glob("*.sql"))]
    problems = [problem for path in chosen for problem in lint.lint_file(path)]
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise MetricError(f"{len(problems)} to mend, in {len(chosen)} looked at: each line says how.")
    typer.echo(f"{len(chosen)} looked at, nothing to mend: all mean the same on Athena, Trino and DuckDB.")


@app.command()
def backfill(
    since: Annotated[
        str, typer.Option(help="How far back: 30d, 12h, or a time; as in the params where not given.")
    ] = "",
    markets: Annotated[str, typer.Option(help="BASE-QUOTE, by comma; the watchlist where not given.")] = "",
    exchange: Annotated[str, typer.Option(help="By comma; those of the params where not given.")] = "",
    as_of: AsOf = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Fill what was missed, and a first history, from the exchanges' candles; ended anywhere, it goes on next time."""
    from cryptomon_lib.backfill import fill_holes
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.progress import progress_bar
    from cryptomon_lib.run import Stopped, locked, signals

    choose(environment, flags)
    monitor = open_monitor(environment)
    try:
        with signals(), locked(monitor, "70_backfill"), progress_bar("candles") as told:
            done = fill_holes(
                monitor, since or None, _names(markets), _names(exchange), as_of or None, progress=told
            )
    except Stopped as stop:
        logs.tell("Ended. What came is kept; the same command goes on where this one was.")
        sys.exit(128 + stop.number)
    if not done.table.empty:
        typer.echo(done.table.to_string())
    typer.echo(
        f"{done.calls:,} calls, {done.failed:,} failed; of the minutes missing {done.count('filled'):,} filled, "
        f"{done.count('untraded'):,} without a trade, {done.count('lost'):,} lost, {done.count('open'):,} still open"
    )
    for name, says in done.problems.items():
        logs.tell(f"{name}: {says}")
    done.check()


@app.command()
def health(
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as critical.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What health.json says.")] = False,
    as_of: AsOf = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Check the data; exit 0 where nothing is critical, else 8. What was found is in the table findings and health.json."""
    from cryptomon_lib.health import REPORT, check_health
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.run import locked

    choose(environment, flags)
    monitor = open_monitor(environment)
    with locked(monitor, "60_health"):
        report = check_health(monitor, as_of or None)
    if as_json:
        typer.echo(monitor.storage.get(REPORT).decode())
    else:
        rows = report.table.astype(str).to_numpy().tolist()
        print_table(list(report.table.columns), rows)
        counts = ", ".join(f"{count} {severity}" for severity, count in report.counts.items())
        logs.tell(f"{report.status}: {len(report.seconds)} checks, {counts or 'nothing found'}")
    report.check(strict)


@app.command()
def backtest(
    rule: Annotated[str, typer.Argument(help="A rule of params/alerts.yaml.")],
    since: Annotated[str, typer.Option(help="How far back (7d, 36h), or a moment.")] = "7d",
    until: Annotated[str, typer.Option(help="A moment; now where empty.")] = "",
    setting: Annotated[
        list[str],
        typer.Option("--set", help="Settings to try side by side: threshold=2,3,5, cool_down=1h,4h."),
    ] = [],  # noqa: B006
    market: Annotated[list[str], typer.Option(help="Only this market, by market_id.")] = [],  # noqa: B006
    user: Annotated[str, typer.Option(help="Whose grouping and cap of notices hold.")] = "everyone",
    environment: Environment = "local",
) -> None:
    """Show when a rule would have fired, on what, for how long, and how many notices that would have been."""
    from cryptomon_lib import backtest as tester
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.receivers import user_named
    from cryptomon_lib.rules import rule_named

    choose(environment, [])
    started = time.perf_counter()
    begin, end = tester.window(since, until)
    tried = {key: value.split(",") for key, value in pairs(setting).items()}
    found = tester.backtest_rule(
        open_monitor(environment), rule_named(rule), begin, end, tried, market or None, user_named(user)
    )
    summary = found.settings.T
    print_table(
        ["", *summary.columns], [[name, *map(_shown, row)] for name, *row in summary.itertuples(name=None)]
    )
    newest = found.firings.head(15)
    columns = ["setting", "market_id", "measure", "fired_at", "minutes", "reached", "told", "after_1h_pct"]
    print_table(
        columns, [[_shown(value) for value in row] for row in newest[columns].itertuples(index=False)]
    )
    seconds = time.perf_counter() - started
    logs.tell(
        f"{len(found.firings):,} firings from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC in {seconds:.1f} s"
    )


@rules_app.command("list")
def rules_list() -> None:
    """List the rules, checked: what each looks at, when it fires, when people are told again."""
    from cryptomon_lib.rules import load_rules

    rows = [
        [
            rule.name,
            rule.severity,
            ", ".join(rule.measures or ("*",)),
            ", ".join(rule.markets),
            rule.condition,
            rule.says,
        ]
        for rule in load_rules()
    ]
    print_table(["rule", "severity", "measure", "markets", "fires when", "says"], rows)


@rules_app.command("test")
def rules_test(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder or a file; params/alert_tests where none.")
    ] = None,
) -> None:
    """Run the unit tests of rules: given series, expected alerts; exit code 1 where one fails."""
    from cryptomon_lib.errors import RuleTestFailed
    from cryptomon_lib.rule_tests import run_rule_tests

    outcomes = run_rule_tests(folder)
    for outcome in outcomes:
        typer.echo(f"{'passed' if outcome.passed else 'FAILED'}  {outcome.file}: {outcome.name}")
        if not outcome.passed:
            typer.echo("    " + outcome.difference.replace("\n", "\n    "))
    failed = sum(not outcome.passed for outcome in outcomes)
    if failed or not outcomes:
        raise RuleTestFailed(
            f"{failed} of {len(outcomes)} tests of rules failed; what was expected stands above."
        )


@app.command()
def export(
    table: Annotated[list[str], typer.Option(help="A table to copy; may be given several times.")] = [],  # noqa: B006
    since: Annotated[str, typer.Option(help="Only days from then on: 2026-01-31.")] = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Copy tables to plain Parquet, by source and day, for tools that read no Delta; only what changed."""
    from cryptomon_lib.export import export_tables, projection
    from cryptomon_lib.monitor import open_monitor

    choose(environment, flags)
    monitor = open_monitor(environment)
    names = table or ["ticks", "candles"]
    done = export_tables(monitor, names, since or None)
    print_table(list(done.columns), done.astype(str).to_numpy().tolist())
    for name in dict.fromkeys(done["table"]) if monitor.storage.is_s3 else ():
        typer.echo(f"\n-- for Athena, once, and again when a source is new\n{projection(monitor, name)};")


@app.command()
def reflatten(
    exchange: Annotated[str, typer.Option(help="Only payloads of this exchange.")] = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Try the payloads of quarantine and archive again, after a fix; nothing is doubled."""
    from cryptomon_lib.flatten import reflatten_payloads
    from cryptomon_lib.monitor import open_monitor

    choose(environment, flags)
    typer.echo(reflatten_payloads(open_monitor(environment), exchange or None).table.to_string())


@app.command()
def rollup(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="All hours again, from raw rows.")] = False,
    since: Annotated[str, typer.Option(help="With --rebuild: only hours from this moment on.")] = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Bring the hourly roll-ups up to the last closed hour; hours that late rows came to are computed again."""
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.payloads import parse_moment
    from cryptomon_lib.rollups import roll_up

    choose(environment, flags)
    if since and not rebuild:
        raise ParameterError("--since says from where to rebuild: it needs --rebuild.")
    done = roll_up(open_monitor(environment), rebuild=rebuild, since=parse_moment(since) if since else None)
    typer.echo(
        f"{done.hours} hours rolled up ({done.dirty} of them again), {done.rows:,} rows; until {done.until}"
    )


@app.command()
def simulate(
    port: Annotated[
        int, typer.Option(help="Where to listen; 0 is any that is free.", min=0, max=65535)
    ] = 8899,
    seed: Annotated[
        int, typer.Option(help="What the market is made of: the same, and it moves the same.")
    ] = 7,
    start: Annotated[str, typer.Option(help="Where its clock begins; now where empty.")] = "",
    speed: Annotated[float, typer.Option(help="How much faster than real its clock goes.")] = 1.0,
    fault: Annotated[
        list[str], typer.Option(help='JSON: {"kind": "429", "exchange": "kraken", "times": 3}')
    ] = [],  # noqa: B006
    replay: Annotated[
        Path | None, typer.Option(help="Serve recorded payloads or 1-minute bars of a folder.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list the addresses.")] = False,
) -> None:
    """Serve the simulated exchange, or a replay, on loopback until Ctrl-C."""
    from cryptomon_lib.simulator import serve

    def say(simulator) -> None:
        if not quiet:
            for name, address in simulator.hosts.items():
                typer.echo(f"{name:<12} {address}")

    faults = [_json(text) for text in fault]
    serve(port, seed=seed, start=start or None, speed=speed, faults=faults, replay=replay, ready=say)


@app.command()
def dashboard(
    port: Annotated[
        int | None, typer.Option(help="Where to listen; that of the params where not given.")
    ] = None,
    token: Annotated[
        str, typer.Option(help="Name of the environment variable that holds the login token.")
    ] = "",
    ip: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; name a token then.")] = "127.0.0.1",
    as_of: AsOf = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Serve the dashboard by Voila until Ctrl-C."""
    from cryptomon_lib import dashboard_server

    choose(environment, flags)
    wanted = port if port is not None else config.load_settings(environment).dashboard.port
    dashboard_server.serve(
        environment,
        wanted,
        token=config.secret(token) if token else None,
        ip=ip,
        parameters={"as_of": as_of} if as_of else None,
    )


@app.command()
def api(
    port: Annotated[
        int | None, typer.Option(help="Where to listen; that of the params where not given.")
    ] = None,
    ip: Annotated[
        str, typer.Option(help="0.0.0.0 lets other machines in; name keys in the params first.")
    ] = "127.0.0.1",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Serve the REST API until Ctrl-C; /docs describes it."""
    from cryptomon_lib.api import serve
    from cryptomon_lib.monitor import open_monitor

    choose(environment, flags)
    monitor = open_monitor(environment)
    wanted = port if port is not None else monitor.settings.api.port
    logs.tell(f"http://{ip}:{wanted}/docs", output=sys.stdout)
    serve(monitor, wanted, ip)


@app.command()
def settings(environment: Environment = "local", flags: Flags = []) -> None:  # noqa: B006
    """Print the settings of an environment, as flags, environment and files make them."""
    import msgspec
    import yaml

    choose(environment, flags)
    typer.echo(
        yaml.safe_dump(msgspec.to_builtins(config.load_settings(environment)), sort_keys=False), nl=False
    )


def main() -> None:
    """The command `cryptomon`: an error of ours is one line on stderr and its exit code."""
    try:
        logs.set_up()
        if logs.is_json():
            sys.exit(_run_in_json())
        app(prog_name="cryptomon")
    except CryptomonError as error:
        _tell(error)
        sys.exit(error.exit_code)


def _run_in_json() -> int:
    """Run the command; its exit code. What typer would write about how it was called is a line like all others."""
    try:
        code = app(standalone_mode=False, prog_name="cryptomon")
    except _Refused as error:
        return _refused(error)
    except typer.Abort:
        return 1
    return code if isinstance(code, int) else 0


def _refused(error: Exception) -> int:
    says, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    # where no command is named, that would be the whole help
    says = "Missing command" if says.startswith("Usage:") else says
    where = context.command_path if context else "cryptomon"
    extra = {"error": type(error).__name__, "exit_code": error.exit_code}
    log.error("%s. Try: %s --help", says, where, extra=extra)
    return error.exit_code


def _tell(error: CryptomonError) -> None:
    with suppress(ConfigError):
        if logs.is_json():
            log.error("%s", error, extra={"error": type(error).__name__, "exit_code": error.exit_code})
            return
    typer.echo(f"cryptomon: {error}", err=True)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _json(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ParameterError(f"--fault {text!r} is not JSON: {error}") from error


def _shown(value) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
