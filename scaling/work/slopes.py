"""How fast a teacher's f(x, t) changes along x and along t, by time: what makes consistency training unstable."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from torch import Tensor

from data_pipeline.files import write_bytes_atomic
from models.network import T_MAX
from models.trigflow import SIGMA_DATA, TrigFlowNet, add_noise
from scaling.data.opened import open_loading
from scaling.run.home import RunHome
from scaling.run.randomness import derive_seed
from scaling.run.spec import RunFile
from scaling.weights.trained import final_network

TIMES = tuple(T_MAX * n / 24 for n in range(1, 25))
POINTS = 32  # real samples, noised to each of the times


def write_slopes(config: RunFile, home: RunHome, device: torch.device) -> None:
    """slopes.npz of the run's home: `times` [T], and the norms of both terms of df/dt there, [T] each.

    `space`: || grad_x f . dx_t/dt ||, `time`: || d_t f ||, means over real samples (sCM, Figure 4). dx_t/dt is the
    network's own velocity.
    """
    spec = config.spec
    net = final_network(home, spec, device)
    latents, labels = open_loading(config.shards, config.loading).read(np.arange(POINTS))
    x0 = spec.data.latent_encoder().normalize(torch.from_numpy(latents).float()[:, : net.config.latent_channels])
    z = SIGMA_DATA * torch.randn(x0.shape, generator=torch.Generator().manual_seed(derive_seed("slopes")))
    told = torch.from_numpy(labels).to(device)
    found = [terms(net, x0.to(device), z.to(device), told, t) for t in TIMES]
    buffer = io.BytesIO()
    np.savez(buffer, times=np.array(TIMES), space=np.array([a for a, _ in found]), time=np.array([b for _, b in found]))
    write_bytes_atomic(home.slopes, buffer.getvalue())


@torch.no_grad()
def terms(net: TrigFlowNet, x0: Tensor, z: Tensor, labels: Tensor, t: float) -> tuple[float, float]:
    """The mean norms of grad_x f . dx/dt and of d_t f at time t, f = cos t x - sin t sd F(x / sd, t)."""
    times = torch.full((len(x0),), t, dtype=x0.dtype, device=x0.device)
    x, cos, sin = add_noise(x0, z, times), math.cos(t), math.sin(t)

    def f(x: Tensor, times: Tensor) -> Tensor:
        return net(x / SIGMA_DATA, times, labels)

    value = f(x, times)
    dxdt = SIGMA_DATA * value
    along_x = torch.func.jvp(lambda x: f(x, times), (x,), (dxdt,))[1]
    along_t = torch.func.jvp(lambda times: f(x, times), (times,), (torch.ones_like(times),))[1]
    space = cos * dxdt - sin * SIGMA_DATA * along_x
    time = -sin * x - cos * SIGMA_DATA * value - sin * SIGMA_DATA * along_t
    first, second = (term.flatten(1).norm(dim=1).mean().item() for term in (space, time))
    return first, second
