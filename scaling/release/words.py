"""What a card tells a stranger to type."""

from __future__ import annotations

from models.encoders import encoder_of
from scaling.weights.folder import Description

# By sampler: what its line needs, and the line.
CALLS: dict[str, tuple[str, str]] = {
    "student": (
        "from models.network import T_MAX\nfrom models.trigflow import denoise",
        "x = denoise(noise, net(noise / SIGMA_DATA, t, labels{given}), t)  # one step",
    ),
    "heun": (
        "from scaling.sampling.samplers import sample_teacher",
        "x = sample_teacher(lambda x, t: net(x, t, labels), noise, steps={steps})",
    ),
    "segments": (
        "from scaling.methods.ends import segment_times\nfrom scaling.sampling.samplers import sample_walk",
        "x = sample_walk(lambda x, t, to: net(x, t, labels{given}), noise, segment_times({steps}))",
    ),
    "flow_map": (
        "from scaling.methods.ends import flow_times\nfrom scaling.sampling.samplers import sample_walk",
        "x = sample_walk(lambda x, t, to: net(x, t, labels{given}, to=to), noise, flow_times({steps}, {middle}))",
    ),
}


def code(description: Description) -> str:
    """Python that loads the network and samples it; of a network of latents it ends at the latents."""
    network, sampling = description.network, description.sampling or {}
    channels, side = network["latent_channels"], network["resolution"]
    sampler = sampling.get("sampler", "student" if description.kind == "student" else "heun")
    steps = sampling.get("steps", [1 if description.kind == "student" else 32])[0]
    given = ", guidance=guidance" if description.guidance else ""
    imports, call = CALLS[sampler]
    vae = encoder_of(description.encoder).vae is not None
    lines = [
        "import torch",
        "",
        "from models import load_release, read_release",
        "from models.network import SIGMA_DATA",
        imports,
        "",
        'net = load_release("DIR")  # strict about names, shapes and hashes; nothing is unpickled',
        'encoder = read_release("DIR").encoder',
        f"labels = torch.arange(10) % {network['num_classes']}"
        if network["num_classes"]
        else "labels = torch.full((10,), -1)",
        f"noise = SIGMA_DATA * torch.randn(10, {channels}, {side}, {side})",
        *([f"guidance = torch.full((10,), {_strength(description, steps):g})"] if description.guidance else []),
        *(["t = torch.full((10,), T_MAX)"] if sampler == "student" else []),
        "with torch.no_grad():",
        f"    {call.format(given=given, steps=steps, middle=sampling.get('intermediate_t'))}",
        "latents = encoder.denormalize(x)  # a VAE decodes them"
        if vae
        else "images = encoder.decode(encoder.denormalize(x))  # uint8 [N, H, W, C]",
    ]
    return "\n".join(lines)


def _strength(description: Description, steps: int) -> float:
    """The strength that a sample of so many steps is drawn with, else the lowest."""
    assert description.guidance is not None, "asked for where there is one"
    known = (description.sampling or {}).get("guidance") or {}
    return known.get(str(steps), description.guidance[0])


def commands(description: Description) -> list[str]:
    """Commands that sample and judge the folder."""
    vae = " --vae VAE" if encoder_of(description.encoder).vae else ""
    steps = " --steps 2" if 2 in (description.sampling or {}).get("steps", ()) else ""
    lines = [f"trigscale sample DIR --to samples.png{steps}{vae}"]
    if description.run is not None:
        lines.append(f"trigscale evaluate DIR --reference REAL_IMAGES{vae}")
    return lines
