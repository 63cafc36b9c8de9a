"""A client of the REST API: each question's rows as a pandas DataFrame, times in UTC.

from cryptomon_lib.client import Client
Client("http://127.0.0.1:8880").series("kraken:BTC-USD", "price", step="5m")
"""

from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import requests

from cryptomon_lib.errors import ApiError, CryptomonError

_ARROW = "application/vnd.apache.arrow.stream"


class Client:
    """Questions to one API. key: where it asks for one.

    Raises from every method ApiError: the API's own words and status; CryptomonError: no answer.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 30.0):
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._session = requests.Session()
        self._session.headers["Accept"] = _ARROW
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def view(self, name: str, **asked: str | int | datetime) -> pd.DataFrame:
        """Rows of a view, all pages: view("spikes", measure="price"), view("measures", market_id=…, since=…)."""
        return self._rows(f"views/{name}", asked)

    def latest(self, **asked: str) -> pd.DataFrame:
        """One row per market: its newest tick, with every metric of now."""
        return self._rows("latest", asked)

    def series(self, market: str, measure: str = "price", **asked: str | datetime) -> pd.DataFrame:
        """One market's measure by step: at, value, min, max, first, last, samples, expected; since, until, step."""
        return self._rows("series", {"market": market, "measure": measure} | asked)

    def candles(self, market: str, interval: str = "1m", **asked: str | datetime) -> pd.DataFrame:
        """One market's candles: 1m, 5m, 1h or 1d."""
        return self._rows("candles", {"market": market, "interval": interval} | asked)

    def rank(self, measure: str = "price", **asked: str) -> pd.DataFrame:
        """Spot markets by how variable the measure was over 24 h."""
        return self._rows("rank", {"measure": measure} | asked)

    def _rows(self, route: str, asked: dict[str, Any]) -> pd.DataFrame:
        # `from` is no name that Python takes
        renamed = {{"since": "from", "until": "to"}.get(key, key): value for key, value in asked.items()}
        address, parameters, pages = f"{self.url}/v1/{route}", _plain(renamed), []
        while address:
            answer = self._get(address, parameters)
            pages.append(pa.ipc.open_stream(answer.content).read_all())
            # the next page's address has the parameters in it
            address, parameters = answer.links.get("next", {}).get("url"), {}
        return pa.concat_tables(pages).to_pandas()

    def _get(self, address: str, parameters: dict[str, str]) -> requests.Response:
        try:
            answer = self._session.get(address, params=parameters, timeout=self.timeout_s)
        except requests.RequestException as error:
            raise CryptomonError(
                f"{self.url} does not answer: {error}. Is `cryptomon api` running?"
            ) from error
        if answer.status_code >= 400 and "problem+json" in answer.headers.get("Content-Type", ""):
            says = answer.json()
            raise ApiError(answer.status_code, says["detail"], errors=says.get("errors", ()))
        if not answer.ok:
            raise ApiError(answer.status_code, f"{address} answers HTTP {answer.status_code}.")
        return answer


def _plain(asked: dict[str, Any]) -> dict[str, str]:
    return {
        key: value.isoformat() if isinstance(value, datetime) else str(value) for key, value in asked.items()
    }
