"""The dashboard as a viewer has it: a page in a browser, from its own server, on a few markets' data."""

import json
import math
import os
import re
import shutil
import signal
import socket
from datetime import UTC, datetime, timedelta

import pytest
import requests

from cryptomon_lib import dashboard, dashboard_server, open_monitor
from cryptomon_lib.dashboard import Dashboard
from cryptomon_lib.errors import ConfigError, RunError
from cryptomon_lib.lake import Batch

HOSTILE = "<img src=x onerror=document.title='taken'>"
HOURS = 3
HOLE = range(60, 80)
PAIRS = {"BTC-USD": 96_000.0, "ETH-USD": 3_400.0, "SOL-USD": 180.0, "ETH-BTC": 0.0354}
CHART, RATIO = ".cm-card-value .main-svg", ".cm-card-ratio .main-svg"
# a page that is not kept ready has a kernel to start and everything to import
PATIENT_MS = 60_000
FIGURE = "document.querySelector('.cm-card-value .cm-figure')"


def browser_path():
    """A Chromium that is on this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def ticks(minutes, newest=None):
    """Rows of four pairs on two exchanges, one hostile market and a source that stopped ten minutes ago."""
    newest = newest or datetime.now(UTC).replace(second=0, microsecond=0)
    rows = []
    for back in minutes:
        at = newest - timedelta(minutes=back)
        for place, (pair, price) in enumerate(PAIRS.items(), 1):
            wave = 1 + 0.01 * place * math.sin(back / 20)
            # spread_bps is what spikes: the newest is ten times as wide as the hour before
            spread = 1e-3 if back == 0 and pair == "SOL-USD" else 1e-4
            for source in ("kraken", "coinbase"):
                if source == "kraken" and back in HOLE:
                    continue
                rows.append(tick(f"{source}:{source}:{pair}", at, price * wave, spread, price * 1e4 / place))
        rows.append(
            tick(
                f"kraken:kraken:{HOSTILE}",
                at,
                1.0 + back / 1000,
                1e-4,
                1.0,
                market=HOSTILE,
                base="X",
                quote="USD",
            )
        )
        if back > 10:
            rows.append(tick("halted:halted:BTC-USD", at, 95_000.0, 1e-4, 5.0))
    return rows


def tick(market_id, at, price, spread, volume, **columns):
    bid_ask = {"bid": price * (1 - spread / 2), "ask": price * (1 + spread / 2)}
    volumes = {"volume_24h": volume / price, "quote_volume_24h": volume}
    return {"market_id": market_id, "collected_at": at, "price": price, **bid_ask, **volumes, **columns}


@pytest.fixture(scope="module")
def root(tmp_path_factory, table_of):
    """Three hours of ticks up to this minute."""
    folder = tmp_path_factory.mktemp("dashboard") / "root"
    lake = open_monitor("local", flags={"root": str(folder)}).lake
    lake.append("ticks", [Batch("history", table_of("ticks", ticks(range(HOURS * 60))))])
    return folder


def environ(root):
    own = {name: value for name, value in os.environ.items() if not name.startswith("CRYPTOMON_")}
    return own | {"CRYPTOMON_ROOT": str(root)}


@pytest.fixture(scope="module")
def served(root, tmp_path_factory):
    """The dashboard's server on the root, one page kept ready."""
    with (
        (tmp_path_factory.mktemp("log") / "server.log").open("w+") as output,
        dashboard_server.start("local", 0, env=environ(root), pool=1, output=output) as server,
    ):
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def chromium():
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium: install chromium, or google-chrome, and put it on PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser, and what it did that it should not."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.page = self.context.new_page()
        self.host, self.faults = url.split("/")[2], []
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(url, wait_until="commit")
        self.page.wait_for_selector(CHART, timeout=PATIENT_MS)

    def _request(self, request):
        if (
            request.url.split(":")[0] in ("http", "https", "ws", "wss")
            and request.url.split("/")[2] != self.host
        ):
            self.faults.append(f"asked {request.url}")

    def market(self, name):
        """Wait until a market is shown, drawn."""
        self.page.wait_for_function(
            "name => document.querySelector('.cm h1')?.textContent === name && !document.querySelector('.cm[aria-busy]')",
            arg=name,
            timeout=PATIENT_MS,
        )

    def drawn(self):
        """How often the chart was drawn."""
        return int(self.page.locator(".cm-card-value .cm-figure").get_attribute("data-drawn") or 0)


@pytest.fixture(scope="module")
def visit(chromium, served):
    """One viewer, who goes from test to test."""
    found = Visit(chromium, served.url, timezone_id="Asia/Kolkata")
    yield found
    found.context.close()


# ---- in a browser


@pytest.mark.browser
def test_the_first_page_shows_a_chart_of_the_first_market_of_the_watchlist(visit):
    visit.market("BTC-USD")
    assert visit.page.locator(".cm-market-where").inner_text().startswith(("kraken", "coinbase"))
    assert visit.page.locator(RATIO).count() > 0
    assert "BTC-USD" in visit.page.title() and "simulated" in visit.page.title()


@pytest.mark.browser
def test_simulated_data_says_so(visit):
    assert visit.page.locator(".cm-simulated").inner_text() == "Simulated data"
    assert "simulated data" in visit.page.locator(".cm-card-value").inner_text()


@pytest.mark.browser
def test_the_line_at_three_times_the_mean_is_drawn(visit):
    shapes = visit.page.evaluate("document.querySelector('.cm-card-ratio .cm-figure').layout.shapes")
    assert [shape["y0"] for shape in shapes if shape.get("name") == "threshold"] == [3]
    assert "alert above 3×" in visit.page.locator(".cm-card-ratio").inner_text()


@pytest.mark.browser
def test_times_are_the_viewers_with_utc_on_hover(visit):
    assert re.search(r"Asia/(Kolkata|Calcutta), UTC\+5:30", visit.page.locator(".cm-card-value").inner_text())
    drawing = visit.page.locator(".cm-card-value .nsewdrag").first
    box = drawing.bounding_box()
    # away from the middle, where the data has its hole; a first move lets plotly know of the pointer
    drawing.hover(position={"x": box["width"] * 0.75, "y": box["height"] / 2})
    drawing.hover(position={"x": box["width"] * 0.76, "y": box["height"] / 2})
    visit.page.locator(".cm-card-value .hovertext").first.wait_for()
    shown = visit.page.locator(".cm-card-value .hoverlayer").text_content()
    hour, minute = map(int, re.search(r"[A-Z][a-z]{2} (\d\d):(\d\d)", shown).groups())
    utc_hour, utc_minute = map(int, re.search(r"(\d\d):(\d\d) UTC", shown).groups())
    assert (hour * 60 + minute - utc_hour * 60 - utc_minute) % 1440 == 5 * 60 + 30


@pytest.mark.browser
def test_a_market_is_found_by_a_few_letters_and_drawn(visit):
    before = visit.drawn()
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("eth usd kr")
    visit.page.locator("[role=option]").first.wait_for()
    assert "ETH-USD" in visit.page.locator("[role=option]").first.inner_text()
    visit.page.keyboard.press("Enter")
    visit.market("ETH-USD")
    assert visit.drawn() > before
    assert "market=kraken%3AETH-USD" in visit.page.url


@pytest.mark.browser
def test_a_hole_in_the_data_is_a_hole_in_the_line(visit):
    broken = visit.page.evaluate(f"{FIGURE}.data[0].y.filter(value => value === null).length")
    assert broken == 1


@pytest.mark.browser
def test_another_measure_redraws_and_stands_in_the_address(visit):
    visit.page.locator("[data-measure=spread_bps]").click()
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-card-value h2').textContent.startsWith('Spread in bps')"
    )
    assert "measure=spread_bps" in visit.page.url
    assert visit.page.locator("[data-measure=spread_bps]").get_attribute("aria-checked") == "true"


@pytest.mark.browser
def test_what_is_above_three_times_its_mean_is_listed_and_opens(visit):
    spike = visit.page.locator(".cm-spike", has_text="SOL-USD").first
    assert "10.0×" in spike.inner_text() or float(re.search(r"([\d.]+)×", spike.inner_text())[1]) > 3
    spike.click()
    visit.market("SOL-USD")


@pytest.mark.browser
def test_the_rank_counts_the_spot_markets_and_draws_the_neighbours(visit):
    assert re.search(r"\d+ of 10", visit.page.locator(".cm-place").inner_text())
    assert visit.page.locator(".cm-card-rank .main-svg").count() > 0
    visit.page.get_by_role("button", name="Relative").click()
    visit.page.wait_for_selector(".cm-by [aria-pressed=true]:has-text('Relative')")


@pytest.mark.browser
def test_the_table_sorts_and_filters_in_the_browser(visit):
    visit.page.locator(".cm-filter").fill("usd coinbase")
    assert visit.page.locator(".cm-count").inner_text() == "3 of 10 markets"
    visit.page.locator("[data-sort=price]").click()
    pairs = visit.page.locator(".cm-table .cm-pair").all_inner_texts()
    assert pairs == ["BTC-USD", "ETH-USD", "SOL-USD"]
    visit.page.locator("[data-sort=price]").click()
    assert visit.page.locator(".cm-table .cm-pair").all_inner_texts() == pairs[::-1]
    visit.page.locator(".cm-filter").fill("")


@pytest.mark.browser
def test_a_hostile_market_name_stays_text(visit):
    visit.page.locator(".cm-search-input").fill("img")
    visit.page.locator("[role=option]").first.wait_for()
    assert visit.page.locator(".cm-option-pair").first.inner_text() == HOSTILE
    visit.page.keyboard.press("Enter")
    visit.market(HOSTILE)
    visit.page.wait_for_selector(".cm-card-rank .main-svg")
    assert visit.page.locator("img").count() == 0 and visit.page.title() != "taken"


@pytest.mark.browser
def test_a_source_that_stopped_is_named_as_old(visit):
    banner = visit.page.locator("[data-kind=stale]")
    assert re.match(r"halted is \d+ min old; the other sources are current", banner.inner_text())
    assert "stale" in visit.page.locator(".cm-source-stale").inner_text()


@pytest.mark.browser
def test_new_data_arrives_by_itself_and_leaves_the_zoom(visit, root, table_of):
    visit.page.evaluate(f"Plotly.relayout({FIGURE}, {{'yaxis.range': [0.9, 1.3], 'yaxis.autorange': false}})")
    before = visit.drawn()
    lake = open_monitor("local", flags={"root": str(root)}).lake
    newest = datetime.now(UTC).replace(second=30, microsecond=0)
    lake.append("ticks", [Batch("the next", table_of("ticks", ticks([0], newest)))])
    visit.page.wait_for_function(
        f"before => Number({FIGURE}.dataset.drawn) > before",
        arg=before,
        timeout=20_000,
    )
    assert visit.page.evaluate(f"{FIGURE}.layout.yaxis.range") == [
        0.9,
        1.3,
    ]


@pytest.mark.browser
def test_it_fits_a_phone(visit):
    visit.page.set_viewport_size({"width": 360, "height": 740})
    visit.page.wait_for_function("() => document.querySelector('.cm-card-value .main-svg').clientWidth < 360")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.page.locator(".cm-search-input").is_visible()
    visit.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.browser
def test_dark_is_dark_in_page_and_charts(visit):
    visit.page.emulate_media(color_scheme="dark")
    visit.page.wait_for_function(f"() => {FIGURE}.layout.template.layout.paper_bgcolor === '#151b24'")
    assert (
        visit.page.evaluate("getComputedStyle(document.querySelector('.cm-card')).backgroundColor")
        == "rgb(21, 27, 36)"
    )
    visit.page.emulate_media(color_scheme="light")


@pytest.mark.browser
def test_nothing_was_asked_of_another_host_and_the_console_is_clean(visit):
    assert visit.faults == []


@pytest.mark.browser
def test_a_link_opens_its_market_and_an_end_of_its_kernel_is_told(chromium, served):
    psutil = pytest.importorskip("psutil", reason="needs the extra dev")
    link = f"{served.url}/?market=coinbase:SOL-USD&measure=spread_bps"
    visit = Visit(chromium, link, viewport={"width": 390, "height": 844})
    visit.market("SOL-USD")
    assert visit.page.locator(".cm-market-where").inner_text().startswith("coinbase")
    assert visit.page.locator("[data-measure=spread_bps]").get_attribute("aria-checked") == "true"
    visit.page.wait_for_selector(".cm[data-connection=open]")
    kernel = json.loads(visit.page.locator("#cryptomon-kernel").text_content())["kernel_id"]
    for process in psutil.Process(served.pid).children(recursive=True):
        if kernel in " ".join(process.cmdline()):
            process.kill()
    visit.page.wait_for_selector("[data-kind=gone]:has-text('no longer changes')", timeout=20_000)
    visit.context.close()


# ---- without a browser


def test_the_page_is_whole_and_its_health_says_so(served):
    assert dashboard_server.check(served.url) > 0
    health = requests.get(f"{served.url}/health", timeout=60)
    assert health.status_code == 200 and health.json()["healthy"]


def test_the_page_lets_nothing_in_from_another_host(served):
    page = requests.get(f"{served.url}/cryptomon/page.js", timeout=30)
    assert page.status_code == 200
    home = requests.get(f"{served.url}/?template=classic&theme=dark&market=%3Cscript%3E", timeout=60)
    assert "default-src 'self'" in home.headers["Content-Security-Policy"]
    assert "<script>" not in home.text.split("cm-cells")[1] and "//cdn" not in home.text


def test_plotly_comes_once_compressed_and_is_kept(served):
    version = re.search(r"plotly\.js\?v=(\w+)", requests.get(served.url, timeout=60).text)[1]
    script = requests.get(f"{served.url}/cryptomon/plotly.js?v={version}", timeout=30)
    assert "immutable" in script.headers["Cache-Control"] and script.headers["Content-Encoding"] == "gzip"
    assert script.content == dashboard.plotly_script().read_bytes()


def test_it_asks_for_its_token_says_what_to_do_without_data_and_ends_with_its_kernels(tmp_path):
    psutil = pytest.importorskip("psutil", reason="needs the extra dev")
    server = dashboard_server.start("local", 0, token="open sesame", env=environ(tmp_path / "empty"), pool=1)
    try:
        server.wait_ready()
        with pytest.raises(RunError, match="token"):
            dashboard_server.check(server.url)
        viewer = requests.Session()
        login = viewer.get(server.url, timeout=60)
        assert "Log in" in login.text and "jupyter" not in login.text.lower()
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', login.text)[1]
        page = viewer.post(login.url, {"password": "open sesame", "_xsrf": xsrf}, timeout=60).text
        assert dashboard_server.END_MARK in page and '"market_id": []' in page
        processes = psutil.Process(server.pid).children(recursive=True)
        assert processes
    finally:
        server.process.send_signal(signal.SIGINT)
    assert server.wait(30) == 0
    assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_a_taken_port_is_said_and_the_next_is_taken(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dashboard_server.free_port(port) > port
    assert f"port {port} is taken" in caplog.text


def test_nothing_answers_is_said():
    with pytest.raises(RunError, match="does not answer"):
        dashboard_server.check(f"http://127.0.0.1:{dashboard_server.free_port(0)}")


@pytest.fixture(scope="module")
def page(root):
    """The page's state without a page."""
    return Dashboard(open_monitor("local", flags={"root": str(root)}))


def test_an_unknown_market_is_told_and_changes_nothing(page):
    page.show("kraken:BTC-USD", "price")
    page.show("<b>BTC</b>")
    assert "No market is called '<b>BTC</b>'" in page.hint
    assert page.chart["market"]["market_id"] == "kraken:kraken:BTC-USD"
    page.show("kraken:BTC-USD", "no_such")
    assert "No measure is called 'no_such'" in page.hint


def test_a_link_is_the_shortest_name_that_stands_for_the_market(page):
    page.show("coinbase:coinbase:ETH-BTC")
    assert page.chart["market"]["link"] == "coinbase:ETH-BTC"
    assert page.hint == ""


def test_the_rank_follows_the_deviation_of_similar_markets():
    same = {"rank_24h_in_quote": 1.0, "cv_24h": None, "rank_cv_24h": None, "samples": 90, "expected": 1440}
    ranked = [
        {"market_id": id, "stddev_24h": deviation, "rank_24h": place / 3, **same}
        for place, (id, deviation) in enumerate([("CBC", 300.0), ("GOLD", 200.0), ("BNT", 100.0)], 1)
    ]
    card = dashboard.rank_card(ranked, "BNT", "stddev", {}, "ETH")
    assert (card["place"], card["places"], card["rank_24h"]) == (3, 3, 1.0)
    assert "Not ranked" in dashboard.rank_card(ranked, "BNT", "cv", {}, "ETH")["says"]
    assert "only spot" in dashboard.rank_card(ranked, "a future", "stddev", {}, "ETH")["says"]


def test_everything_of_the_page_goes_as_json(page):
    json.dumps(page._repr_mimebundle_()[0], allow_nan=False)


def test_an_error_is_told_in_the_page_and_success_takes_it_away(page, monkeypatch):
    def refuse(*_):
        raise ConfigError("no such thing: do another")

    monkeypatch.setattr(page._readings, "series", refuse)
    page._handle(page, {"type": "show", "market": "coinbase:SOL-USD"}, [])
    assert page.problem == "no such thing: do another"
    with pytest.raises(RunError, match="do another"):
        page.end_marker()
    monkeypatch.setattr(page._readings, "series", lambda *_: 1 / 0)
    page._handle(page, {"type": "show", "market": "coinbase:ETH-USD"}, [])
    assert "ZeroDivisionError" in page.problem
    monkeypatch.undo()
    page._handle(page, {"type": "show", "market": "kraken:BTC-USD"}, [])
    assert page.problem == ""


def test_an_engine_that_cannot_be_had_is_told_in_the_page(tmp_path):
    page = Dashboard(open_monitor("local", flags={"root": str(tmp_path), "engine": "athena"}))
    assert "CRYPTOMON_ENGINE=duckdb" in page.problem


def test_without_data_the_page_is_whole_and_empty(tmp_path):
    page = Dashboard(open_monitor("local", flags={"root": str(tmp_path)}))
    page.show("kraken:BTC-USD")
    assert page.chart == {} and page.table["market_id"] == [] and page.problem == ""
    assert "complete" in page.end_marker()._repr_html_()


def test_a_market_asked_for_before_there_is_data_is_shown_when_there_is(tmp_path, table_of):
    monitor = open_monitor("local", flags={"root": str(tmp_path)})
    page = Dashboard(monitor)
    page.show("coinbase:ETH-USD")
    monitor.lake.append("ticks", [Batch("first", table_of("ticks", ticks(range(3))))])
    page.refresh()
    assert page.chart["market"]["market_id"] == "coinbase:coinbase:ETH-USD"
