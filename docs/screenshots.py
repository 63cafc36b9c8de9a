"""The pictures of README and docs, from a fresh run on the simulated exchange: `make screenshots`.

Fills 24 hours in a folder of its own, runs some ticks so that alerts fire and notebooks are there to read, and takes
each page at desktop and phone width, light and dark.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from cryptomon_lib.doctor import find_chromium

HERE = Path(__file__).resolve().parent
TICKS = 4
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
# file: what the address names, width, colour scheme, the chart that has to be there
SHOTS = {
    "overview": ("", DESKTOP, "light", ".cm-card-watchlist"),
    "overview-dark": ("", DESKTOP, "dark", ".cm-card-watchlist"),
    "overview-phone": ("", PHONE, "light", ".cm-card-watchlist"),
    "market": ("?market=kraken:ETH-USD&measure=volume_1m&window=24h", DESKTOP, "light", ".cm-card-ratio"),
    "market-candles-dark": ("?market=kraken:BTC-USD&window=6h&kind=candles", DESKTOP, "dark", ".cm-card-value"),
    "market-phone": ("?market=kraken:BTC-USD", PHONE, "dark", ".cm-card-value"),
    "compare": ("?market=kraken:BTC-USD&compare=kraken:ETH-USD,kraken:SOL-USD", DESKTOP, "light", ".cm-card-value"),
    "alerts": ("?page=alerts", DESKTOP, "light", ".cm-card-threshold"),
    "operations": ("?page=operations", DESKTOP, "light", ".cm-card-storage"),
}  # fmt: skip


def main() -> None:
    """Run everything, take the pictures, end everything."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("no Chromium: install chromium, or google-chrome, and put it on PATH")
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "cryptomon_lib.cli", "up"]
        running = subprocess.Popen(
            command,
            env=os.environ | {"CRYPTOMON_ROOT": root, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = _ready(running)
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                for name, (asked, size, scheme, chart) in SHOTS.items():
                    context = browser.new_context(viewport=size, color_scheme=scheme, timezone_id="UTC")
                    page = context.new_page()
                    page.goto(f"{url}/{asked}")
                    page.wait_for_selector(f"{chart} .cm-figure[data-drawn] .main-svg", timeout=60_000)
                    page.wait_for_timeout(2500)
                    page.screenshot(path=HERE / f"{name}.png", full_page=size is DESKTOP)
                    context.close()
                    print(f"docs/{name}.png")
                browser.close()
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(60)


def _ready(running: subprocess.Popen) -> str:
    """The dashboard's address, after some ticks."""
    url, ticks, until = "", 0, time.monotonic() + 900
    for line in running.stdout:
        found = re.search(r"Open (http://\S+)", line)
        url, ticks = found[1] if found else url, ticks + ("tick:" in line)
        if url and ticks >= TICKS:
            return url
        if time.monotonic() > until:
            break
    sys.exit("the monitor did not get so far; run `make run` to see why")


if __name__ == "__main__":
    main()
