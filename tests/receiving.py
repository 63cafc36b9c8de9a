"""Receivers on loopback that take, refuse, hang and recover: an HTTP server and a mail server."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller


class Hook:
    """An HTTP server that keeps what is posted, and which paths are asked for.

    `answers` are used up one a call, then it takes everything.

    An answer is a status, or seconds to hang before the connection is let go.
    """

    def __init__(self):
        self.answers: list[int | float] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.asked: list[str] = []
        self.calls = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hook.calls += 1
                hook.asked.append(self.path)
                answer = hook.answers.pop(0) if hook.answers else 200
                if isinstance(answer, float):
                    time.sleep(answer)
                    return
                self.send_response(answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self):
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    # whoever sent it was killed in the middle
                    return
                hook.calls += 1
                answer = hook.answers.pop(0) if hook.answers else 200
                if isinstance(answer, float):
                    time.sleep(answer)
                    return
                if answer == 200:
                    hook.received.append(
                        ({name.lower(): value for name, value in self.headers.items()}, body)
                    )
                self.send_response(answer)
                if answer == 302:
                    self.send_header("location", "http://127.0.0.1:1/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def ids(self) -> list[str]:
        """The webhook-id of each message taken, in order."""
        return [headers["webhook-id"] for headers, _ in self.received]

    @property
    def bodies(self) -> list[dict]:
        """What was taken, decoded."""
        return [json.loads(body) for _, body in self.received]

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()


class _OwnPort(Controller):
    """A mail server on whichever port is free."""

    def __init__(self, handler):
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(handler, hostname="127.0.0.1", port=self._socket.getsockname()[1])

    def _create_server(self):
        return self.loop.create_server(self._factory_invoker, sock=self._socket)


class Mail:
    """A mail server that keeps what is sent. `answers` are used up one a message, then it takes everything.

    An answer is a line of SMTP ("451 later"), or seconds to hang.
    """

    def __init__(self):
        self.answers: list[str | float] = []
        self.received: list[str] = []
        self._server = _OwnPort(self)
        self._server.start()
        self.port = self._server.port

    async def handle_DATA(self, server, session, envelope):
        """What aiosmtpd asks when a message has come."""
        answer = self.answers.pop(0) if self.answers else "250 taken"
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return "451 too late"
        if answer.startswith("250"):
            self.received.append(envelope.content.decode())
        return answer

    def close(self) -> None:
        """End the server."""
        self._server.stop()


@contextmanager
def closing(server):
    """A server that is ended afterwards."""
    try:
        yield server
    finally:
        server.close()
