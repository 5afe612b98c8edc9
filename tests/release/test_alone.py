"""The file that a release carries: it loads and samples where this project is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.encoders import get_encoder
from models.vae import open_decoder
from scaling.config.recipes import TeacherRecipe
from scaling.release.carried import sample
from scaling.sampling.draw import draw_of
from scaling.sampling.generate import draw_latents, noise_of
from scaling.sampling.samplers import sample_teacher
from scaling.weights.folder import describe_network, save_model
from tests.release.strangers import run_without
from tests.release.students import noises, own_samples, student

CARRIED = Path(sample.__file__)
LOAD = """
import torch
sys.path.insert(0, sys.argv[1])
from sample import load, sample

config, weights = load(sys.argv[1])
given = torch.load(sys.argv[1] + "/given.pt")
torch.save([sample(config, weights, *given, steps) for steps in (1, 2)], sys.argv[1] + "/made.pt")
"""


def at_rest(folder: Path, net: Any, spec: Any) -> Path:
    """What `trigscale release` writes of these weights, as far as the file reads it."""
    description = describe_network(net.config, spec.data.latent_encoder(), run=spec)
    save_model(folder, description, net.state_dict())
    shutil.copyfile(CARRIED, folder / "sample.py")
    return folder


@pytest.mark.parametrize("flavour", ["trigflow", "edm2"])
def test_a_student_is_sampled_as_here(flavour: str, tmp_path: Path) -> None:
    """To the bit up to 64 positions of attention, with guidance; beyond, attention sums in another order."""
    for resolution, guidance in ((8, (1.0, 4.0)), (16, None)):
        net, spec = student(flavour, resolution=resolution, levels=1 if guidance is None else 2, guidance=guidance)
        config, weights = sample.load(at_rest(tmp_path / str(resolution), net, spec))
        noise, renoise, labels = noises(net)
        strength = torch.tensor([1.0, 2.0, 4.0]) if guidance else None
        inputs = {} if strength is None else {"guidance": strength}
        for steps in (1, 2):
            made = sample.sample(config, weights, 0.5 * noise, 0.5 * renoise, labels, steps, strength)
            own = own_samples(net, noise, renoise, labels, steps, **inputs)
            assert own.std() > 0.2
            assert torch.equal(made, own) if guidance else (made - own).abs().max() < 1e-5
    images = sample.decode(config["encoder"], own)
    decoder = open_decoder(get_encoder("fashion-s2d-v1"), None, torch.device("cpu"))
    assert np.abs(images.numpy().astype(int) - decoder.samples(own).numpy()).max() <= 1


@pytest.mark.parametrize(("recipe", "steps"), [({"segments": 3}, 3), ({"flow_map": True}, 1), ({"flow_map": True}, 2)])
def test_students_that_lead_elsewhere_are_sampled_as_here(recipe: dict[str, Any], steps: int, tmp_path: Path) -> None:
    """Through the ends of their segments, or told where to lead: without new noise."""
    net, spec = student(levels=1, **recipe)
    config, weights = sample.load(at_rest(tmp_path / "student", net, spec))
    seeds, labels = np.arange(3), np.array([0, 3, 7])
    draw = draw_of(spec, steps)
    noise = noise_of(draw.seed, seeds, (4, 8, 8), torch.device("cpu"), "sample")
    own = draw_latents(net.config, net, draw, seeds, labels, torch.device("cpu"))
    made = sample.sample(config, weights, noise, torch.full_like(noise, torch.nan), torch.from_numpy(labels), steps)
    assert own.std() > 0.2
    assert (made - own).abs().max() < 1e-5


def test_segments_are_the_steps(tmp_path: Path) -> None:
    net, spec = student(levels=1, segments=3)
    config, weights = sample.load(at_rest(tmp_path / "student", net, spec))
    noise, renoise, labels = noises(net)
    with pytest.raises(ValueError, match="trained in 3 segments, which are its steps: not 2"):
        sample.sample(config, weights, noise, renoise, labels, 2)


def test_a_teacher_is_sampled_by_heun(tmp_path: Path) -> None:
    net, spec = student()
    spec = spec.model_copy(update={"recipe": TeacherRecipe(steps=1, lr=0.01), "method": "teacher"})
    config, weights = sample.load(at_rest(tmp_path / "teacher", net, spec))
    noise, renoise, labels = noises(net)
    for steps in (1, 3):
        made = sample.sample(config, weights, 0.5 * noise, renoise, labels, steps)
        own = sample_teacher(lambda x, t: net(x, t, labels), 0.5 * noise, steps)
        assert (made - own).abs().max() <= 2e-4 * own.abs().max()


def test_in_a_process_without_this_project(tmp_path: Path) -> None:
    net, spec = student()
    folder = at_rest(tmp_path / "release", net, spec)
    noise, renoise, labels = noises(net)
    torch.save([0.5 * noise, 0.5 * renoise, labels], folder / "given.pt")
    words = [str(folder / "sample.py"), "--to", str(folder / "row.ppm"), "--steps", "2", "--classes", "0,3"]
    run_without(
        f"{LOAD}\nimport runpy\nsys.argv = {words}\nrunpy.run_path(sys.argv[0], run_name='__main__')", tmp_path, folder
    )
    for steps, made in enumerate(torch.load(folder / "made.pt"), 1):
        assert torch.equal(made, own_samples(net, noise, renoise, labels, steps))
    with Image.open(folder / "row.ppm") as row:
        assert row.size == (2 * 16, 16)
        assert np.std(np.asarray(row)) > 10
