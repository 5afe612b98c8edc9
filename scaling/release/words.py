"""What a card tells a stranger to type."""

from __future__ import annotations

from models.encoders import encoder_of
from scaling.weights.folder import Description


def code(description: Description) -> str:
    """Python that loads the network and samples it; of a network of latents it ends at the latents."""
    network, student = description.network, description.kind == "student"
    channels, side = network["latent_channels"], network["resolution"]
    labels = f"torch.arange(10) % {network['num_classes']}" if network["num_classes"] else "torch.full((10,), -1)"
    given = ", guidance=guidance" if description.guidance else ""
    lines = ["import torch", "", "from models import load_release, read_release"]
    lines += ["from models.network import SIGMA_DATA, T_MAX", "from models.trigflow import denoise"] if student else [
        "from models.network import SIGMA_DATA", "from scaling.sampling.samplers import sample_teacher"]  # fmt: skip
    lines += ["", 'net = load_release("DIR")  # strict about names, shapes and hashes; nothing is unpickled']
    lines += ['encoder = read_release("DIR").encoder', f"labels = {labels}"]
    lines += [f"noise = SIGMA_DATA * torch.randn(10, {channels}, {side}, {side})"]
    lines += [f"guidance = torch.full((10,), {_strength(description):g})"] if description.guidance else []
    lines += ["with torch.no_grad():"]
    if student:
        lines += ["    t = torch.full((10,), T_MAX)"]
        lines += [f"    x = denoise(noise, net(noise / SIGMA_DATA, t, labels{given}), t)  # one step"]
    else:
        steps = description.sampling["steps"][0] if description.sampling else 32
        lines += [f"    x = sample_teacher(lambda x, t: net(x, t, labels), noise, steps={steps})"]
    vae = encoder_of(description.encoder).vae is not None
    ending = "latents = encoder.denormalize(x)  # a VAE decodes them" if vae else (
        "images = encoder.decode(encoder.denormalize(x))  # uint8 [N, H, W, C]")  # fmt: skip
    return "\n".join([*lines, ending])


def _strength(description: Description) -> float:
    """The strength that one step is sampled with, else the lowest."""
    assert description.guidance is not None, "asked for where there is one"
    known = (description.sampling or {}).get("guidance") or {}
    return known.get("1", description.guidance[0])


def commands(description: Description) -> list[str]:
    """Commands that sample and judge the folder."""
    vae = " --vae VAE" if encoder_of(description.encoder).vae else ""
    steps = " --steps 2" if description.kind == "student" and 2 in (description.sampling or {}).get("steps", ()) else ""
    lines = [f"trigscale sample DIR --to samples.png{steps}{vae}"]
    if description.run is not None:
        lines.append(f"trigscale evaluate DIR --reference REAL_IMAGES{vae}")
    return lines
