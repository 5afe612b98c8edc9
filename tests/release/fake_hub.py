"""A Hugging Face Hub on this machine: as much of its interface as one commit of small files needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Hub:
    """What it holds, the commit that its branch main is, and the file that it refuses."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    refuses: str | None = None
    asked: list[str] = field(default_factory=list)
    commit: str = "1" * 40

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        self.asked.append(f"{method} {path}")
        if path == "/api/repos/create":
            return 200, {"url": f"{self.address}/a/b", "name": "a/b"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            if any(file["path"] == self.refuses for file in files):
                return 403, {"error": "the quota of this user is spent"}
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in path:
            for line in body.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    self.files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/a/b/commit/1", "commitOid": self.commit}
        if path.startswith("/api/models/a/b/tree/"):
            found = [(name, len(data), hashlib.sha1(data).hexdigest()) for name, data in self.files.items()]
            return 200, [{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in found]
        if path in ("/api/models/a/b", *(f"/api/models/a/b/revision/{name}" for name in ("main", self.commit))):
            return 200, {"id": "a/b", "sha": self.commit, "siblings": [{"rfilename": name} for name in self.files]}
        if path.startswith(f"/a/b/resolve/{self.commit}/"):
            name = path.rpartition("/")[2]
            return (404, {"error": "no such file"}) if name == self.refuses else (200, self.files[name])
        return 404, {"error": f"the fake knows no {method} {path}"}


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """The hub while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = hub.answer(self.command, self.path.partition("?")[0], body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", hub.commit)
            if status == 404 and self.path.startswith("/api/models/"):
                self.send_header("X-Error-Code", "RevisionNotFound" if "/a/b/" in self.path else "RepoNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The same as the hub that huggingface_hub knows, with a token of its own."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    from huggingface_hub import HfApi

    with fake_hub() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        files = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        others = (HfApi.__init__.__defaults__ or ())[2:]
        monkeypatch.setattr(HfApi.__init__, "__defaults__", (running.address, "hf_of_a_test", *others))
        yield running
