"""The dashboard beside a plain Streamlit, Panel and Dash page: the same charts from the same files, in one run.

At 9,590 markets with 24 h of ticks: seconds from navigation to the first chart with a browser that has nothing and
with one that was here before; to charts that can be touched (ours is a picture first); from Enter on another
market's name, 0.4 s after it was typed, to the frame that shows its chart, by the page's own clock; memory of the
servers for each further viewer; ten viewers at once, until the last has his chart. The pages differ in what else they
show: ours has the search, the same pair elsewhere and the state of the data, the plain ones a text field.

The peers are no dependency: they are installed into .cryptomon/peers when this runs for the first time.
Run: python benchmarks/dashboard.py [rounds] [markets]
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.compute as pc
from metrics import NOW, generate
from playwright.async_api import Browser, Page, async_playwright

from cryptomon_lib import Engine, open_monitor
from cryptomon_lib.config import home
from cryptomon_lib.dashboard_server import free_port, start
from cryptomon_lib.doctor import find_chromium
from cryptomon_lib.latest import keep_latest

PEERS = Path(__file__).parent / "peers"
AS_OF = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
PATIENT_MS = 60_000
READ_MS = 400
VIEWERS = 10
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


@dataclass
class Contender:
    """A page that is served: where, by which process, how its chart is known and another market is asked for."""

    url: str
    pid: int
    end: Callable[[], object]
    drawn: Callable[[Page, str], object]
    shown: str  # the same in the page's own script: market => whether its chart is there
    touchable: Callable[[Page, str], object]
    type: Callable[[Page, str], object]


# ---- pages

OURS_SHOWN = (
    "id => { const p = document.querySelector('.cm-card-value .cm-figure');"
    " return p?.querySelector('.main-svg') ? p.layout?.uirevision?.startsWith(`${id} `)"
    " : p?.querySelector('.cm-sketch') && p.dataset.sketched.startsWith(`${id} `); }"
)
# Panel's charts lie in shadow roots
PLAIN_SHOWN = (
    "id => { const deep = (place) => [...place.querySelectorAll('.gtitle')].some((one) => one.textContent.includes(id))"
    " || [...place.querySelectorAll('*')].some((one) => one.shadowRoot && deep(one.shadowRoot));"
    " return deep(document); }"
)
# from the key's event to the frame in which it is there: what goes between this script and the browser is not in it
WATCH = (
    "market => { const shown = SHOWN; window.redrawn = new Promise((resolve) => {"
    " addEventListener('keydown', ({timeStamp}) => { const look = () => shown(market)"
    " ? resolve(performance.now() - timeStamp) : requestAnimationFrame(look); requestAnimationFrame(look); },"
    " {capture: true, once: true}); }); }"
)


async def ours_drawn(page: Page, market: str) -> None:
    """Until our page shows a market's chart: its picture, or the chart that can be touched."""
    await page.wait_for_function(
        OURS_SHOWN,
        arg=market,
        timeout=PATIENT_MS,
        polling=10,
    )


async def ours_touchable(page: Page, market: str) -> None:
    """Until all charts of our page can be touched."""
    await page.wait_for_function(
        "() => ['value', 'ratio', 'rank'].every((name) =>"
        " document.querySelector(`.cm-card-${name} .cm-figure`)?.querySelector('.main-svg'))",
        timeout=PATIENT_MS,
        polling=10,
    )


async def ours_type(page: Page, market: str) -> None:
    """Name another market in our search."""
    await page.locator(".cm-top .cm-search-input").fill(market)
    await page.locator(f'#cm-suggestions-market [data-market="{market}"]').wait_for(timeout=PATIENT_MS)


async def plain_drawn(page: Page, market: str) -> None:
    """Until a plain page shows a chart that is titled by the market."""
    await page.locator(".gtitle", has_text=market).first.wait_for(timeout=PATIENT_MS)


async def plain_type(page: Page, market: str) -> None:
    """Type another market into a plain page's field."""
    await page.locator("input").first.fill(market)


def contenders(root: str, market: str) -> dict[str, Callable[[], Contender]]:
    """How each is started."""
    plain = os.environ | {
        "CRYPTOMON_ROOT": root,
        "BENCH_MARKET": market,
        "BENCH_AS_OF": AS_OF,
        "PYTHONPATH": os.pathsep.join([str(peers_folder()), str(PEERS), str(home())]),
    }

    def ours() -> Contender:
        server = start(
            "local", 0, env=os.environ | {"CRYPTOMON_ROOT": root}, pool=3, parameters={"as_of": AS_OF}
        )
        server.wait_ready()
        return Contender(
            f"{server.url}/?market={market}",
            server.pid,
            server.stop,
            ours_drawn,
            OURS_SHOWN,
            ours_touchable,
            ours_type,
        )

    def peer(*words: str) -> Contender:
        port = free_port(0)
        command = [sys.executable, *(word.format(port=port) for word in words)]
        process = subprocess.Popen(command, env=plain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def end() -> None:
            process.terminate()
            process.wait(20)

        url = f"http://127.0.0.1:{port}"
        return Contender(url, process.pid, end, plain_drawn, PLAIN_SHOWN, plain_drawn, plain_type)

    return {
        "ours": ours,
        "Streamlit": lambda: peer(
            "-m", "streamlit", "run", str(PEERS / "streamlit_page.py"), "--server.port={port}", "--server.headless=true",
            "--browser.gatherUsageStats=false", "--global.developmentMode=false", "--server.fileWatcherType=none",
        ),
        "Panel": lambda: _at(peer("-m", "panel", "serve", str(PEERS / "panel_page.py"), "--port={port}"), "/panel_page"),
        "Dash": lambda: peer(str(PEERS / "dash_page.py"), "{port}"),
    }  # fmt: skip


def _at(contender: Contender, path: str) -> Contender:
    contender.url += path
    return contender


def peers_folder() -> Path:
    """Where the peers are installed, once."""
    folder = home() / ".cryptomon" / "peers"
    if not folder.is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(folder),
            "streamlit",
            "panel",
            "dash",
        ]
        subprocess.run(command, check=True)
        # of what both have, ours are what is measured
        for name in ("pandas", "numpy", "pyarrow", "plotly"):
            for found in folder.glob(f"{name}*"):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
    return folder


# ---- measuring


async def measure(
    browser: Browser, contender: Contender, markets: list[str], rounds: int
) -> dict[str, float]:
    """Medians of one contender, which serves."""
    cold, touchable, warm, redraw = [], [], [], []
    await _first(browser, contender, markets[0])  # whatever is made once is made
    for number in range(rounds):
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        page = await context.new_page()
        began = time.perf_counter()
        cold.append(await _navigated(page, contender, markets[0]))
        await contender.touchable(page, markets[0])
        touchable.append(time.perf_counter() - began)
        warm.append(await _navigated(page, contender, markets[0]))
        await contender.touchable(page, markets[0])
        await page.wait_for_timeout(1500)
        other = markets[1 + number % (len(markets) - 1)]
        await contender.type(page, other)
        # so long a person looks before the key goes down
        await page.wait_for_timeout(READ_MS)
        await page.evaluate(WATCH.replace("SHOWN", contender.shown), other)
        await page.keyboard.press("Enter")
        await contender.drawn(page, other)
        redraw.append(await page.evaluate("() => window.redrawn"))
        await context.close()
    before = memory_mb(contender.pid)
    contexts = [await browser.new_context() for _ in range(VIEWERS)]
    pages = [await context.new_page() for context in contexts]
    began = time.perf_counter()
    await asyncio.gather(*(_navigated(page, contender, markets[0]) for page in pages))
    together = time.perf_counter() - began
    await asyncio.sleep(3)
    after = memory_mb(contender.pid)
    for context in contexts:
        await context.close()
    return {
        "cold_s": statistics.median(cold),
        "touchable_s": statistics.median(touchable),
        "warm_s": statistics.median(warm),
        "redraw_ms": statistics.median(redraw),
        "viewer_mb": (after - before) / VIEWERS,
        "server_mb": before,
        "ten_s": together,
    }


async def _first(browser: Browser, contender: Contender, market: str) -> None:
    until = time.monotonic() + 90
    while True:
        context = await browser.new_context()
        try:
            await _navigated(await context.new_page(), contender, market)
            return
        except Exception:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)
        finally:
            await context.close()


async def _navigated(page: Page, contender: Contender, market: str) -> float:
    began = time.perf_counter()
    await page.goto(contender.url, wait_until="commit", timeout=PATIENT_MS)
    await contender.drawn(page, market)
    return time.perf_counter() - began


def memory_mb(pid: int) -> float:
    """Proportional memory of a process and all below it, in MB."""
    process = psutil.Process(pid)
    found = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            found += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return found / 2**20


async def run(root: str, markets: list[str], rounds: int) -> None:
    """Print the table."""
    path = find_chromium()
    if path is None:
        sys.exit("no Chromium: install chromium, or google-chrome, and put it on PATH")
    print(
        f"{'':<12}{'cold s':>8}{'touchable':>11}{'warm s':>8}{'redraw ms':>11}{'ten at once s':>15}"
        f"{'MB a viewer':>13}{'server MB':>11}"
    )
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=QUIET)
        for name, begin in contenders(root, markets[0]).items():
            contender = begin()
            try:
                found = await measure(browser, contender, markets, rounds)
            finally:
                contender.end()
            print(
                f"{name:<12}{found['cold_s']:>8.2f}{found['touchable_s']:>11.2f}{found['warm_s']:>8.2f}{found['redraw_ms']:>11.0f}"
                f"{found['ten_s']:>15.1f}{found['viewer_mb']:>13.1f}{found['server_mb']:>11.0f}",
                flush=True,
            )
        await browser.close()


def main(rounds: int, markets: int) -> None:
    """Make the files, and measure."""
    with tempfile.TemporaryDirectory() as name:
        root = generate(Path(name), markets, 1)[1]
        engine = Engine(open_monitor("local", flags={"root": root}), AS_OF)
        keep_latest(engine)
        found = engine.query("select market_id from newest_ticks where price is not null order by market_id")
        ids = [one for one in found["market_id"].to_pylist() if pc.match_substring([one], "usd")[0].as_py()]
        asyncio.run(run(root, ids[: rounds + 1], rounds))


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 5,
        int(sys.argv[2]) if len(sys.argv) > 2 else 9590,
    )
