"""A proxy before an S3 that refuses, stalls or passes on what it is asked, as S3 does when it has too much to do."""

import http.client
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_OF_A_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class ThrottledS3:
    """The S3 at an address, at an address of its own. mood: pass, slow_down (503 SlowDown), stall (no answer),
    cut (the connection ends while the body is read).

    every: only each so many-th request meets the mood. only: and of these only this method. answered: requests by what
    became of them.
    """

    def __init__(self, address: str):
        self.behind, self.mood, self.every, self.only = urlsplit(address), "pass", 1, ""
        self.answered: Counter[str] = Counter()
        self.ending = threading.Event()
        self._lock, self._asked = threading.Lock(), 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_) -> None:
                pass

            def _any(self) -> None:
                outer._answer(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: BaseHTTPRequestHandler) -> None:
        length = int(asked.headers.get("Content-Length") or 0)
        with self._lock:
            self._asked += 1
            meets = self._asked % self.every == 0 and self.only in ("", asked.command)
            mood = self.mood if meets else "pass"
            self.answered[mood] += 1
        if mood == "cut":
            asked.rfile.read(length // 2)
            asked.connection.shutdown(socket.SHUT_RDWR)
            asked.close_connection = True
            return
        body = asked.rfile.read(length)
        if mood == "stall":
            self.ending.wait(60)
            asked.close_connection = True
            return
        status, headers, reply = 503, [("Content-Type", "application/xml")], _SLOW_DOWN
        if mood == "pass":
            status, headers, reply = self._passed_on(asked, body)
        asked.send_response(status)
        for name, value in headers:
            if name.lower() not in _OF_A_HOP:
                asked.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", len(reply))
        asked.send_header("Content-Length", str(length if asked.command == "HEAD" else len(reply)))
        asked.end_headers()
        if asked.command != "HEAD":
            asked.wfile.write(reply)

    def _passed_on(self, asked: BaseHTTPRequestHandler, body: bytes):
        connection = http.client.HTTPConnection(self.behind.hostname, self.behind.port, timeout=60)
        try:
            connection.request(asked.command, asked.path, body or None, dict(asked.headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
