"""`trigscale release push` through huggingface_hub to a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files import write_text_atomic
from models.release import ModelError
from scaling.cli.main import app, run_cli
from scaling.release.hub import HubError, plan_push, push
from scaling.weights.folder import describe_network, save_model, write_sums
from tests.release.fake_hub import Hub, connected
from tests.release.students import student


def released(folder: Path, licence: str | None) -> Path:
    """A folder with weights, a card and their hashes."""
    net, spec = student(levels=1)
    description = describe_network(net.config, spec.data.latent_encoder(), run=spec, licence=licence)
    save_model(folder, description, net.state_dict())
    write_text_atomic(folder / "README.md", "---\nlicense: mit\n---\n# A card\n")
    write_sums(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(monkeypatch) as running:
        yield running


def test_every_file_goes_up_in_one_commit(tmp_path: Path, hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    folder = released(tmp_path / "made", "MIT")
    words = ["release", "push", str(folder), "a/b"]
    assert run_cli(lambda: app([*words, "--dry-run"])) == 0
    shown = capfd.readouterr().out
    assert all(f"{path.stat().st_size:,}  {path.name}" in shown for path in folder.iterdir())
    assert "would go to a/b under licence MIT" in shown
    assert hub.asked == []
    assert run_cli(lambda: app([*words, "--json"])) == 0
    assert json.loads(capfd.readouterr().out)["commit"] == f"{hub.address}/a/b/commit/1"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum("/commit/" in each for each in hub.asked) == 1


def test_a_hub_that_refuses_is_quoted_with_the_file(tmp_path: Path, hub: Hub) -> None:
    plan = plan_push(released(tmp_path / "made", "MIT"), "a/b")
    hub.refuses = "model.safetensors"
    with pytest.raises(HubError, match=r"made/model\.safetensors: the Hub did not take it: .*quota of this user"):
        push(plan)
    assert hub.files == {}
    hub.refuses, hub.files = None, {"model-00001-of-00002.safetensors": b""}
    with pytest.raises(HubError, match=r"holds model-00001-of-00002\.safetensors already"):
        push(plan)


def test_what_is_not_pushed(tmp_path: Path) -> None:
    for licence in (None, " "):
        folder = released(tmp_path / str(licence), licence)
        with pytest.raises(HubError, match=r"config\.json: licence is empty.*--licence"):
            plan_push(folder, "a/b")
    folder = released(tmp_path / "made", "MIT")
    with pytest.raises(HubError, match="write OWNER/NAME"):
        plan_push(folder, "../b")
    (folder / "README.md").write_text("other")
    with pytest.raises(ModelError, match=r"README\.md: its content does not match"):
        plan_push(folder, "a/b")


def test_an_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    plan, imported = plan_push(released(tmp_path / "made", "MIT"), "a/b"), builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name, name=name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HubError, match=r"needs huggingface_hub: pip install 'trigscale\[hub\]'"):
        push(plan)
