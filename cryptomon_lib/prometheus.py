"""What Prometheus reads: how the monitor is now as gauges, in the text format, for a scrape or a textfile collector.

All of it is what `status` knows, so a scrape costs the same few reads. Everything is a gauge of now: runs are short
processes, and a counter that begins anew with each would count nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cryptomon_lib.errors import StorageError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.status import Status, status_of
from cryptomon_lib.storage import write_whole

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# facts of a run that are worth a line of a chart: names of what notebooks show by themselves
_FACTS = (
    "rows",
    "rejected",
    "stored",
    "failed",
    "quarantined",
    "known",
    "spikes",
    "firing",
    "files",
    "vacuumed",
)


def exposition(monitor: Monitor) -> str:
    """How the monitor is now, in Prometheus' text format."""
    return rendered(status_of(monitor))


def rendered(status: Status) -> str:
    """A status in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Now(status))
    return generate_latest(registry).decode()


def write_textfile(monitor: Monitor, path: Path) -> None:
    """Write it where node_exporter's textfile collector looks (a name that ends in .prom), whole or not at all.

    Raises StorageError: the file cannot be written.
    """
    text = exposition(monitor)
    try:
        # node_exporter runs as another user
        write_whole(path, text.encode(), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error}. Name a folder that this user may write to."
        ) from error


class _Now(Collector):
    """The gauges of one status."""

    def __init__(self, status: Status):
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        values = {name: part.values for name, part in status.parts.items()}
        yield _gauge(
            "cryptomon_info",
            "Which monitor this is; 1.",
            {(status.environment, str(status.simulated).lower()): 1},
            "environment",
            "simulated",
        )
        yield _gauge(
            "cryptomon_well", "1 where `cryptomon status` finds nothing wrong.", int(not status.wrong)
        )
        yield _gauge(
            "cryptomon_part_readable",
            "1 where a part of the status could be read; what could not has no other samples.",
            {name: int(not part.exit_code) for name, part in status.parts.items()},
            "part",
        )
        yield from _of_sources(values["ticks"])
        yield from _of_runs(values["runs"])
        yield from _of_queues(values["queue"], values["alerts"])
        yield from _of_tables(values["storage"], values["holes"])


def _of_sources(ticks: dict) -> Iterator[Metric]:
    by = "source"
    yield _gauge(
        "cryptomon_newest_tick_age_seconds",
        "Age of a source's newest tick.",
        {source: row["age_s"] for source, row in ticks.items()},
        by,
    )
    yield _gauge(
        "cryptomon_completeness_today_ratio",
        "Share of today's judged minutes that have a poll.",
        {source: row["share"] for source, row in ticks.items()},
        by,
    )


def _of_runs(runs: dict) -> Iterator[Metric]:
    by = "notebook"
    for name, says, key in (
        ("cryptomon_run_last_success_age_seconds", "Since a notebook last succeeded.", "success_age_s"),
        ("cryptomon_run_duration_seconds", "How long a notebook's newest run took.", "duration_s"),
        (
            "cryptomon_run_failures_24h",
            "Runs of 24 h that did not succeed; at least so many.",
            "failures_24h",
        ),
    ):
        yield _gauge(name, says, {notebook: row[key] for notebook, row in runs.items()}, by)
    yield _gauge(
        "cryptomon_run_succeeded",
        "1 where a notebook's newest run succeeded, 0 where it did not; none while it runs.",
        {
            notebook: int(row["status"] == "succeeded")
            for notebook, row in runs.items()
            if row["status"] != "running"
        },
        by,
    )
    facts = {
        (notebook, name): row["facts"][name]
        for notebook, row in runs.items()
        for name in _FACTS
        if isinstance(row["facts"].get(name), int | float)
    }
    yield _gauge("cryptomon_run_fact", "What a notebook's newest run counted.", facts, "notebook", "fact")
    calls = runs.get("10_collect", {}).get("facts", {}).get("failures", {})
    yield _gauge(
        "cryptomon_calls_failed",
        "Calls of the newest run of 10_collect that failed.",
        calls,
        "source",
    )


def _of_queues(queue: dict, alerts: dict) -> Iterator[Metric]:
    by = "source"
    yield _gauge(
        "cryptomon_ingest_waiting",
        "Payloads that wait to be flattened.",
        queue.get("waiting", {}),
        by,
    )
    yield _gauge(
        "cryptomon_ingest_oldest_age_seconds", "Age of the oldest of them; 0 where none waits.",
        queue.get("oldest_s"),
    )  # fmt: skip
    yield _gauge(
        "cryptomon_quarantine_payloads",
        "Payloads in quarantine.",
        queue.get("quarantine", {}),
        by,
    )
    yield _gauge(
        "cryptomon_alerts_firing",
        "Alerts that fire.",
        alerts.get("firing_by_rule", {}),
        "rule",
    )
    yield _gauge(
        "cryptomon_alerts_evaluated_age_seconds",
        "Since alerts were evaluated.",
        alerts.get("evaluated_age_s"),
    )
    yield _gauge("cryptomon_outbox_waiting", "Messages on their way.", alerts.get("undelivered"))
    yield _gauge("cryptomon_outbox_parked", "Messages that were given up.", alerts.get("parked"))


def _of_tables(tables: dict, holes: dict) -> Iterator[Metric]:
    for key, unit in (("bytes", "_bytes"), ("rows", "_rows"), ("files", "_files")):
        sizes = {table: row[key] for table, row in tables.items()}
        yield _gauge(f"cryptomon_table{unit}", f"A table's {key}, as its log says.", sizes, "table")
    minutes = {state: count for state, count in holes.items() if not state.endswith("_today")}
    yield _gauge("cryptomon_hole_minutes", "Minutes that are missing.", minutes, "state")


def _gauge(name: str, says: str, values: object, *labels: str) -> GaugeMetricFamily:
    """A gauge: a number, or by one label or more numbers by their values; what is None is left out.

    No sample is how Prometheus says that nothing is known.
    """
    samples = values.items() if labels else [((), values)]
    family = GaugeMetricFamily(name, says, labels=labels)
    for names, value in sorted(samples):
        if value is not None:
            family.add_metric([names] if isinstance(names, str) else list(names), value)
    return family
