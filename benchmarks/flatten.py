"""One Cryptowatch payload of 9,590 markets, from bytes to Parquet bytes, side by side in one run.

ours            decode, null rules, bounds, derived columns, accounting, Parquet
floor           the fastest decoder, and the Parquet write of the same table: what cannot be saved
json_normalize  pandas.json_normalize, the columns renamed, Parquet
dict by dict    json.loads, one dict a row, Parquet

Run: python benchmarks/flatten.py [rounds]
"""

import io
import json
import sys
from datetime import UTC, datetime

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import cryptowatch_body, in_turn, peak_mb, say_peak, table

from cryptomon_lib import exchanges
from cryptomon_lib.payloads import Payload
from cryptomon_lib.tables import TABLES, schema

AT = datetime(2021, 10, 5, 3, 6, tzinfo=UTC)
TEXTS = [column.name for column in TABLES["ticks"].columns if column.type == "text"]
# the floor's rows: only what the table needs, each number a float, nothing optional
Change = msgspec.defstruct("Change", [("absolute", float), ("percentage", float)], gc=False)
Price = msgspec.defstruct(
    "Price", [("last", float), ("high", float), ("low", float), ("change", Change)], gc=False
)
Summary = msgspec.defstruct(
    "Summary", [("price", Price), ("volume", float), ("volumeQuote", float)], gc=False
)
Body = msgspec.defstruct("Body", [("result", dict[str, Summary])])
FASTEST = msgspec.json.Decoder(Body)


def parquet(rows: pa.Table) -> bytes:
    """The bytes of a Parquet file, written as the tables are."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", compression_level=1, use_dictionary=TEXTS)
    return sink.getvalue()


def ours(body: bytes) -> pa.Table:
    """The project's flatten."""
    request = exchanges.request("cryptowatch", "tickers")
    payload = Payload(request.key(AT), request.host, request.route, {}, AT, AT, None, body)
    return exchanges.flatten(payload, {}).rows


def normalised(body: bytes) -> pa.Table:
    """By pandas.json_normalize."""
    result = json.loads(body)["result"]
    frame = pd.json_normalize(list(result.values()))
    frame.columns = [
        "change_24h",
        "change_24h_pct",
        "high_24h",
        "price",
        "low_24h",
        "volume_24h",
        "quote_volume_24h",
    ]
    names = pd.Series(list(result)).str.split(":", n=1, expand=True)
    frame["exchange"], frame["symbol"] = names[0], names[1]
    frame["market_id"] = "cryptowatch:" + frame["exchange"] + ":" + frame["symbol"]
    frame["source"], frame["day"], frame["collected_at"] = "cryptowatch", "2021-10-05", AT
    return pa.Table.from_pandas(frame, preserve_index=False)


def dict_by_dict(body: bytes) -> pa.Table:
    """One dict a row, as one would write it first."""
    rows = []
    for key, row in json.loads(body)["result"].items():
        exchange, symbol = key.split(":", 1)
        price = row["price"]
        rows.append(
            {
                "market_id": f"cryptowatch:{key}",
                "source": "cryptowatch",
                "exchange": exchange,
                "symbol": symbol,
                "kind": "spot" if "-" not in symbol else "future",
                "collected_at": AT,
                "price": float(price["last"]) or None,
                "high_24h": float(price["high"]) or None,
                "low_24h": float(price["low"]) or None,
                "change_24h": float(price["change"]["absolute"]),
                "change_24h_pct": price["change"]["percentage"] * 100.0,
                "volume_24h": float(row["volume"]),
                "quote_volume_24h": float(row["volumeQuote"]),
                "day": "2021-10-05",
            }
        )
    return pa.Table.from_pylist(rows, schema=schema("ticks"))


def main(rounds: int) -> None:
    """Print the table."""
    body, origin = cryptowatch_body()
    flat = ours(body)
    contenders = {
        "ours": lambda: parquet(ours(body)),
        "floor (msgspec + Parquet)": lambda: (FASTEST.decode(body), parquet(flat)),
        "pandas.json_normalize": lambda: parquet(normalised(body)),
        "dict by dict": lambda: parquet(dict_by_dict(body)),
    }
    found = in_turn(contenders, rounds)
    for name, row in found.items():
        row["peak_mb"] = peak_mb(__file__, "--only", name)
    print(
        f"{origin} payload, {len(body):,} bytes, {flat.num_rows:,} rows, {len(parquet(flat)):,} bytes of Parquet;"
    )
    print(f"median of {rounds} rounds taken in turn; peak memory added, of a process that does it once")
    print(table(found, "the floor", "floor (msgspec + Parquet)"))
    share = found["ours"]["wall_ms"] / found["floor (msgspec + Parquet)"]["wall_ms"]
    print(f"goal: ours within 2.0x of the floor: {'reached' if share <= 2 else 'MISSED'}, {share:.2f}x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        body, _ = cryptowatch_body()
        work = {"ours": ours, "pandas.json_normalize": normalised, "dict by dict": dict_by_dict}.get(
            sys.argv[2]
        )
        say_peak(lambda: parquet(work(body)) if work else FASTEST.decode(body))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
