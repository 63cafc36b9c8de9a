"""Recorded payloads and one-minute bars, served again over HTTP."""

import gzip
import json

import pytest
import requests

from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.simulator import Simulator

MIDNIGHT_MS = 1_632_787_200_000  # 2021-09-28T00:00:00Z
MINUTES = 1500  # a day and an hour of bars
HOLE = range(1460, 1465)


def keep(path, value):
    """Write a payload as a recording is kept: gzip where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return body


def get(simulator, path, at=None):
    headers = {"X-As-Of": at} if at else {}
    return requests.get(simulator.url + path, headers=headers, timeout=60)


def bars(base, hole=HOLE):
    """Bars whose numbers tell the minute that they belong to."""
    minutes = [minute for minute in range(MINUTES) if minute not in hole]
    return [
        [MIDNIGHT_MS + m * 60_000, base + m, base + m + 2, base + m - 1, base + m + 0.5, 0.25 + m % 7]
        for m in minutes
    ]


def over(rows, first, last):
    """The bars that opened in minutes first to last - 1."""
    return [row for row in rows if MIDNIGHT_MS + first * 60_000 <= row[0] < MIDNIGHT_MS + last * 60_000]


@pytest.fixture
def recordings(tmp_path):
    """A folder of recordings of several exchanges, and what is in them."""
    bodies = {
        "old": keep(
            tmp_path / "kraken/Ticker_assetVersion1__2026-06-24T145720Z.json.gz", b'{"result": {"1":1}}\n'
        ),
        "new": keep(
            tmp_path / "kraken/Ticker_assetVersion1__2026-06-24T150146Z.rebuilt.json.gz", {"result": {"2": 2}}
        ),
        "stats": keep(tmp_path / "coinbase/products_stats__2026-07-27.trimmed.json", {"stats": 1}),
        "products": keep(tmp_path / "coinbase/products__2021-04-17.json.gz", [{"id": "A-B"}]),
        "gate": keep(tmp_path / "gateio/spot_tickers__2022-11-21.rebuilt.json.gz", [{"last": "1"}]),
        "bitstamp": keep(tmp_path / "bitstamp/ticker_all__2026-07.json", [{"last": "2"}]),
        "ingest": keep(
            tmp_path / "cryptowatch/ingest.json.gz", b'{\n "a:b": {"volume": 92161862510000001}\n}\n'
        ),
        "page": keep(tmp_path / "errors/html__403_blocked.html", b"<html>no</html>"),
        "odd": keep(tmp_path / "awkward/bithumb__ticker_all__2019-08-26.json.gz", {"date": "1"}),
    }
    keep(tmp_path / "normalised_oracle/kraken__Ticker__2030-01-01.json.gz", {"never": "this"})
    return tmp_path, bodies


@pytest.fixture
def history(tmp_path):
    """A folder of bars of two Binance markets and one Coinbase market."""
    folder = tmp_path / "history_1m"
    keep(folder / "BTC_USDT-1m.json.gz", bars(42_000))
    keep(folder / "ETH_BTC-1m.json", bars(10, hole=[*HOLE, 1470]))
    names = ("openTimeInMillis", "open", "high", "low", "close", "volume")
    rows = [dict(zip(names, row, strict=True)) | {"productId": "BTC-USD"} for row in bars(42_000)]
    keep(folder / "coinbase_btcusd/BTC-USD-1632787200000-60.json.gz", rows)
    return folder


# ---- recordings


def test_the_newest_recording_that_is_old_enough_is_served_byte_for_byte(recordings):
    folder, bodies = recordings
    with Simulator(replay=folder) as simulator:
        moments = {
            "2026-06-24T15:00:00Z": "old",
            "2026-06-24T15:01:46Z": "new",
            "2020-01-01": "old",
            None: "new",
        }
        for at, name in moments.items():
            answer = get(simulator, "/kraken/0/public/Ticker?assetVersion=1", at)
            assert (answer.status_code, answer.content) == (200, bodies[name]), at


def test_the_words_of_a_name_find_the_route_and_the_longest_name_wins(recordings):
    folder, bodies = recordings
    routes = {
        "/coinbase/products/stats": "stats",
        "/coinbase/products": "products",
        "/gate/api/v4/spot/tickers": "gate",
        "/bitstamp/api/v2/ticker/": "bitstamp",
    }
    with Simulator(replay=folder) as simulator:
        for route, name in routes.items():
            assert get(simulator, route).content == bodies[name], route


def test_a_route_that_was_not_recorded_is_not_found_in_the_exchange_s_own_words(recordings):
    with Simulator(replay=recordings[0]) as simulator:
        missing = [
            get(simulator, path)
            for path in (
                "/coinbase/products/BTC-USD/candles",
                "/kraken/0/public/OHLC?pair=XBTUSD",
                "/gate/x",
                "/okx/x",
            )
        ]
    assert [answer.status_code for answer in missing] == [404] * 4
    assert missing[0].json() == {"message": "NotFound"}


def test_cryptowatch_gets_its_envelope_back_around_the_very_bytes(recordings):
    folder, bodies = recordings
    with Simulator(replay=folder) as simulator:
        body = get(simulator, "/cryptowatch/markets/summaries").content
    assert body.startswith(b'{"result": ' + bodies["ingest"].strip())
    payload = json.loads(body)
    assert payload["result"]["a:b"]["volume"] == 92_161_862_510_000_001
    assert set(payload["allowance"]) == {"cost", "remaining", "upgrade"}


def test_errors_and_awkward_payloads_are_asked_for_by_name_and_keep_their_status(recordings):
    folder, bodies = recordings
    with Simulator(replay=folder) as simulator:
        page = get(simulator, "/errors/html__403_blocked.html")
        odd = get(simulator, "/awkward/bithumb__ticker_all__2019-08-26.json.gz")
        assert (page.status_code, page.content) == (403, bodies["page"])
        assert page.headers["Content-Type"].startswith("text/html")
        assert (odd.status_code, odd.content) == (200, bodies["odd"])
        assert get(simulator, "/errors/../kraken/x").status_code == 404


def test_the_folder_of_one_exchange_is_enough(recordings):
    folder, bodies = recordings
    with Simulator(replay=folder / "kraken") as simulator:
        assert list(simulator.hosts) == ["kraken"]
        assert get(simulator, "/kraken/0/public/Ticker?assetVersion=1").content == bodies["new"]
        assert requests.get(simulator.url, timeout=60).json()["simulated"] is False


def test_nothing_to_replay_is_said_at_once(tmp_path):
    with pytest.raises(SimulatorError, match="not a folder"):
        Simulator(replay=tmp_path / "nowhere")
    with pytest.raises(SimulatorError, match="nothing to replay"):
        Simulator(replay=tmp_path)
    (tmp_path / "BTC_USDT-1m.json").write_text('[{"no": "bars"}]')
    with pytest.raises(SimulatorError, match="cannot read one-minute bars"):
        Simulator(replay=tmp_path)


def test_a_broken_recording_is_the_server_s_error_and_the_others_go_on(recordings):
    folder, bodies = recordings
    (folder / "gateio/spot_tickers__2022-11-21.rebuilt.json.gz").write_bytes(b"not gzip")
    with Simulator(replay=folder) as simulator:
        assert get(simulator, "/gate/api/v4/spot/tickers").status_code == 500
        assert get(simulator, "/coinbase/products").content == bodies["products"]


# ---- bars


@pytest.mark.parametrize("inside", ["", ".."])
def test_a_binance_ticker_is_made_of_the_closed_bars_of_24_hours(history, inside):
    with Simulator(replay=history / inside) as simulator:
        payload = get(simulator, "/binance/api/v3/ticker/24hr", "2021-09-29T00:20:30.500Z").json()
    ticker = {row["symbol"]: row for row in payload}["BTCUSDT"]
    rows = over(bars(42_000), 20, 1460)
    assert len(payload) == 2 and len(rows) == 1440
    assert float(ticker["lastPrice"]) == rows[-1][4] and float(ticker["openPrice"]) == rows[0][1]
    assert float(ticker["highPrice"]) == max(row[2] for row in rows)
    assert float(ticker["lowPrice"]) == min(row[3] for row in rows)
    assert float(ticker["volume"]) == sum(row[5] for row in rows)
    assert float(ticker["quoteVolume"]) == pytest.approx(sum(row[4] * row[5] for row in rows))
    assert float(ticker["priceChange"]) == rows[-1][4] - rows[0][1]
    assert ticker["closeTime"] == MIDNIGHT_MS + 1460 * 60_000 - 1
    assert ticker["bidPrice"] == ticker["askPrice"] == "0.00000000"


def test_a_hole_in_every_market_is_an_exchange_that_is_down(history):
    moments = {"00:20:59": 200, "00:21:00": 503, "00:25:59": 503, "00:26:00": 200}
    with Simulator(replay=history) as simulator:
        for route in ("/binance/api/v3/ticker/24hr", "/coinbase/products/stats"):
            seen = {t: get(simulator, route, f"2021-09-29T{t}Z") for t in moments}
            assert {t: answer.status_code for t, answer in seen.items()} == moments
            assert isinstance(seen["00:21:00"].json(), dict)


def test_a_hole_in_one_market_leaves_it_at_its_newest_bar(history):
    with Simulator(replay=history) as simulator:
        payload = get(simulator, "/binance/api/v3/ticker/24hr", "2021-09-29T00:31:10Z").json()
    closes = {row["symbol"]: row["closeTime"] for row in payload}
    assert closes == {"BTCUSDT": MIDNIGHT_MS + 1471 * 60_000 - 1, "ETHBTC": MIDNIGHT_MS + 1470 * 60_000 - 1}


def test_klines_are_the_closed_bars_and_none_of_the_hole(history):
    start = MIDNIGHT_MS + 1455 * 60_000
    path = f"/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1000&startTime={start}"
    everything = "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=0"
    with Simulator(replay=history) as simulator:
        rows = get(simulator, path, "2021-09-29T00:30:59Z").json()
        early = get(simulator, everything, "2021-09-29T00:30:59Z").json()
    expected = over(bars(42_000), 1455, 1470)
    assert [row[0] for row in rows] == [row[0] for row in expected]
    assert [[float(number) for number in row[1:6]] for row in rows] == [row[1:6] for row in expected]
    assert early[0][0] == MIDNIGHT_MS and len(early) == 500


def test_coinbase_bars_are_served_as_coinbase_serves_them(history):
    with Simulator(replay=history) as simulator:
        stats = get(simulator, "/coinbase/products/stats", "2021-09-28T12:00:00Z").json()
        candles = get(
            simulator, "/coinbase/products/BTC-USD/candles?granularity=60", "2021-09-28T12:00:00Z"
        ).json()
        products = get(simulator, "/coinbase/products", "2021-09-28T12:00:00Z").json()
    rows = over(bars(42_000), 0, 720)
    volume = sum(row[5] for row in rows)
    day = {"open": "42000", "high": "42721", "low": "41999", "last": "42719.5", "volume": f"{volume:g}"}
    assert stats == {"BTC-USD": {"stats_24hour": day}}
    assert candles[0] == [MIDNIGHT_MS // 1000 + 719 * 60, 42_718, 42_721, 42_719, 42_719.5, rows[-1][5]]
    assert [product["id"] for product in products] == ["BTC-USD"]


def test_the_list_of_symbols_names_base_and_quote(history):
    with Simulator(replay=history) as simulator:
        info = get(simulator, "/binance/api/v3/exchangeInfo", "2021-09-29T00:22:00Z").json()
        unknown = get(simulator, "/binance/api/v3/klines?symbol=NOPE&interval=1m", "2021-09-29T00:22:00Z")
    assert [(s["baseAsset"], s["quoteAsset"], s["status"]) for s in info["symbols"]] == [
        ("BTC", "USDT", "TRADING"),
        ("ETH", "BTC", "TRADING"),
    ]
    assert unknown.json() == {"code": -1121, "msg": "Invalid symbol."}


def test_recordings_answer_for_the_times_that_bars_do_not_reach(history):
    recorded = keep(history.parent / "binance/ticker_24hr__2019-08-22.json.gz", [{"symbol": "OLD"}])
    with Simulator(replay=history.parent) as simulator:
        path = "/binance/api/v3/ticker/24hr"
        assert get(simulator, path, "2020-01-01T00:00:00Z").content == recorded
        assert get(simulator, path, "2022-01-01T00:00:00Z").content == recorded
        assert len(get(simulator, path, "2021-09-28T12:00:00Z").json()) == 2
        assert get(simulator, path, "2021-09-29T00:22:00Z").status_code == 503


def test_bars_alone_are_down_outside_their_time(history):
    with Simulator(replay=history) as simulator:
        assert get(simulator, "/binance/api/v3/ticker/24hr").status_code == 503
        assert get(simulator, "/binance/api/v3/exchangeInfo").status_code == 200


def test_a_replay_can_be_spoiled_too(recordings):
    with Simulator(
        replay=recordings[0], faults=[{"kind": "429", "exchange": "gate", "retry_after": 3}]
    ) as simulator:
        answer = get(simulator, "/gate/api/v4/spot/tickers")
    assert answer.status_code == 429 and answer.headers["Retry-After"] == "3"
