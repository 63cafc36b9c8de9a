"""The dashboard as a viewer has it: a page in a browser, from its own server, on a few markets' data."""

import json
import math
import os
import re
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
import requests
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cryptomon_lib import dashboard, dashboard_server, open_monitor
from cryptomon_lib.doctor import find_chromium
from cryptomon_lib.errors import RunError
from cryptomon_lib.lake import Batch

HOSTILE = "<img src=x onerror=document.title='taken'>"
ETH = "market=kraken:ETH-USD"
HOURS = 3
HOLE = range(60, 80)
PAIRS = {"BTC-USD": 96_000.0, "ETH-USD": 3_400.0, "SOL-USD": 180.0, "ETH-BTC": 0.0354}
CHART, RATIO = ".cm-card-value .main-svg", ".cm-card-ratio .main-svg"
# a page that is not kept ready has a kernel to start and everything to import
PATIENT_MS = 60_000
FIGURE = "document.querySelector('.cm-card-value .cm-figure')"


def kernels_of(server):
    """The command lines of kernels that a server has."""
    psutil = pytest.importorskip("psutil", reason="needs the extra dev")
    lines = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return [line for line in lines if "ipykernel" in line]


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
    monitor = open_monitor("local", flags={"root": str(folder)})
    monitor.lake.append("ticks", [Batch("history", table_of("ticks", ticks(range(HOURS * 60))))])
    run(monitor)
    return folder


def run(monitor):
    """One run's record and its executed notebook, as the runner leaves them, with what should not be run in it."""
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-10_collect-abc123"
    notebook = new_notebook(
        cells=[
            new_markdown_cell("**What came back?** <script>document.title='taken'</script>"),
            new_code_cell(
                "1 + 1", outputs=[new_output("execute_result", {"text/html": "<script>1</script>2"})]
            ),
        ]
    )
    record = {
        "run_id": run_id, "job": "tick", "notebook": "10_collect", "host": "here", "pid": 1, "status": "succeeded",
        "started_at": now.isoformat(), "duration_s": 1.5, "reason": None, "facts": {"stored": 3},
    }  # fmt: skip
    key = f"runs/{now:%Y-%m-%d}/{run_id}"
    monitor.storage.put(f"{key}.ipynb", nbformat.writes(notebook).encode())
    monitor.storage.put(f"{key}.json", json.dumps(record).encode())


def environ(root):
    own = {name: value for name, value in os.environ.items() if not name.startswith("CRYPTOMON_")}
    return own | {"CRYPTOMON_ROOT": str(root)}


@pytest.fixture(scope="module")
def served(root, tmp_path_factory):
    """The dashboard's server on the root."""
    with (
        (tmp_path_factory.mktemp("log") / "server.log").open("w+") as output,
        dashboard_server.start("local", 0, env=environ(root), output=output) as server,
    ):
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def chromium():
    path = find_chromium()
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
        self.page.wait_for_selector(".cm-figure[data-drawn] .main-svg", timeout=PATIENT_MS)

    def _request(self, request):
        if (
            request.url.split(":")[0] in ("http", "https", "ws", "wss")
            and request.url.split("/")[2] != self.host
        ):
            self.faults.append(f"asked {request.url}")

    def market(self, name):
        """Wait until a market is shown, drawn."""
        self.page.wait_for_function(
            "name => [...document.querySelectorAll('.cm h1')].some(h => h.textContent === name && h.offsetParent) "
            "&& !document.querySelector('.cm[aria-busy]') "
            "&& ![...document.querySelectorAll('.cm-figure[data-pending]')].some(figure => figure.offsetParent)",
            arg=name,
            timeout=PATIENT_MS,
        )

    def go(self, name):
        """Open one of the pages."""
        self.page.locator(f".cm-tabs [data-page={name}]").click()
        self.page.wait_for_selector(f".cm-tabs [data-page={name}][aria-current=page]")

    def drawn(self):
        """How often the market's chart was drawn."""
        return int(self.page.locator(".cm-card-value .cm-figure").get_attribute("data-drawn") or 0)


@pytest.fixture(scope="module")
def visit(chromium, served):
    """One viewer, who goes from test to test."""
    found = Visit(chromium, served.url, timezone_id="Asia/Kolkata")
    yield found
    found.context.close()


# ---- in a browser


@pytest.mark.browser
def test_the_first_page_shows_the_market_at_once(visit):
    visit.market("Market")
    assert "simulated" in visit.page.title()
    chart = visit.page.evaluate(
        "document.querySelector('.cm-card-watchlist .cm-figure').data.map(one => one.name)"
    )
    assert {"BTC-USD", "ETH-USD", "SOL-USD"} <= set(chart)
    facts = visit.page.locator(".cm-facts").first.inner_text()
    assert re.search(r"Markets\s+10", facts) and re.search(r"Exchanges\s+3", facts)
    assert visit.page.locator(".cm-breadth").get_attribute("role") == "img"


@pytest.mark.browser
def test_simulated_data_says_so(visit):
    assert visit.page.locator(".cm-simulated").inner_text() == "Simulated data"
    assert "simulated data" in visit.page.locator(".cm-card-watchlist").inner_text()


@pytest.mark.browser
def test_the_same_pair_at_two_prices_is_listed(visit):
    assert "SOL-USD" in visit.page.locator(".cm-list-spikes").inner_text()
    # kraken and coinbase are at the same price here; the source that stopped is not fresh
    assert visit.page.locator(".cm-list-gaps li").count() >= 1


@pytest.mark.browser
def test_the_table_sorts_and_filters_in_the_browser(visit):
    visit.page.wait_for_function("() => document.querySelector('.cm-count')?.textContent === '10 markets'")
    visit.page.locator(".cm-filter").fill("usd coinbase")
    assert visit.page.locator(".cm-card-table .cm-count").inner_text() == "3 of 10 markets"
    visit.page.locator("[data-sort=price]").click()
    pairs = visit.page.locator(".cm-table .cm-pair").all_inner_texts()
    assert pairs == ["BTC-USD", "ETH-USD", "SOL-USD"]
    visit.page.locator("[data-sort=price]").click()
    assert visit.page.locator(".cm-table .cm-pair").all_inner_texts() == pairs[::-1]
    visit.page.locator(".cm-filter").fill("")


@pytest.mark.browser
def test_what_is_above_three_times_its_mean_opens_its_market(visit):
    visit.page.locator(".cm-list-spikes .cm-line", has_text="SOL-USD").first.click()
    visit.market("SOL-USD")
    assert "market=" in visit.page.url and "measure=spread_bps" in visit.page.url


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
def test_a_market_that_the_search_marks_is_asked_for_before_it_is_picked(visit):
    asked = []

    def note(request):
        if "/data/market" in request.url:
            asked.append(request.url)

    visit.page.on("request", note)
    visit.page.keyboard.press("/")
    with visit.page.expect_response(lambda answer: "/data/market" in answer.url and "BTC" in answer.url):
        visit.page.keyboard.type("kraken:BTC-USD")
    before = len(asked)
    visit.page.keyboard.press("Enter")
    visit.market("BTC-USD")
    visit.page.remove_listener("request", note)
    assert len(asked) == before


@pytest.mark.browser
def test_a_pasted_market_id_is_found(visit):
    market_id = "kraken:kraken:ETH-USD"
    visit.page.locator(".cm-top .cm-search-input").fill(market_id)
    assert visit.page.locator("[role=option]").first.get_attribute("data-market") == market_id
    visit.page.keyboard.press("Enter")
    visit.market("ETH-USD")


def labels(page, selector):
    """What stands at the value axis of the first chart, by its words, and how high."""
    found = page.locator(selector).evaluate_all(
        "all => all.map(one => [one.textContent, one.getBoundingClientRect().y])"
    )
    return {says: y for says, y in found if re.fullmatch(r"[−\d.,]+[kMμ]?( %)?", says)}


@pytest.mark.browser
@pytest.mark.parametrize(
    "asked",
    ["page=overview", *(ETH + more for more in ("", "&kind=candles&window=6h", "&compare=kraken:BTC-USD"))],
)  # fmt: skip
def test_the_first_chart_is_a_picture_that_waits_for_no_library(chromium, served, asked):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, faults, held = context.new_page(), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.route("**/plotly.js*", lambda route: held.append(route))  # playwright marks what it is given
    with page.expect_request("**/plotly.js*", timeout=PATIENT_MS):
        page.goto(f"{served.url}/?{asked}", wait_until="commit")
        figure = f".cm-card-{'watchlist' if 'overview' in asked else 'value'} .cm-figure"
        page.wait_for_selector(f"{figure} .cm-sketch", timeout=PATIENT_MS)
    picture = labels(page, f"{figure} .cm-sketch text")
    shapes = page.locator(f"{figure} .cm-sketch svg > *").count()
    # the library arrives, and the chart takes the picture's place
    for route in held:
        route.continue_()
    page.wait_for_selector(f"{figure}[data-drawn] .main-svg", timeout=PATIENT_MS)
    chart = labels(page, f"{figure} .ytick text, {figure} .y2tick text")
    left = page.locator(".cm-sketch").count()
    context.close()
    assert faults == [] and left == 0 and shapes >= 1
    same = picture.keys() & chart.keys()
    assert len(same) >= 2 and all(abs(picture[says] - chart[says]) < 8 for says in same), (picture, chart)


@pytest.mark.browser
def test_the_line_at_three_times_the_mean_is_drawn(visit):
    shapes = visit.page.evaluate("document.querySelector('.cm-card-ratio .cm-figure').layout.shapes")
    assert [shape["y0"] for shape in shapes if shape.get("name") == "threshold"] == [3]
    assert "alert above 3×" in visit.page.locator(".cm-card-ratio").inner_text()


@pytest.mark.browser
def test_another_measure_and_window_redraw_and_stand_in_the_address(visit):
    visit.page.locator("[data-choice=price]").click()
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-card-value h2').textContent.startsWith('Price in USD, 24 h')"
    )
    assert visit.page.locator("[data-choice=price]").get_attribute("aria-checked") == "true"
    visit.page.locator("[data-choice='6h']").click()
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-card-value h2').textContent.startsWith('Price in USD, 6 h')"
    )
    assert "measure=price" in visit.page.url and "window=6h" in visit.page.url


@pytest.mark.browser
def test_a_hole_in_the_data_is_a_hole_in_the_line(visit):
    broken = visit.page.evaluate(f"{FIGURE}.data[0].y.filter(value => value === null).length")
    assert broken == 1


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
def test_candles_take_the_place_of_the_line_and_csv_holds_what_is_drawn(visit):
    visit.page.locator("[data-choice=candles]").click()
    visit.page.wait_for_function(f"() => {FIGURE}.data[0].type === 'candlestick'")
    visit.page.locator("[data-choice=line]").click()
    visit.page.wait_for_function(f"() => {FIGURE}.data[0].type === 'scatter'")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    points = visit.page.evaluate(f"{FIGURE}.data[0].y.filter(value => value !== null).length")
    assert lines[0] == "series,at_utc,value" and len(lines) == points + 1
    assert download.value.suggested_filename == "kraken_ETH-USD_price_6h.csv"


@pytest.mark.browser
def test_several_markets_are_compared_and_one_is_let_go_again(visit):
    box = visit.page.get_by_label("Compare with another market")
    box.fill("btc usd co")
    visit.page.locator("#cm-suggestions-compare [role=option]").first.wait_for()
    box.press("Enter")
    visit.page.wait_for_function(f"() => {FIGURE}.data.length === 2 && {FIGURE}.data[0].y[0] === 0")
    assert "compare=coinbase" in visit.page.url
    visit.page.locator(".cm-chip").click()
    visit.page.wait_for_function("() => !document.querySelector('.cm-chip')")
    assert "compare" not in visit.page.url


@pytest.mark.browser
def test_the_rank_counts_the_spot_markets_and_the_same_pair_is_shown_elsewhere(visit):
    assert re.search(r"\d+ of 10", visit.page.locator(".cm-place").inner_text())
    assert visit.page.locator(".cm-card-rank .main-svg").count() > 0
    visit.page.get_by_role("button", name="Relative").click()
    visit.page.wait_for_selector(".cm-by [aria-pressed=true]:has-text('Relative')")
    visit.page.locator(".cm-card-elsewhere .cm-pick", has_text="coinbase").click()
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-market-where').textContent.startsWith('coinbase')"
    )


@pytest.mark.browser
def test_back_is_where_the_viewer_was(visit):
    visit.page.go_back()
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-market-where').textContent.startsWith('kraken')"
    )


@pytest.mark.browser
def test_a_hostile_market_name_stays_text(visit):
    visit.page.locator(".cm-top .cm-search-input").fill("img")
    visit.page.locator("#cm-suggestions-market [role=option]").first.wait_for()
    assert visit.page.locator(".cm-option-pair").first.inner_text() == HOSTILE
    visit.page.keyboard.press("Enter")
    visit.market(HOSTILE)
    visit.page.wait_for_selector(".cm-card-rank .main-svg")
    assert visit.page.locator("img").count() == 0 and visit.page.title() != "taken"


@pytest.mark.browser
def test_a_source_that_stopped_is_named_as_old(visit):
    banner = visit.page.locator("[data-kind=stale]")
    assert re.match(r"halted is \d+ min old; the other sources are current", banner.inner_text())


@pytest.mark.browser
def test_new_data_arrives_by_itself_and_leaves_the_zoom(visit, root, table_of):
    visit.page.evaluate(f"Plotly.relayout({FIGURE}, {{'yaxis.range': [0.9, 1.3], 'yaxis.autorange': false}})")
    before = visit.drawn()
    lake = open_monitor("local", flags={"root": str(root)}).lake
    newest = datetime.now(UTC).replace(second=30, microsecond=0)
    lake.append("ticks", [Batch("the next", table_of("ticks", ticks([0], newest)))])
    visit.page.wait_for_function(
        f"before => Number({FIGURE}.dataset.drawn) > before", arg=before, timeout=30_000
    )
    assert visit.page.evaluate(f"{FIGURE}.layout.yaxis.range") == [0.9, 1.3]


@pytest.mark.browser
def test_an_unknown_market_is_told_and_another_one_shown(visit):
    visit.page.goto(f"http://{visit.host}/?market=%3Cb%3EBTC%3C/b%3E", wait_until="commit")
    hint = visit.page.locator("[data-kind=hint]")
    hint.wait_for(timeout=PATIENT_MS)
    assert "No market is called '<b>BTC</b>'" in hint.inner_text()
    visit.market("BTC-USD")


@pytest.mark.browser
def test_operations_list_what_ran(visit):
    visit.go("operations")
    visit.page.wait_for_function("() => document.querySelector('.cm-card-storage .cm-figure[data-drawn]')")
    assert "10_collect" in visit.page.locator(".cm-runs").inner_text()
    assert "stale" in visit.page.locator(".cm-card-health .cm-source-stale").inner_text()
    with visit.context.expect_page() as opened:
        visit.page.locator(".cm-runs a", has_text="read").first.click()
    opened.value.wait_for_load_state()
    assert "What came back?" in opened.value.locator("body").inner_text()
    assert opened.value.locator("script").count() == 0
    opened.value.close()


@pytest.mark.browser
def test_another_threshold_is_tried_with_a_slider(visit):
    visit.go("alerts")
    visit.page.wait_for_selector(".cm-card-threshold .main-svg", timeout=PATIENT_MS)
    assert "it would" in visit.page.locator(".cm-told").inner_text()
    visit.page.locator(".cm-slider").fill("5")
    visit.page.wait_for_function(
        "() => document.querySelector('.cm-told').textContent.startsWith('Above 5×')"
    )
    shapes = visit.page.evaluate("document.querySelector('.cm-card-threshold .cm-figure').layout.shapes")
    assert [shape["y0"] for shape in shapes if shape.get("name") == "threshold"] == [5]


@pytest.mark.browser
@pytest.mark.parametrize("name", ["overview", "market", "alerts", "operations"])
def test_it_fits_a_phone(visit, name):
    visit.page.set_viewport_size({"width": 360, "height": 740})
    visit.go(name)
    visit.page.wait_for_function("() => !document.querySelector('.cm[aria-busy]')")
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.page.locator(".cm-top .cm-search-input").is_visible()
    visit.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.browser
def test_dark_is_dark_in_page_and_charts(visit):
    visit.go("market")
    visit.page.wait_for_selector(".cm-card-value .main-svg")
    visit.page.emulate_media(color_scheme="dark")
    visit.page.wait_for_function(f"() => {FIGURE}.layout.template.layout.paper_bgcolor === '#151b24'")
    assert (
        visit.page.evaluate("getComputedStyle(document.querySelector('.cm-card')).backgroundColor")
        == "rgb(21, 27, 36)"
    )
    visit.page.emulate_media(color_scheme="light")


@pytest.mark.browser
def test_a_lost_connection_is_told_and_mends_by_itself(visit):
    faults = list(visit.faults)
    visit.context.route("**/cryptomon/data/**", lambda route: route.abort())
    visit.page.wait_for_selector("[data-kind=gone]:has-text('no longer changes')", timeout=60_000)
    visit.context.unroute("**/cryptomon/data/**")
    visit.page.wait_for_selector("[data-kind=gone]", state="detached", timeout=60_000)
    # what was made to fail here is no fault of the page
    visit.faults[:] = faults


@pytest.mark.browser
def test_nothing_was_asked_of_another_host_and_the_console_is_clean(visit):
    assert visit.faults == []


@pytest.mark.browser
def test_two_viewers_at_once_see_what_each_asked_for_and_no_kernel_is_kept_for_them(chromium, served):
    links = {"coinbase:SOL-USD": "spread_bps", "kraken:ETH-BTC": "price"}
    visits = [
        Visit(
            chromium,
            f"{served.url}/?market={market}&measure={measure}",
            viewport={"width": 390, "height": 844},
        )
        for market, measure in links.items()
    ]
    for one, (market, measure) in zip(visits, links.items(), strict=True):
        one.market(market.partition(":")[2])
        assert one.page.locator(".cm-market-where").inner_text().startswith(market.partition(":")[0])
        assert one.page.locator(f"[data-choice={measure}]").get_attribute("aria-checked") == "true"
        assert one.faults == []
    # one execution of the notebook served them both, and its kernel has ended
    until = time.monotonic() + 15
    while (left := kernels_of(served)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []
    for one in visits:
        one.context.close()


# ---- without a browser


def test_the_page_is_whole_and_its_health_says_so(served):
    assert dashboard_server.check(served.url) > 0
    health = requests.get(f"{served.url}/health", timeout=60)
    assert health.status_code == 200 and health.json()["healthy"]


def test_a_question_is_answered_packed_and_what_cannot_be_is_told(served):
    answer = requests.get(f"{served.url}/cryptomon/data/market?market=kraken:BTC-USD", timeout=60)
    assert answer.headers["Content-Encoding"] == "gzip" and answer.json()["market"]["market_id"].startswith(
        "kraken"
    )
    unknown = requests.get(f"{served.url}/cryptomon/data/nothing", timeout=60)
    assert unknown.status_code == 404 and "no question" in unknown.json()["problem"]
    for path in (
        "cryptomon/run/..%2f..%2fetc%2fpasswd",
        "cryptomon/run/20260101T000000Z-none",
        "cryptomon/data/../x",
    ):
        assert requests.get(f"{served.url}/{path}", timeout=60).status_code == 404


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
        assert dashboard_server.END_MARK in page
        assert viewer.get(f"{server.url}/cryptomon/data/overview", timeout=60).json()["markets"] == 0
        refused = requests.get(f"{server.url}/cryptomon/data/overview", timeout=60, allow_redirects=False)
        assert refused.status_code in (302, 403)
        processes = psutil.Process(server.pid).children(recursive=True)
    finally:
        server.process.send_signal(signal.SIGINT)
    assert server.wait(90) == 0
    assert psutil.wait_procs(processes, timeout=60)[1] == []


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
