"""What the demo draws, and whom it refuses."""

from __future__ import annotations

import base64
import io
import json
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scaling.config.validation import ConfigError
from scaling.demo.drawing import Gallery
from scaling.weights.folder import describe_network, save_model
from tests.release.students import student

Served = Any  # conftest.py says what it is
ASKED = {"seed": 3, "count": 4, "label": -1, "steps": 1, "guidance": None}


def ask(served: Served, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request with these headers in place of the page's own."""
    host = served.server.hosts[0]
    own = {"Host": host, "Content-Type": "application/json", "Origin": f"http://{host}"}
    connection = HTTPConnection(*served.server.server_address[:2], timeout=60)
    data = body if isinstance(body, str) else json.dumps(ASKED if body is None else body)
    sent = {name: value for name, value in {**own, **headers}.items() if value}
    connection.request("POST", "/sample", data, sent)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def pixels(row: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(row["png"].partition(",")[2]))) as picture:
        return np.asarray(picture)


def test_rows_start_from_the_same_noise_and_depend_on_what_is_asked(served: Served) -> None:
    status, content = ask(served)
    assert status == 200
    first, guided, teacher = content["rows"]
    assert [row["nfe"] for row in (first, guided, teacher)] == [1, 1, 3]
    assert pixels(first).shape == (16, 4 * 16)
    assert first["labels"] == [3, 4, 5, 6]
    assert first["seconds"] > 0
    again = ask(served)[1]["rows"]
    assert [row["png"] for row in again] == [row["png"] for row in content["rows"]]
    # Image i depends on its seed alone: two rows that overlap share images, up to the rounding of another batch.
    later = ask(served, {**ASKED, "seed": 4})[1]["rows"][0]
    assert np.abs(pixels(later)[:, :48].astype(int) - pixels(first)[:, 16:]).max() <= 1
    for change in ({"label": 7}, {"steps": 2}, {"seed": 9}):
        assert ask(served, {**ASKED, **change})[1]["rows"][0]["png"] != first["png"]
    stronger = ask(served, {**ASKED, "guidance": 3})[1]["rows"]
    assert stronger[1]["png"] != guided["png"]
    assert "distilled without guidance" in stronger[0]["refused"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_others_are_refused(served: Served, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Any) -> dict[str, Any]:
        raise AssertionError("drew for a stranger")

    monkeypatch.setattr(served.server, "answer", never)
    status, content = ask(served, **headers)
    assert (status, content) == (403, {"error": "this page answers its own machine alone"})


def test_the_page_is_for_its_own_names_alone(served: Served) -> None:
    """Also not under a name that somebody has pointed at this machine."""
    for host, status in ((served.server.hosts[1], 200), ("rebound.example", 403)):
        connection = HTTPConnection(*served.server.server_address[:2], timeout=60)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == status
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert "default-src 'none'" in (answer.getheader("Content-Security-Policy") or "")
        connection.close()
    with socket.create_connection(served.server.server_address[:2], timeout=60) as raw:
        own = f"Host: {served.server.hosts[0]}\r\n"
        raw.sendall(f"GET / HTTP/1.1\r\n{own}Host: evil.example\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.0 403")
    assert served.server.server_address[0] == "127.0.0.1"


def test_bad_requests_are_told_what_is_wrong(served: Served) -> None:
    for body, said in (
        ("[1]", "no JSON object"),
        ("{", "no JSON object"),
        ({**ASKED, "count": 33}, "count is 33: give a whole number from 1 to 32"),
        ({**ASKED, "label": 10}, "label is 10: give a whole number from -1 to 9"),
        ({**ASKED, "seed": True}, "seed is True"),
        ({**ASKED, "guidance": "3"}, "guidance is '3'"),
        ({"seed": 1}, "the request has keys"),
    ):
        status, content = ask(served, body)
        assert status == 400
        assert said in content["error"]
    assert ask(served, "x" * 5000)[0] == 413
    assert ask(served, **{"Content-Type": "text/plain"})[0] == 404


def test_networks_of_other_data_are_not_shown_together(served: Served, tmp_path: Path) -> None:
    net, spec = student(resolution=4, levels=1)
    description = describe_network(net.config, spec.data.latent_encoder(), run=spec)
    save_model(tmp_path / "other", description, net.state_dict())
    with pytest.raises(ConfigError, match=r"has another resolution \(4\)"):
        Gallery([*served.folders, tmp_path / "other"], torch.device("cpu"))
