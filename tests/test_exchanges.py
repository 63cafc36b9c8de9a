"""Each exchange by hand-written payloads: payloads/<exchange>/<endpoint>.json, and beside it what has to come out."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from cryptomon_lib import exchanges
from cryptomon_lib.errors import ConfigError, PayloadError
from cryptomon_lib.payloads import Payload, parse_key
from cryptomon_lib.shape import Instrument
from cryptomon_lib.tables import schema

PAYLOADS = Path(__file__).parent / "payloads"
FILES = sorted(path for path in PAYLOADS.glob("*/*.json") if not path.name.endswith(".expected.json"))
# half a minute after the newest candle of the payloads opened
AT = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC)
SINCE, UNTIL = AT.replace(minute=0, second=0) - timedelta(minutes=5), AT.replace(second=0)
WITH_CANDLES = [name for name in exchanges.names() if hasattr(exchanges.get(name), "candles_request")]


def named(path):
    return f"{path.parent.name}/{path.stem}"


def expected_of(path):
    return json.loads(path.with_suffix(".expected.json").read_text(encoding="utf-8"))


def of_kind(kind):
    files = [path for path in FILES if path.stem.partition("-")[0] == kind]
    return pytest.mark.parametrize("path", files, ids=named)


def flattened(path, route, symbol=None):
    name, expected = path.parent.name, expected_of(path)
    instruments = {one[0]: Instrument(*one) for one in expected.get("instruments", [])}
    payload = Payload("", exchanges.get(name).HOST, route, {}, AT, AT, symbol, path.read_bytes())
    return exchanges.flatten(payload, instruments)


def shown(value):
    return f"{value:%Y-%m-%dT%H:%M:%S}{f'.{value.microsecond // 1000:03d}' if value.microsecond else ''}Z"


def check(found, expected, key):
    rows = [
        {name: shown(value) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in found.rows.to_pylist()
    ]
    assert found.rows.schema == schema(found.table)
    assert found.entries == expected["entries"] == len(rows) + len(found.rejected)
    by_key = {row[key]: row for row in rows}
    assert list(by_key) == [row[key] for row in expected["rows"]]
    for row in expected["rows"]:
        told = {name: by_key[row[key]][name] for name in row}
        assert told == {
            name: pytest.approx(value, rel=1e-14) if isinstance(value, float) else value
            for name, value in row.items()
        }, row[key]


# ---- payloads


@of_kind("tickers")
def test_tickers_become_these_rows_and_no_others(path):
    found = flattened(path, exchanges.get(path.parent.name).TICKERS.partition("?")[0])
    expected = expected_of(path)
    check(found, expected, "market_id")
    rejected = dict(found.rejected)
    assert rejected.keys() == expected["rejected"].keys()
    for name, reason in expected["rejected"].items():
        assert rejected[name].startswith(reason), (name, rejected[name])


@of_kind("tickers")
def test_the_symbols_of_a_payload_are_listed_without_its_rows(path):
    module = exchanges.get(path.parent.name)
    found = flattened(path, module.TICKERS.partition("?")[0])
    listed = module.list_symbols(path.read_bytes())
    symbols = {row["symbol"] for row in found.rows.to_pylist()}
    assert symbols <= {name.rpartition(":")[2] if name not in symbols else name for name in listed}
    assert len(listed) <= found.entries
    with pytest.raises(PayloadError):
        module.list_symbols(b'[["another", "form"]]')


@of_kind("candles")
def test_candles_become_these_rows_and_no_others(path):
    module = exchanges.get(path.parent.name)
    expected = expected_of(path)
    if "route" in expected:
        # the market stands in the route, which only a person asks for
        found = flattened(path, expected["route"])
    else:
        request = module.candles_request(Instrument(*expected["of"]), SINCE, UNTIL)
        found = flattened(path, request.route, request.symbol)
    check(found, expected, "opened_at")
    assert sorted(reason for _, reason in found.rejected) == sorted(expected["rejected"].values())


@of_kind("instruments")
def test_instruments_tell_base_and_quote_apart(path):
    found = exchanges.get(path.parent.name).read_instruments(path.read_bytes())
    assert [msgspec.to_builtins(one) for one in found] == expected_of(path)["instruments"]


@of_kind("error")
def test_an_exchange_s_own_error_is_told_in_its_words(path):
    module = exchanges.get(path.parent.name)
    assert module.refused(path.read_bytes()) == expected_of(path)["refused"]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem.partition("-")[0] != "error"], ids=named
)
def test_data_is_not_taken_for_an_error(path):
    try:
        says = exchanges.get(path.parent.name).refused(path.read_bytes())
    except msgspec.DecodeError:
        says = None
    assert says is None


# ---- every exchange


@pytest.mark.parametrize("name", exchanges.names())
def test_an_exchange_has_its_payloads_here(name):
    module = exchanges.get(name)
    kinds = {path.stem.partition("-")[0] for path in FILES if path.parent.name == name}
    needed = {"tickers", "error"}
    needed |= {"candles"} if hasattr(module, "flatten_candles") else set()
    needed |= {"instruments"} if hasattr(module, "INSTRUMENTS") else set()
    assert needed <= kinds, f"write tests/payloads/{name}/{', '.join(needed - kinds)}.json by hand"


def test_every_payload_here_is_of_an_exchange_and_has_its_expectation():
    assert {path.parent.name for path in FILES} <= set(exchanges.names())
    assert [named(path) for path in FILES if not path.with_suffix(".expected.json").is_file()] == []


@pytest.mark.parametrize("name", exchanges.names())
def test_an_exchange_is_found_by_its_host_and_its_calls_have_keys(name):
    module = exchanges.get(name)
    assert exchanges.by_host(module.HOST) == name
    request = exchanges.request(name, "tickers")
    assert request.url() == f"https://{module.HOST}{module.TICKERS}"
    host, route, query, slot = parse_key(request.key(AT))
    assert (host, slot) == (module.HOST, AT)
    assert route == module.TICKERS.partition("?")[0].rstrip("/") and query == dict(request.query)


@pytest.mark.parametrize("name", WITH_CANDLES)
def test_a_poll_of_candles_asks_for_the_minutes_from_since_to_until(name):
    module, expected = exchanges.get(name), expected_of(PAYLOADS / name / "candles.json")
    one = Instrument(*expected["of"])
    request = module.candles_request(one, SINCE, UNTIL)
    assert request.url() == f"https://{module.HOST}{expected['asked']}"
    assert request.symbol == one.symbol and request.source == name
    # the window follows from the slot: two polls of a slot are the same payload
    later = module.candles_request(one, SINCE - timedelta(minutes=5), UNTIL)
    assert later.key(AT) == request.key(AT)
    # and it is known for what it is when it comes back
    host, route, _, _ = parse_key(request.key(AT))
    body = (PAYLOADS / name / "candles.json").read_bytes()
    back = Payload("", host, route, {}, AT, AT, one.symbol, body)
    assert exchanges.flatten(back).table == "candles"


@pytest.mark.parametrize("name", WITH_CANDLES)
def test_pages_of_candles_cover_a_stretch_once_newest_first(name):
    module, expected = exchanges.get(name), expected_of(PAYLOADS / name / "candles.json")
    one, minute = Instrument(*expected["of"]), timedelta(minutes=1)
    since = UNTIL - 3 * module.CANDLES_MAX * minute
    pages = list(exchanges.candles_pages(name, one, since, AT - 20 * minute, AT))
    assert len({page.key(AT) for page in pages}) == len({page.url() for page in pages}) == len(pages)
    firsts = [datetime.fromtimestamp(page.page, UTC) for page in pages]
    assert firsts == sorted(firsts, reverse=True)
    kept = module.CANDLES_KEPT
    assert firsts[-1] == (since if kept is None else max(since, UNTIL - (kept - 1) * minute))
    lasts = [UNTIL - 20 * minute, *(first - minute for first in firsts)]
    if kept is None or kept > module.CANDLES_MAX:
        lengths = [(last - first) // minute + 1 for first, last in zip(firsts, lasts, strict=False)]
        assert lengths[:-1] == [module.CANDLES_MAX] * (len(pages) - 1) and lengths[-1] <= module.CANDLES_MAX
    else:
        assert len(pages) == 1
    assert list(exchanges.candles_pages(name, one, AT, since, AT)) == []


@pytest.mark.parametrize("name", exchanges.names())
@pytest.mark.parametrize(
    "body", [b"[7]", b'{"result": 7}', b"7", b'"x"', b'{"x": 1}', b"[[]]", b"\xff\xfe", b"{"]
)
def test_a_body_of_another_form_is_a_payload_error_or_has_no_row(name, body):
    module = exchanges.get(name)
    payload = Payload("", module.HOST, module.TICKERS.partition("?")[0], {}, AT, AT, None, body)
    with pytest.raises(PayloadError):
        exchanges.flatten(payload)


def test_a_route_that_nothing_flattens_gives_nothing():
    payload = Payload("", "api.kraken.com", "/0/public/Time", {}, AT, AT, None, b"{}")
    assert exchanges.flatten(payload) is None


@pytest.mark.parametrize("name", WITH_CANDLES)
def test_candles_that_were_asked_for_by_their_route_are_of_no_known_market_and_interval(name):
    path = PAYLOADS / name / "candles.json"
    route = exchanges.get(name).candles_request(Instrument(*expected_of(path)["of"]), SINCE, UNTIL).route
    payload = Payload(
        "x", exchanges.get(name).HOST, route, {"interval": "5m"}, AT, AT, None, path.read_bytes()
    )
    assert exchanges.flatten(payload) is None


def test_the_tickers_of_another_query_are_not_taken_for_all_markets():
    body = (PAYLOADS / "binance" / "tickers.json").read_bytes()
    host, route = exchanges.get("binance").HOST, exchanges.get("binance").TICKERS
    for query, flat in (({}, True), ({"symbol": "BTCUSDT"}, False), ({"type": "MINI"}, False)):
        found = exchanges.flatten(Payload("x", host, route, query, AT, AT, None, body))
        assert (found is not None) is flat, query


def test_an_unknown_exchange_endpoint_or_host_is_named():
    with pytest.raises(ConfigError, match="Did you mean kraken"):
        exchanges.get("krakn")
    with pytest.raises(ConfigError, match="'candles'"):
        exchanges.request("kraken", "candles")
    with pytest.raises(ConfigError, match="'orders'"):
        exchanges.request("kraken", "orders")
    with pytest.raises(PayloadError, match=r"nobody\.example"):
        exchanges.by_host("nobody.example")


def test_any_route_of_an_exchange_can_be_asked_for():
    request = exchanges.request("binance", "/api/v3/depth?symbol=BTCUSDT&limit=5")
    assert request.url("http://h/binance/") == "http://h/binance/api/v3/depth?symbol=BTCUSDT&limit=5"
    assert parse_key(request.key(AT))[1:3] == ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "5"})
