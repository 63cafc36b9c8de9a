"""A payload's identity and its stored form."""

import gzip
import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from cryptomon_lib.errors import PayloadError
from cryptomon_lib.payloads import Request, pack, parse_key, parse_moment, truncated, unpack
from cryptomon_lib.storage import Storage

SLOT = datetime(2026, 7, 27, 12, 1, tzinfo=UTC)
KEY = "ingest/api.kraken.com/0/public/Ticker~assetVersion=1/2026-07-27/20260727T120100Z.json.gz"
TICKERS = Request("kraken", "tickers", "api.kraken.com", "/0/public/Ticker", (("assetVersion", "1"),))


# ---- identity


def test_the_key_says_host_route_query_day_and_slot():
    assert TICKERS.key(SLOT) == KEY
    assert parse_key(KEY) == ("api.kraken.com", "/0/public/Ticker", {"assetVersion": "1"}, SLOT)


def test_a_slot_in_another_zone_is_the_same_slot():
    east = SLOT.astimezone(timezone(timedelta(hours=9)))
    assert TICKERS.key(east) == KEY


def test_the_time_bounds_of_a_call_are_in_its_address_and_not_in_its_key():
    request = Request("x", "candles", "h", "/c", (("pair", "a/b"),), (("since", "5"),), symbol="A")
    assert request.url() == "https://h/c?pair=a/b&since=5"
    assert request.url("http://127.0.0.1:1/x/") == "http://127.0.0.1:1/x/c?pair=a/b&since=5"
    assert "since" not in request.key(SLOT) and "pair=a%2Fb" in request.key(SLOT)


def test_a_page_is_part_of_the_identity():
    one, two = (Request("x", "tickers", "h", "/t", page=page) for page in (1, 2))
    assert one.key(SLOT) != two.key(SLOT)
    assert parse_key(two.key(SLOT))[2] == {"page": "2"}


def test_a_call_without_a_query_has_none_in_address_and_key():
    request = Request("x", "/t", "h", "/a/b")
    assert request.url() == "https://h/a/b"
    assert request.key(SLOT) == "ingest/h/a/b/2026-07-27/20260727T120100Z.json.gz"


def test_whatever_is_asked_for_is_read_back_from_the_key_and_keys_do_not_collide():
    random_ = random.Random(7)
    odd = "ab/~%=&?+ .:,;@#\\'\"()[]{}<>|*^`é币\t1-_"
    keys = {}

    def text(least):
        return "".join(random_.choices(odd, k=random_.randint(least, 6)))

    for _ in range(2000):
        pairs = {text(1): text(0) for _ in range(random_.randint(0, 3))}
        query = tuple(pairs.items())
        request = Request("x", "e", "h.example", "/r", query)
        key = request.key(SLOT)
        Storage("/root").path(key)
        assert parse_key(key) == ("h.example", "/r", pairs, SLOT), request
        assert keys.setdefault(key, pairs) == pairs


@pytest.mark.parametrize("route", ["/a~b/c", "/a b/c", "/币/ticker", "/a%2Fb/c", "/v2/markets:all"])
def test_odd_routes_are_read_back_from_the_key(route):
    assert parse_key(Request("x", "e", "h", route, (("q", "1"),)).key(SLOT))[1:3] == (route, {"q": "1"})


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ingest",
        "ingest/readme.txt",
        "ingest/h/2026-07-27/20260727T120100Z.json.gz",
        "ingest/h/r/2026-07-27/20260727T120100Z.json",
        "ingest/h/r/2026-07-27/20260727T120100Z.json.gz.reason.json",
        "ingest/h/r/2026-07-27/20260727T250100Z.json.gz",
        "ingest/h/r/2026-07-28/20260727T120100Z.json.gz",
        "ingest/h/r/today/20260727T120100Z.json.gz",
        "ingest/h/~q=1/2026-07-27/20260727T120100Z.json.gz",
    ],
)
def test_a_key_of_another_form_is_refused_by_name(key):
    with pytest.raises(PayloadError) as caught:
        parse_key(key)
    assert key in str(caught.value)


# ---- stored form


BODY = b'{"price": 1.0e-8,\n "name": "\xe5\xb8\x81"}\n'


def test_what_is_stored_is_gzip_of_exactly_the_body():
    packed = pack(BODY, SLOT, "BTC/USD")
    assert gzip.decompress(packed) == BODY
    assert packed == pack(BODY, SLOT, "BTC/USD")


@pytest.mark.parametrize("symbol", [None, "BTC/USD", "币安人生USDT", 'quo"te\\ \n\t'])
@pytest.mark.parametrize("body", [BODY, b"", b"x" * 1_000_000])
def test_body_time_and_market_are_read_back(body, symbol):
    at = datetime(2026, 7, 27, 12, 1, 3, 456_999, tzinfo=UTC)
    found = unpack(KEY, pack(body, at, symbol))
    assert (found.body, found.symbol, found.slot) == (body, symbol, SLOT)
    assert found.collected_at == at.replace(microsecond=456_000)
    assert found.id == KEY.removeprefix("ingest/") and found.host == "api.kraken.com"


def test_the_id_is_the_same_in_every_folder():
    ids = {unpack(KEY.replace("ingest", folder, 1), pack(BODY, SLOT)).id for folder in ("ingest", "archive")}
    assert len(ids) == 1


def test_gzip_of_other_tools_is_read_and_counts_as_collected_at_its_file_time_or_slot():
    assert unpack(KEY, gzip.compress(BODY, mtime=1_785_153_600)).collected_at == datetime(
        2026, 7, 27, 12, tzinfo=UTC
    )
    assert unpack(KEY, gzip.compress(BODY, mtime=0)).collected_at == SLOT
    header = b"\x1f\x8b\x08\x0c\x00\x00\x00\x00\x00\xff\x03\x00abcname\x00" + gzip.compress(BODY)[10:]
    assert unpack(KEY, header).body == BODY


@pytest.mark.parametrize(
    "comment", [b"not json", b"[1]", b'{"collected_at": 7}', b'{"collected_at": "soon"}', b"{"]
)
def test_a_comment_of_others_is_no_fault(comment):
    packed = gzip.compress(BODY, mtime=0)
    odd = packed[:3] + b"\x10" + packed[4:10] + comment + b"\0" + packed[10:]
    found = unpack(KEY, odd)
    assert (found.body, found.collected_at, found.symbol) == (BODY, SLOT, None)


PACKED = pack(BODY * 100, SLOT)


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"", "not gzip"),
        (b"\x1f\x8b\x08", "not gzip"),
        (b"<html>no gzip at all</html>", "not gzip"),
        (PACKED[:-1], "ends too early"),
        (PACKED[:-9], "ends too early"),
        (PACKED[: len(PACKED) // 2], "damaged"),
        (PACKED[:30], "damaged"),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "damaged"),
        (PACKED[:-4] + b"\0\0\0\0", "damaged"),
        (PACKED[:90] + b"\xff" * 20 + PACKED[110:], "damaged"),
    ],
)
def test_what_is_damaged_is_never_a_payload(packed, says):
    with pytest.raises(PayloadError, match=says) as caught:
        unpack(KEY, packed)
    assert KEY in str(caught.value)


def test_every_cut_of_a_payload_is_told():
    for length in range(len(PACKED)):
        with pytest.raises(PayloadError):
            unpack(KEY, PACKED[:length])


def test_a_bomb_is_not_unpacked_to_its_end():
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(PayloadError, match="more than 1,000 bytes"):
        unpack(KEY, bomb, 1000)


@pytest.mark.parametrize("size", [1, 999, 1000])
def test_a_body_up_to_the_limit_is_unpacked(size):
    noise = random.Random(7).randbytes(size)
    assert unpack(KEY, pack(noise, SLOT), 1000).body == noise
    with pytest.raises(PayloadError):
        unpack(KEY, pack(noise + b"x" * 1000, SLOT), 1000)


def test_bytes_after_the_end_are_not_taken_for_data():
    assert unpack(KEY, PACKED + b"rubbish").body == BODY * 100


# ---- time


def test_times_are_cut_not_rounded():
    late = datetime(2026, 7, 27, 23, 59, 59, 999_600, tzinfo=UTC)
    assert truncated(late) == datetime(2026, 7, 27, 23, 59, 59, 999_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["2026-07-27T12:01:00Z", "2026-07-27T12:01", "2026-07-27 14:01:00+02:00", "2026-07-27T12:01:00.000999Z"],
)
def test_a_moment_is_read_as_utc_where_it_names_no_zone(text):
    assert parse_moment(text) == SLOT


@pytest.mark.parametrize("text", ["", "yesterday", "12:00", "2026-13-01", "1785153600"])
def test_what_is_no_moment_is_told(text):
    with pytest.raises(PayloadError, match="write it as"):
        parse_moment(text)
