"""Who is answered: pages of this machine alone, which came from this server.

A page of another site that is open in the same browser could ask a server on the loopback interface too. So the Host
header must be this server's (no name that another site has pointed at 127.0.0.1), what is asked of it must come from
its own page (Origin), and as JSON, which a browser sends across origins only after a question that is never answered.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from scaling.report.page import render_page

LOOPBACK = "127.0.0.1"
MOST_BYTES = 4096  # of a request
Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


class DemoServer(ThreadingHTTPServer):
    """The page at / and its samples at /sample, on the loopback interface."""

    daemon_threads = True

    def __init__(self, facts: Mapping[str, Any], answer: Answer, port: int = 0) -> None:
        """facts: what the page is made of. answer: of a request's JSON. OSError where the port is taken."""
        self.answer, nonce = answer, secrets.token_urlsafe(16)
        self.page = page(facts, nonce).encode()
        self.policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host headers of this server."""
        return f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.hosts[0]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where whoever asked has gone; what else goes wrong is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def page(facts: Mapping[str, Any], nonce: str) -> str:
    """The page, which asks for nothing but samples."""
    return render_page(Path(__file__).with_name("page.html.j2"), facts=facts, nonce=nonce)


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "trigscale", ""
    timeout = 60  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        """The page."""
        if self._foreign():
            return
        if self.path != "/":
            self._json(HTTPStatus.NOT_FOUND, {"error": "there is / alone"})
            return
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        """Samples."""
        if self._foreign():
            return
        length = self.headers.get("Content-Length") or ""
        if self.path != "/sample" or self.headers.get_content_type() != "application/json":
            self._json(HTTPStatus.NOT_FOUND, {"error": "samples are asked for at /sample, as JSON"})
        elif not length.isdecimal() or int(length) > MOST_BYTES:
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"a request has at most {MOST_BYTES} bytes"})
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": f"the request is no JSON object: {error}"})
            return
        try:
            self._json(HTTPStatus.OK, self.server.answer(asked))
        except (UserError, ValueError) as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _foreign(self) -> bool:
        """Whether the request came from elsewhere; then it is refused."""
        hosts, origin = self.server.hosts, self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site")
        own = self.headers.get_all("Host", []) in [[host] for host in hosts]
        near = origin in (None, *(f"http://{host}" for host in hosts))
        if own and near and site in (None, "none", "same-origin"):
            return False
        self.close_connection = True
        self._json(HTTPStatus.FORBIDDEN, {"error": "this page answers its own machine alone"})
        return True

    def _json(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to whoever started it."""
