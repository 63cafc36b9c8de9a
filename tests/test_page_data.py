"""What the dashboard's pages say, without a page: answers in plain JSON, the same for all who ask."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from cryptomon_lib import charts, dashboard
from cryptomon_lib.dashboard import Dashboard
from cryptomon_lib.errors import ConfigError, RunError, UnknownQuestion
from cryptomon_lib.lake import Batch
from cryptomon_lib.page_data import PageData
from cryptomon_lib.rank_card import rank_card

NOW = datetime(2026, 7, 27, 12, tzinfo=UTC)
PAIRS = {"BTC-USD": 96_000.0, "ETH-USD": 3_400.0, "ETH-BTC": 0.0354}


def ticks(minutes):
    return [
        {
            "market_id": f"{source}:{source}:{pair}",
            "collected_at": NOW - timedelta(minutes=back),
            "price": price * (1 + 0.01 * place * math.sin(back / 20)) * (1.001 if source == "kraken" else 1),
            "bid": price * 0.999,
            "ask": price * 1.001,
            "quote_volume_24h": price * 100 / place,
            "change_24h_pct": None if source == "kraken" else float(place - 2),
        }
        for back in minutes
        for place, (pair, price) in enumerate(PAIRS.items(), 1)
        for source in ("kraken", "coinbase")
    ]


@pytest.fixture(scope="module")
def monitor(tmp_path_factory, table_of):
    from cryptomon_lib.monitor import open_monitor

    opened = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("pages")), "hosts": {}})
    opened.lake.append("ticks", [Batch("history", table_of("ticks", ticks(range(150))))])
    return opened


@pytest.fixture(scope="module")
def data(monitor):
    return PageData(monitor, f"{NOW:%Y-%m-%dT%H:%M:%SZ}")


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("overview", {}),
        ("table", {}),
        ("alerts", {}),
        ("operations", {}),
        ("threshold", {"market": "kraken:ETH-USD", "measure": "price", "threshold": "nothing"}),
        ("moment", {"market": "kraken:ETH-USD", "at": "1785150000000"}),
        *(
            ("market", {"window": window, "kind": kind})
            for window in ("1h", "24h", "30d")
            for kind in ("", "candles")
        ),
        ("market", {"compare": "kraken:ETH-USD,coinbase:ETH-BTC", "window": "6h", "measure": "spread_bps"}),
    ],
)
def test_every_answer_is_plain_json_and_says_of_when_it_is(data, question, asked):
    said = data.answer(question, asked)
    json.dumps(said, allow_nan=False)
    assert said["read_at"] == NOW.timestamp() * 1000 and said["version"] == data.version()


def test_the_overview_counts_who_rose_and_who_fell(data):
    said = data.answer("overview")
    assert (said["markets"], said["exchanges"]) == (6, 2)
    # kraken gives no change of 24 h, and there are no samples of a day ago
    assert said["breadth"] == {"up": 1, "down": 1, "unchanged": 1, "unknown": 3}
    assert [one["value"] for one in said["risen"]] == [1.0, 0.0, -1.0]
    assert [one["value"] for one in said["fallen"]] == [-1.0, 0.0, 1.0]
    assert {one["market"] for one in said["gaps"]} == set(PAIRS)
    assert said["gaps"][0]["gap_bps"] == pytest.approx(10, rel=1e-6)


def test_an_unknown_market_or_measure_is_told_and_another_one_is_shown(data):
    said = data.answer("market", {"market": "<b>BTC</b>", "measure": "no_such"})
    assert (
        "No market is called '<b>BTC</b>'" in said["hint"]
        and "No measure is called 'no_such'" in said["hint"]
    )
    assert said["market"]["market"] == "BTC-USD" and said["measure"] == "price"


def test_a_link_is_the_shortest_name_that_stands_for_the_market(data):
    said = data.answer("market", {"market": "coinbase:coinbase:ETH-BTC"})
    assert said["market"]["link"] == "coinbase:ETH-BTC" and said["hint"] == ""
    # what the redirect of the login makes of a link
    assert data.answer("market", {"market": "coinbase://ETH-BTC"})["market"]["link"] == "coinbase:ETH-BTC"


def test_the_same_pair_elsewhere_is_all_that_trade_it(data):
    said = data.answer("market", {"market": "kraken:ETH-USD"})
    assert {one["exchange"] for one in said["elsewhere"]} == {"kraken", "coinbase"}


def test_at_most_six_markets_are_compared_and_each_once(data):
    names = "kraken:ETH-USD,kraken:ETH-USD,coinbase:ETH-USD,nowhere:X-Y"
    said = data.answer("market", {"market": "kraken:BTC-USD", "compare": names})
    assert [one["link"] for one in said["compared"]] == ["kraken:ETH-USD", "coinbase:ETH-USD"]
    assert "nowhere" in said["hint"]
    drawn = said["value"]["data"]
    assert len(drawn) == 3 and all(one["y"][0] == 0 for one in drawn)


def test_alerts_are_marked_where_they_fired(monitor, table_of):
    fired = NOW - timedelta(minutes=30)
    row = {
        "alert_id": "a",
        "state": "firing",
        "at": fired,
        "rule": "price_3x",
        "market_id": "kraken:kraken:ETH-USD",
    }
    row |= {"measure": "price", "started_at": fired, "fired_at": fired, "severity": "warning"}
    monitor.lake.append("alerts", [Batch("alert", table_of("alerts", [row]))])
    data = PageData(monitor, f"{NOW:%Y-%m-%dT%H:%M:%SZ}")
    said = data.answer("market", {"market": "kraken:ETH-USD"})
    for figure in (said["value"], said["ratio"]):
        lines = [one["x0"] for one in figure["layout"]["shapes"] if one.get("name") == "fired"]
        assert lines == ["2026-07-27 11:30:00"]
    other = data.answer("market", {"market": "coinbase:ETH-USD"})["value"]["layout"]["shapes"]
    assert not [one for one in other if one.get("name") == "fired"]
    assert data.answer("alerts")["history"][0]["pair"] == "ETH-USD"


def test_no_question_of_that_name_is_told(data):
    with pytest.raises(UnknownQuestion, match="no question"):
        data.answer("__class__")


def test_a_snapshot_is_read_once_for_all_who_ask_of_the_same_data(monitor, table_of, monkeypatch):
    data = PageData(monitor, f"{NOW:%Y-%m-%dT%H:%M:%SZ}")
    read = []
    latest = data._readings.latest
    monkeypatch.setattr(data._readings, "latest", lambda: read.append(1) or latest())
    for _ in range(3):
        data.answer("table")
        data.answer("market", {"market": "kraken:BTC-USD"})
    assert len(read) == 1
    monitor.lake.append("ticks", [Batch("more", table_of("ticks", ticks([-1])))])
    data.answer("table")
    assert len(read) == 2


def test_without_data_pages_are_whole_and_empty(local):
    data = PageData(local)
    assert data.answer("overview")["markets"] == 0 and data.answer("market")["empty"]
    assert data.status()["sources"] == []


# ---- the widget, where no server answers


@pytest.fixture
def widget(data):
    page = Dashboard("local", f"{NOW:%Y-%m-%dT%H:%M:%SZ}")
    page.__dict__["data"] = data
    page.sent = []
    page.send = lambda content, *_: page.sent.append(content)
    return page


def test_the_kernel_answers_where_there_is_no_server(widget):
    asked = {"type": "ask", "id": 7, "question": "market", "asked": {"market": "kraken:ETH-USD"}}
    widget._handle(widget, asked, [])
    widget._handle(widget, {"type": "ask", "id": 8, "question": "status"}, [])
    assert [one["id"] for one in widget.sent] == [7, 8]
    assert widget.sent[0]["said"]["market"]["link"] == "kraken:ETH-USD"
    assert len(widget.sent[1]["said"]["sources"]) == 2 and widget.sent[1]["said"]["now"] > 0
    json.dumps(widget._repr_mimebundle_()[0], allow_nan=False)


def test_an_error_is_told_in_the_page_and_ends_the_health_check(widget, monkeypatch):
    def refuse(*_):
        raise ConfigError("no such thing: do another")

    monkeypatch.setattr(widget.data._readings, "price_gaps", refuse)
    assert widget._answered("overview", {}) == {"problem": "no such thing: do another"}
    with pytest.raises(RunError, match="do another"):
        widget.end_marker()
    monkeypatch.setattr(widget.data._readings, "price_gaps", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in widget._answered("overview", {})["problem"]
    monkeypatch.undo()
    assert "complete" in widget.end_marker()._repr_html_()


def test_a_page_under_the_server_reads_nothing_in_its_kernel(monkeypatch):
    monkeypatch.setenv(dashboard.SERVED, "1")
    page = Dashboard("local")
    assert "complete" in page.end_marker()._repr_html_() and "data" not in page.__dict__


# ---- parts


def test_the_rank_follows_the_deviation_of_similar_markets():
    same = {"rank_24h_in_quote": 1.0, "cv_24h": None, "rank_cv_24h": None, "samples": 90, "expected": 1440}
    ranked = [
        {"market_id": id, "stddev_24h": deviation, "rank_24h": place / 3, **same}
        for place, (id, deviation) in enumerate([("CBC", 300.0), ("GOLD", 200.0), ("BNT", 100.0)], 1)
    ]
    card = rank_card(ranked, "BNT", "stddev", {}, "ETH")
    assert (card["place"], card["places"], card["rank_24h"]) == (3, 3, 1.0)
    assert "Not ranked" in rank_card(ranked, "BNT", "cv", {}, "ETH")["says"]
    assert "only spot" in rank_card(ranked, "a future", "stddev", {}, "ETH")["says"]


def test_values_are_rebased_on_the_first_that_is_there():
    assert charts.rebase([None, 0, 50.0, 75.0, None, 25.0]) == [None, -100.0, 0.0, 50.0, None, -50.0]
    assert charts.rebase([None, 0.0]) == [None, None]
