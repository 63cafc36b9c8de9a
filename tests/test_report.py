"""The daily report: the day in numbers, in a notebook that is executed, and as one file to read and to mail."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from cryptomon_lib.errors import ParameterError
from cryptomon_lib.lake import Batch
from cryptomon_lib.readable import readable
from cryptomon_lib.report import day_report
from cryptomon_lib.run import run_job

DAY = datetime(2026, 7, 27, tzinfo=UTC)


@pytest.fixture
def filled(local, table_of):
    """A day of three markets, one poll in two, of which one rose and one fell; and an hour of the next day."""
    rows = [
        {
            "market_id": f"kraken:kraken:{pair}",
            "collected_at": DAY + timedelta(minutes=minute),
            "price": 100.0,
            "change_24h_pct": change,
            "quote_volume_24h": 5.0,
        }
        for minute in range(0, 25 * 60, 2)
        for pair, change in {"UP-USD": 3.0, "DOWN-USD": -4.0, "SAME-USD": 0.0}.items()
    ]
    local.lake.append("ticks", [Batch("day", table_of("ticks", rows))])
    return local


def test_the_bottom_line_counts_the_day_and_nothing_after_it(filled):
    report = day_report(filled, "2026-07-27")
    assert report.breadth == {"up": 1, "down": 1, "unchanged": 1}
    assert report.movers["market"].tolist() == ["UP-USD", "SAME-USD", "DOWN-USD"]
    ticks = report.completeness.set_index("measure").loc["ticks"]
    assert ticks["samples"] == 720 and ticks["expected"] == 1440
    assert "1 of 3 markets rose" in report.bottom_line and "50.0% of the minutes" in report.bottom_line
    assert report.storage.set_index("table").loc["ticks", "day_mb"] > 0
    # a scan is billed for ten megabytes at the least
    assert report.cost["scan_usd"].min() > 0


def test_a_day_is_named_plainly_or_is_the_newest_whole_one(filled, local):
    with pytest.raises(ParameterError, match="2026-01-31"):
        day_report(filled, "yesterday")
    assert day_report(filled).day == datetime.now(UTC).date() - timedelta(days=1)


@pytest.mark.notebook
def test_the_job_keeps_a_notebook_and_one_file_with_its_pictures_in_it(filled, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_ROOT", filled.settings.root)
    (record,) = run_job(filled, "report", {"day": "2026-07-27"})
    assert record["facts"]["markets"] == 3
    page = filled.storage.get("reports/2026-07-27.html").decode()
    assert "1 of 3 markets rose" in page and page.count("data:image/png;base64,") == 2
    # nothing to run, nothing to fetch, no code
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert "open_monitor" not in page and "facts" not in page.lower()


def test_a_page_to_read_runs_nothing():
    from nbformat import writes
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    outputs = [new_output("display_data", {"text/html": "<b onclick='x()'>2</b><script>y()</script>"})]
    cells = [new_markdown_cell("# T<script>x()</script>"), new_code_cell("1 + 1", outputs=outputs)]
    page = readable(writes(new_notebook(cells=cells)).encode())
    assert "<script" not in page and "onclick" not in page and "<b>2</b>" in page and "1" in page
