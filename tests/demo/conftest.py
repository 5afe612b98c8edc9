"""A demo of two students of one study and their teacher, served in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.config.recipes import TeacherRecipe
from scaling.demo.drawing import Gallery
from scaling.demo.server import DemoServer
from scaling.weights.folder import describe_network, save_model
from tests.release.students import student


@dataclass(frozen=True)
class Served:
    """A running demo, and the folders that it shows."""

    server: DemoServer
    gallery: Gallery
    folders: list[Path]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    folders = []
    for name, keys, recipe in (
        ("xs", {"levels": 1}, None),
        ("s", {"guidance": (1.0, 3.0)}, None),
        ("teacher", {}, TeacherRecipe(steps=1, lr=0.01)),
    ):
        net, spec = student(**keys)  # pyright: ignore[reportArgumentType]
        changes: dict[str, Any] = {"size": name} | ({"recipe": recipe, "method": "teacher"} if recipe else {})
        sampling = spec.sampling.model_copy(update={"student_guidance": {1: 1.0, 2: 1.0}, "teacher_steps": 2})
        spec = spec.model_copy(update={**changes, "sampling": sampling})
        description = describe_network(net.config, spec.data.latent_encoder(), run=spec)
        folders.append(save_model(folder / name, description, net.state_dict()).folder)
    gallery = Gallery(folders, torch.device("cpu"))
    with DemoServer(gallery.facts(), gallery.draw) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Served(server, gallery, folders)
        server.shutdown()
        thread.join()
