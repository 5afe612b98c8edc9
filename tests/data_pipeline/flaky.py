"""A file server on this machine that knows byte ranges and breaks connections when told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[[str, int], str | None]  # (file name, how often it was asked for before) -> what goes wrong


class Server:
    """Serves a folder. `asked` holds (name, first byte) of every request for bytes.

    fault: "drop" sends half of what was asked for and breaks the connection, "busy" answers 503, "whole" ignores the
    range, "hold" waits until `release` is set; None: all goes well.
    """

    def __init__(self, folder: Path, fault: Fault = lambda name, before: None) -> None:
        self.folder, self.fault = folder, fault
        self.asked: list[tuple[str, int]] = []
        self.held, self.release = threading.Event(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/set"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                if not (server.folder / name).is_file():
                    return self.send_error(404)
                data = (server.folder / name).read_bytes()
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, len(data))
                fault = server.fault(name, sum(asked == name for asked, _ in server.asked))
                server.asked.append((name, start))
                if fault == "busy":
                    return self.send_error(503)
                if fault == "hold":
                    server.held.set()
                    server.release.wait(60)
                if fault == "whole":
                    wanted, start, end = None, 0, len(data)
                part = data[start:end]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(part)))
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
                self.end_headers()
                self.wfile.write(part[: len(part) // 2] if fault == "drop" else part)
                return None

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
