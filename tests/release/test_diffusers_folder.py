"""A folder of diffusers gives our one- and two-step samples, with diffusers alone and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.encoders import EncoderError, get_encoder
from models.vae import open_decoder
from scaling.release.diffusers_folder import DiffusersError, write_diffusers
from tests.release.strangers import run_without
from tests.release.students import noises, own_samples, student

# In a process of its own: diffusers copies a folder's code into a cache that is chosen when it is imported.
PROGRAM = """
import torch
from diffusers import DiffusionPipeline, SCMScheduler

for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.scheduler) is SCMScheduler
    given = torch.load(folder + "/given.pt")
    guidance = {"guidance_scale": 2.0} if pipe.unet.config["net"]["guidance"] else {}
    made = {}
    for steps in (1, 2):
        words = {"class_labels": given["labels"], "num_inference_steps": steps, **guidance}
        both = {"noise": given["noise"], "renoise": given["renoise"]}
        made[steps] = pipe(**words, **both, output_type="latent").images
        made[f"np{steps}"] = torch.from_numpy(pipe(**words, **both, output_type="np").images)
        drawn = [pipe(**words, generator=torch.Generator().manual_seed(5), output_type="latent").images for _ in "ab"]
        assert torch.equal(*drawn) and not torch.equal(drawn[0], made[steps])
    assert pipe(class_labels=[0, 1]).images[0].size == tuple(made["np1"].shape[1:3])
    torch.save(made, folder + "/made.pt")
"""


def run(folder: Path, *folders: Path) -> None:
    caches = {"HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules")}
    run_without(PROGRAM, folder, *folders, HF_HUB_OFFLINE="1", **caches)


def test_the_parts_of_it_give_our_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network from its file, its pipeline and diffusers' scheduler, imported from where they are carried from."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from diffusers.schedulers.scheduling_scm import SCMScheduler

    from scaling.release.carried.pipeline import TrigFlowPipeline
    from scaling.release.carried.trigflow_unet import TrigFlowUNet

    net, spec = student()
    write_diffusers(net, spec, tmp_path / "made")
    unet: Any = TrigFlowUNet.from_pretrained(tmp_path / "made" / "unet", low_cpu_mem_usage=False)
    pipe = TrigFlowPipeline(unet, SCMScheduler.from_pretrained(tmp_path / "made" / "scheduler"))
    pipe.set_progress_bar_config(disable=True)
    noise, renoise, labels = noises(net)
    for steps in (1, 2):
        made: Any = pipe(labels, steps, noise=noise, renoise=renoise, output_type="latent", return_dict=False)
        assert (made[0] - own_samples(net, noise, renoise, labels, steps)).abs().max() <= 1e-6
    with pytest.raises(ValueError, match="takes none"):
        pipe(labels, guidance_scale=2.0)
    with pytest.raises(ValueError, match="takes 1 or 2"):
        pipe(labels, 3)
    with pytest.raises(ValueError, match=r"load them with torch_dtype=torch\.float32"):
        pipe.to(torch.bfloat16)(labels)


@pytest.mark.nightly
def test_its_samples_are_ours(tmp_path: Path) -> None:
    """Both flavours, one with guidance, one of latents: to 1e-6 for the same noise, and as images to one level."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    form: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "norm_num_groups": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    AutoencoderKL(**form).save_pretrained(tmp_path / "given-vae")
    students: dict[str, Any] = {}
    for flavour, guidance, encoder, vae in (
        ("trigflow", None, "sd-vae-ft-mse-v1", tmp_path / "given-vae"),
        ("edm2", (1.0, 3.0), "fashion-s2d-v1", None),
    ):
        net, spec = student(flavour, guidance=guidance, encoder=encoder)
        folder = tmp_path / flavour
        write_diffusers(net, spec, folder, licence="MIT", vae=vae)
        noise, renoise, labels = noises(net)
        torch.save({"noise": noise, "renoise": renoise, "labels": labels}, folder / "given.pt")
        inputs = {"guidance": torch.full((3,), 2.0)} if guidance else {}
        decoder = open_decoder(get_encoder(encoder), vae, torch.device("cpu"))
        students[flavour] = net, noise, renoise, labels, inputs, decoder
    run(tmp_path, *(tmp_path / flavour for flavour in students))
    for flavour, (net, noise, renoise, labels, inputs, decoder) in students.items():
        made = torch.load(tmp_path / flavour / "made.pt")
        for steps in (1, 2):
            own = own_samples(net, noise, renoise, labels, steps, **inputs)
            assert own.std() > 0.2
            assert (made[steps] - own).abs().max() <= 1e-6
            assert (made[f"np{steps}"].int() - decoder.samples(own).int()).abs().max() <= 1


def test_what_lies_in_it(tmp_path: Path) -> None:
    net, spec = student()
    write_diffusers(net, spec, tmp_path / "made", licence="CC-BY-4.0")
    files = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*") if path.is_file()}
    code = {"pipeline.py", "unet/sample.py", "unet/trigflow_unet.py"}
    data = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "README.md"}
    assert files == code | data | {"scheduler/scheduler_config.json"}
    index = json.loads((tmp_path / "made/model_index.json").read_text())
    assert index["vae"] == [None, None]
    assert "CC-BY-4.0" in (tmp_path / "made/README.md").read_text()
    with pytest.raises(FileExistsError, match="made"):
        write_diffusers(net, spec, tmp_path / "made")


def test_teachers_and_foreign_vaes_are_refused(tmp_path: Path) -> None:
    from scaling.config.recipes import TeacherRecipe

    net, spec = student()
    teacher = spec.model_copy(update={"recipe": TeacherRecipe(steps=1, lr=0.01), "method": "teacher"})
    with pytest.raises(DiffusersError, match="is a teacher"):
        write_diffusers(net, teacher, tmp_path / "made")
    with pytest.raises(EncoderError, match=r"config\.json does not exist"):
        write_diffusers(net, spec, tmp_path / "made", vae=tmp_path)
    assert not (tmp_path / "made").exists()
