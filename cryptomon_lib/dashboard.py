"""The dashboard as a widget: what a notebook shows, and what answers its page where no server does.

Under dashboard_server the page asks the server, which answers all viewers from one PageData; the widget then only
says what the page is of, and its kernel loads next to nothing. In JupyterLab the kernel answers by itself.
How the page looks and moves stands in static/.
"""

import logging
import os
from functools import cache, cached_property
from pathlib import Path
from time import time
from typing import Any

import anywidget
import traitlets

from cryptomon_lib import charts
from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import CryptomonError, RunError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
# the page's script in parts; together they are one module, so that it also loads where no server has files
SCRIPTS = (
    "elements.js", "search.js", "table.js", "sketch.js", "figures.js", "asking.js", "overview.js", "market.js", "alerts.js",
    "operations.js", "page.js",
)  # fmt: skip
PAGE_MIME = "application/vnd.cryptomon.page+json"
END_MARK = "cryptomon-page-complete"
# set by the server for its kernels: whoever has the page asks the server
SERVED = "CRYPTOMON_SERVED"


@cache
def page_script() -> str:
    """The page's script as one ES module."""
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)


@cache
def page_style() -> str:
    """The page's style sheet."""
    return (STATIC / "page.css").read_text(encoding="utf-8")


def plotly_script() -> Path:
    """The plotly.js of the installed plotly package."""
    # found, not imported: a viewer's kernel has no use for the rest of it
    import importlib.util

    spec = importlib.util.find_spec("plotly")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


class Dashboard(anywidget.AnyWidget):
    """The page on one environment's data.

    as_of: replay: the moment that the page takes for now (ISO 8601); empty follows the clock.
    market, measure: what is shown where the page's address names none; an empty market shows the overview.

    Raises ConfigError: no such environment. What cannot be read later is told in the page.
    """

    about = traitlets.Dict().tag(sync=True)

    def __init__(self, environment: str | None = None, as_of: str = "", market: str = "", measure: str = ""):
        self._esm, self._css = page_script(), page_style()
        self._environment, self._as_of = environment, as_of
        start = {"market": market, "measure": measure} if market else {}
        super().__init__(about=about(environment, as_of) | {"start": start})
        self.on_msg(self._handle)

    @cached_property
    def data(self) -> Any:
        """What answers the page here, a PageData; made when it is first asked."""
        from cryptomon_lib.monitor import open_monitor
        from cryptomon_lib.page_data import PageData

        return PageData(open_monitor(self._environment), self._as_of)

    def end_marker(self) -> "EndMarker":
        """What a health check looks for. Raises RunError: the data cannot be read."""
        if SERVED not in os.environ:
            said = self._answered("overview", {})
            if "problem" in said:
                raise RunError(f"The dashboard cannot show its data: {said['problem']}")
        return EndMarker()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # the state travels with the page, which waits for no connection to the kernel
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return data | {PAGE_MIME: {"about": self.about}}, metadata

    def _handle(self, _widget: Any, content: dict[str, Any], _buffers: list) -> None:
        """One message of a page that has no server."""
        match content:
            case {"type": "ask", "id": id, "question": str(question)}:
                said = self._answered(question, content.get("asked") or {})
                self.send({"type": "answer", "id": id, "said": said})
            case {"type": "plotly"}:
                self.send({"type": "plotly", "script": plotly_script().read_text(encoding="utf-8")})

    def _answered(self, question: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            if question == "status":
                return self.data.status() | {"now": round(time() * 1000)}
            return self.data.answer(question, asked)
        except CryptomonError as error:
            return {"problem": str(error)}
        except Exception as error:
            log.exception("%s could not be answered", question)
            return {"problem": f"{type(error).__name__}: {error}"}


class EndMarker:
    """The last thing on a page that was made to its end."""

    def __repr__(self) -> str:
        return "The page is complete."

    def _repr_html_(self) -> str:
        return f'<span id="{END_MARK}" hidden>{self!r}</span>'


def about(environment: str | None, as_of: str = "") -> dict[str, Any]:
    """What a page has to know before it asks anything."""
    settings = load_settings(environment)
    return {
        "environment": settings.environment,
        "simulated": settings.simulated,
        "cadence_s": settings.cadence_s,
        "as_of": as_of,
        "palettes": charts.PALETTES,
    }
