"""The Voila that serves the dashboard: its own template, files, headers and limits.

Owns what a visitor may reach: one notebook, the page's own files, and the answers to its questions. All viewers'
questions are answered here, from one PageData, each once for all who ask the same of the same data. The notebook is
executed once for all viewers too, and anew when it has changed or is an hour old; its kernel ends with it.
"""

import asyncio
import gzip
import hashlib
import html
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import tornado.web
from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from traitlets.config import Config
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler

from cryptomon_lib import logs
from cryptomon_lib.api_answers import Answer, Shared, Watched
from cryptomon_lib.dashboard import END_MARK, SERVED, STATIC, page_script, page_style, plotly_script
from cryptomon_lib.errors import CryptomonError, StorageError, UnknownMarket, UnknownQuestion
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.operations import executed_notebook
from cryptomon_lib.page_data import PageData
from cryptomon_lib.readable import readable

log = logging.getLogger(__name__)

# nothing from any other host, whatever a notebook or a package of the day asks for
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# opens the page at an address, with a token, and raises RunError where it is not whole
Check = Callable[[str, str | None], float]
_YEAR_S = 31_536_000
# so long a page is given to all, as long as its notebook is the same
_PAGE_S = 3600
# the first questions take a second or two; the end waits for them no longer than this
_WARM_S = 10
_KERNEL = re.compile(r'data-kernel="([0-9a-f-]{36})"')
_ANSWERS_BYTES = 64 * 2**20
# of an executed notebook nothing runs: its scripts are left out, and this lets none in
_NOTEBOOK_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"


@dataclass(frozen=True)
class Asset:
    """A file of the page, as it is sent."""

    type: str
    body: bytes

    @cached_property
    def version(self) -> str:
        """Of its content, so that a browser keeps it for a year and still never has an old one."""
        return hashlib.sha256(self.body).hexdigest()[:12]

    @cached_property
    def packed(self) -> bytes:
        """Compressed once for all viewers."""
        return gzip.compress(self.body, compresslevel=6, mtime=0)


def assets() -> dict[str, Asset]:
    """The page's files by name."""
    script = "text/javascript; charset=utf-8"
    return {
        "page.js": Asset(script, page_script().encode()),
        "client.js": Asset(script, (STATIC / "client.js").read_bytes()),
        "page.css": Asset("text/css; charset=utf-8", page_style().encode()),
        "plotly.js": Asset(script, plotly_script().read_bytes()),
    }


def run(options: Mapping[str, Any], check: Check) -> None:
    """Serve until SIGINT or SIGTERM; options and check as dashboard_server has them."""
    parameters = options["parameters"]
    # the kernels inherit it: a page made by them asks this server
    os.environ[SERVED] = "1"
    answers = Answers(PageData(open_monitor(parameters["environment"]), parameters.get("as_of", "")))
    server = DashboardVoila.instance(
        config=_config(options), assets=assets(), parameters=parameters, answers=answers, check=check
    )
    server.initialize([options["notebook"]])
    # the first viewer is not to wait for what every first question waits for
    warming = threading.Thread(target=answers.warm, daemon=True)
    warming.start()
    # Voila sees to SIGTERM; a shell starts background jobs with SIGINT ignored
    signal.signal(signal.SIGINT, server._handle_signal_stop)
    log.warning("serving %s at http://%s:%d", options["parameters"]["environment"], server.ip, server.port)
    try:
        server.start()
    finally:
        # what runs in DuckDB while the interpreter ends would end the process with a core dump
        warming.join(_WARM_S)


class DashboardVoila(Voila):
    """Voila on one notebook, with the page's own template and files."""

    def __init__(
        self,
        *,
        assets: Mapping[str, Asset],
        parameters: Mapping[str, Any],
        answers: "Answers",
        check: Check,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._assets, self._parameters, self._check = assets, parameters, check
        self._answers = answers

    def setup_template_dirs(self) -> None:
        super().setup_template_dirs()
        self.template_paths.insert(0, str(STATIC))

    def init_settings(self) -> dict[str, Any]:
        settings = super().init_settings()
        # the login page
        settings["jinja2_env"].loader.searchpath.insert(0, str(STATIC))
        self.contents_manager = settings["contents_manager"] = ParameterisedContents(
            self._parameters, parent=self
        )
        return settings

    def init_handlers(self) -> list:
        base = self.server_url.rstrip("/")
        return [
            (f"{base}/cryptomon/alive", _Alive),
            (f"{base}/cryptomon/data/([a-z]+)", _Data, {"answers": self._answers}),
            (f"{base}/cryptomon/run/([A-Za-z0-9_.-]+)", _Run, {"answers": self._answers}),
            (f"{base}/cryptomon/(.+)", _Files, {"assets": self._assets}),
            (
                f"{base}/health",
                _Health,
                {"check": partial(self._check, self._own_url, self.token), "answers": self._answers},
            ),
            *map(self._with_pages, super().init_handlers()),
        ]

    def _with_pages(self, route: tuple) -> tuple:
        if route[1] is not TornadoVoilaHandler:
            return route
        return (route[0], _Page, route[2] | {"pages": Pages(Path(self.notebook_path))})

    @property
    def _own_url(self) -> str:
        ip = "127.0.0.1" if self.ip in ("", "0.0.0.0") else self.ip
        return f"http://{ip}:{self.port}{self.server_url.rstrip('/')}"

    def _handle_signal_stop(self, sig: int, frame: Any) -> None:
        # before the loop runs there is nothing to stop
        if not hasattr(self, "ioloop"):
            sys.exit(0)
        super()._handle_signal_stop(sig, frame)


class ParameterisedContents(LargeFileManager):
    """Notebooks with a cell of values after their parameters cell, as papermill injects it."""

    def __init__(self, parameters: Mapping[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self._parameters = parameters

    def get(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        model = super().get(path, *args, **kwargs)
        if model["type"] == "notebook" and model["content"]:
            cells = model["content"]["cells"]
            tagged = [
                index for index, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", ())
            ]
            if tagged:
                cells.insert(tagged[0] + 1, _injected(self._parameters))
        return model

    def mark_trusted_cells(self, nb: NotebookNode, path: str = "") -> None:
        """Nothing: trust is about outputs that a notebook came with, and this one is executed anew."""


class Answers:
    """The answers to all viewers' questions, as JSON, packed."""

    def __init__(self, data: PageData):
        self.data = data
        self._shared, self._version = Shared(_ANSWERS_BYTES), Watched(data.version)

    async def get(self, question: str, asked: Mapping[str, str]) -> Answer:
        """The answer to a question about the newest data; from memory where it was given before.

        Raises CryptomonError: as PageData.answer.
        """
        key = (question, tuple(sorted(asked.items())), await self._version.now(), int(time.time()) // 60)
        return await self._shared.get(key, lambda: _as_json(self.data.answer(question, asked)))

    def warm(self) -> None:
        """Ask what every viewer asks first, for the sake of what is read and compiled once."""
        for question in ("overview", "table", "market"):
            try:
                self.data.answer(question)
            except CryptomonError as error:
                log.info("%s: %s", question, error)

    async def status(self) -> Answer:
        """The version of the data and how old each source is, with the server's clock."""
        await self._version.now()
        said = await asyncio.to_thread(self.data.status)
        return _as_json(said | {"now": round(time.time() * 1000)})


class _Data(JupyterHandler):
    """The answer to one question of a page; only for whom the server knows, where it asks for a login."""

    def initialize(self, answers: Answers) -> None:
        self.answers = answers

    def check_xsrf_cookie(self) -> None:
        """Nothing: it only reads."""

    @tornado.web.authenticated
    async def get(self, question: str) -> None:
        asked = {
            name: values[-1].decode("utf-8", "replace")
            for name, values in self.request.query_arguments.items()
        }
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        try:
            said = await (
                self.answers.status() if question == "status" else self.answers.get(question, asked)
            )
        except CryptomonError as error:
            self.set_status(404 if isinstance(error, UnknownQuestion | UnknownMarket) else 503)
            self.finish(json.dumps({"problem": str(error)}))
            return
        except Exception:
            log.exception("%s could not be answered", question)
            self.set_status(500)
            self.finish(json.dumps({"problem": "This could not be read; the server's log says why."}))
            return
        if said.packed and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(said.packed)
        else:
            self.finish(said.body)


class _Run(JupyterHandler):
    """The executed notebook of a run, to read: as a page in which nothing runs."""

    def initialize(self, answers: Answers) -> None:
        self.answers = answers

    @tornado.web.authenticated
    async def get(self, run_id: str) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", _NOTEBOOK_POLICY)
        try:
            body = await asyncio.to_thread(executed_notebook, self.answers.data.monitor, run_id)
        except StorageError as error:
            log.info("%s", error)
            self.set_status(404)
            self.finish(
                f"<p>The notebook of {html.escape(run_id)} is not kept: of the successes one an hour is.</p>"
            )
            return
        self.finish(await asyncio.to_thread(readable, body))


class _Alive(tornado.web.RequestHandler):
    """That the server answers; costs nothing."""

    def get(self) -> None:
        self.finish({"alive": True})


class _Page(TornadoVoilaHandler):
    """The notebook's page, executed once for all: nothing in it is of one viewer, the page itself asks for that."""

    def initialize(self, pages: "Pages", **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.pages = pages

    @tornado.web.authenticated
    async def get(self, path: str | None = None) -> None:
        if path:
            self.redirect_to_file(path)
            return
        # a health check, and whoever reloads with force, has it executed anew
        anew = "no-cache" in self.request.headers.get("Cache-Control", "")
        text = await self.pages.get(self, anew)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(text)


class Pages:
    """The page as its notebook made it."""

    def __init__(self, notebook: Path):
        self._notebook, self._making = notebook, asyncio.Lock()
        self._kept, self._of, self._made_at = "", 0, 0.0

    async def get(self, handler: TornadoVoilaHandler, anew: bool = False) -> str:
        """The page's HTML; one that is not whole is given, so that its error is seen, and not kept."""
        asked_at = time.monotonic()
        async with self._making:
            # who waited while another had it made has that one
            if self._fresh() and (not anew or self._made_at > asked_at):
                return self._kept
            of = self._notebook.stat().st_mtime_ns
            text = "".join([part async for part in handler.get_generator()])
            if kernel := _KERNEL.search(text):
                await ensure_async(handler.kernel_manager.shutdown_kernel(kernel[1], now=True))
            if END_MARK in text:
                self._kept, self._of, self._made_at = text, of, time.monotonic()
            return text

    def _fresh(self) -> bool:
        age_s = time.monotonic() - self._made_at
        return bool(self._kept) and age_s < _PAGE_S and self._notebook.stat().st_mtime_ns == self._of


class _Health(tornado.web.RequestHandler):
    """Whether a viewer would get a whole page now: 200 or 503, with the reason."""

    def initialize(self, check: Callable[[], float], answers: Answers) -> None:
        self.check, self.answers = check, answers

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        try:
            took = await asyncio.to_thread(self.check)
            await self.answers.get("overview", {})
            self.finish({"healthy": True, "page_s": round(took, 3)})
        except CryptomonError as error:
            self.set_status(503)
            self.finish({"healthy": False, "says": str(error)})


class _Files(tornado.web.RequestHandler):
    """The page's own files, compressed and kept by browsers."""

    def initialize(self, assets: Mapping[str, Asset]) -> None:
        self.assets = assets

    def get(self, name: str) -> None:
        asset = self.assets.get(name)
        if asset is None:
            raise tornado.web.HTTPError(404)
        kept = self.get_query_argument("v", "") == asset.version
        self.set_header("Content-Type", asset.type)
        self.set_header("Cache-Control", f"public, max-age={_YEAR_S}, immutable" if kept else "no-cache")
        self.set_header("Vary", "Accept-Encoding")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(asset.packed)
        else:
            self.finish(asset.body)


def _as_json(said: Mapping[str, Any]) -> Answer:
    return Answer("application/json", json.dumps(said, separators=(",", ":"), allow_nan=False).encode(), 0)


def _config(options: Mapping[str, Any]) -> Config:
    config = Config()
    config.Voila.update(
        ip=options["ip"],
        port=options["port"],
        # the kernels are told the port before it is bound
        port_retries=0,
        open_browser=False,
        config_file_paths=[],
        token=options["token"],
        tornado_settings={"headers": _HEADERS, "ws_ping_interval": 0},
        log_level=logging.getLogger().getEffectiveLevel(),
        # its lines go the way of all others
        logging_config={
            "loggers": {DashboardVoila.__name__: {"level": "NOTSET", "handlers": [], "propagate": True}}
        },
    )
    # or whoever has the token could set a password for this user's other servers
    config.PasswordIdentityProvider.allow_password_change = False
    config.VoilaConfiguration.update(
        template="lab",
        allow_template_override="NO",
        allow_theme_override="NO",
        file_allowlist=[],
        preheat_kernel=options["pool"] > 0,
        default_pool_size=options["pool"],
        show_tracebacks=False,
        resources={
            "cryptomon": {name: f"cryptomon/{name}?v={asset.version}" for name, asset in assets().items()}
        },
    )
    # cells that are for readers of the notebook alone; they are not run for the page either
    config.TagRemovePreprocessor.update(enabled=True, remove_cell_tags=["notebook-only"])
    config.VoilaExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    # a kernel ends with its page; one that was left over is found
    config.MappingKernelManager.update(cull_idle_timeout=240, cull_interval=30, cull_connected=True)
    # the viewer who came has the machine to himself first
    config.VoilaKernelManager.fill_delay = 5.0
    config.VoilaExecutor.on_cell_executed = _relay
    if os.name == "posix":
        # a socket of this user instead of TCP ports that all users of the machine reach
        config.KernelManager.transport = "ipc"
    return config


def _relay(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]) -> None:
    """Write a kernel's log lines where the server's go; the page shows none of what a cell writes to standard error."""
    relay = logs.Relay()
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            relay.write(output.text)
    relay.write("\n")


def _injected(parameters: Mapping[str, Any]) -> NotebookNode:
    lines = [f"{name} = {value!r}" for name, value in parameters.items() if name.isidentifier()]
    lines.append(logs.kernel_code())
    return new_code_cell(
        "\n".join(lines), id="injected-parameters", metadata={"tags": ["injected-parameters"]}
    )
