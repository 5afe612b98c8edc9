"""TrigFlow: the parameterisation of diffusion and consistency models by an angle (sCM, section 3).

A noisy sample is x_t = cos(t) x0 + sin(t) z with z ~ N(0, sigma_data^2 I) and t in [0, pi/2]; t relates to the noise
level of EDM by sigma = sigma_data tan(t), x_t = cos(t) x_sigma. All data have standard deviation SIGMA_DATA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, overload

import torch
from torch import Tensor, nn

from models.dropout import Dropout
from models.dual import Dual, Signal, value_of
from models.embedding import CosineEmbedding, noise_condition
from models.network import SIGMA_DATA, SIGMA_MAX, WEIGHT_CHANNELS, NetworkConfig
from models.primitives import MPLinear
from models.unet import UNet

SIGMA_MIN, RHO = 0.002, 7.0


def time_from_sigma(sigma: Tensor) -> Tensor:
    """t = arctan(sigma / sigma_data)."""
    return torch.atan(sigma / SIGMA_DATA)


def edm_times(steps: int, sigma_max: float = SIGMA_MAX) -> Tensor:
    """t of EDM's noise levels from sigma_max to 0.002 with rho 7 (Karras et al. 2022, Eq. 5), then 0: [steps + 1]."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    low, high = SIGMA_MIN ** (1 / RHO), sigma_max ** (1 / RHO)
    sigma = (high + ramp * (low - high)) ** RHO
    return time_from_sigma(torch.cat([sigma, sigma.new_zeros(1)]))


def expand(t: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], to multiply `like` [B, C, H, W]."""
    return t.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = cos(t) x0 + sin(t) z for x0, z [B, C, H, W] and t [B]."""
    t = expand(t, x0)
    return torch.cos(t) * x0 + torch.sin(t) * z


def velocity(x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """v_t = dx_t/dt = cos(t) z - sin(t) x0, [B, C, H, W]."""
    t = expand(t, x0)
    return torch.cos(t) * z - torch.sin(t) * x0


def denoise(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    """f(x, t) = cos(t) x - sin(t) sigma_data F: the denoiser of a teacher, the sample of a consistency model."""
    t = expand(t, x)
    return torch.cos(t) * x - torch.sin(t) * SIGMA_DATA * f


Drawn = CosineEmbedding | MPLinear  # layers whose tensors are drawn, and are nothing but drawn


class TrigFlowNet(nn.Module):
    """The U-Net F and the adaptive weighting w(t) that is trained beside it (sCM, sections 3 and 4.2).

    Inputs are x / sigma_data and t. Both heads leave `forward` together because sharded wrappers (DDP, FSDP2) see only
    what forward uses.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.unet = UNet(config)
        self.logvar_fourier = CosineEmbedding(WEIGHT_CHANNELS, "fourier")
        self.logvar_linear = MPLinear(WEIGHT_CHANNELS, 1)

    @property
    def config(self) -> NetworkConfig:
        """The shape of the network."""
        return self.unet.config

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw every weight and the frequencies of w(t) from `generator`."""
        for module in self.drawn():
            module.reset_parameters(generator)

    def reset_weighting(self, generator: torch.Generator) -> None:
        """Draw w(t) anew: a student's loss has another scale than its teacher's."""
        for module in self.weighting_layers():
            module.reset_parameters(generator)

    def drawn(self) -> Iterator[Drawn]:
        """What `reset_parameters` draws, in its order; gains start at zero, so F starts as the zero function."""
        yield from (module for module in self.unet.modules() if isinstance(module, Drawn))
        yield from self.weighting_layers()

    def weighting_layers(self) -> tuple[Drawn, ...]:
        """The layers of w(t)."""
        return self.logvar_fourier, self.logvar_linear

    @overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        *,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
        with_weight: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        *,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
        with_weight: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(
        self,
        x: Dual,
        t: Dual,
        labels: Tensor,
        *,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
        with_weight: Literal[True],
    ) -> tuple[Dual, Tensor]: ...
    def forward(
        self,
        x: Signal,
        t: Signal,
        labels: Tensor,
        *,
        guidance: Tensor | None = None,
        drop: Dropout | None = None,
        to: Tensor | None = None,
        with_weight: bool = False,
    ) -> Signal | tuple[Signal, Tensor]:
        """F [B, C, H, W] and, if asked for, w(t) [B], in float32 at least; see `UNet.forward` for the arguments."""
        f = _widen(self.unet(x, t, labels, guidance, drop, to))
        if not with_weight:
            return f
        return f, self.weighting(value_of(noise_condition(value_of(t), self.config.time_input)))

    def weighting(self, c_noise: Tensor) -> Tensor:
        """w [B] at c_noise [B], in float32 at least."""
        # The sum of one: a view of it would have FSDP2 warn of what could be done to views.
        return _widen_tensor(self.logvar_linear(self.logvar_fourier(c_noise)).sum(1))

    def force_weight_norm(self) -> None:
        """Normalise every stored weight; called after each optimizer step (EDM2, section 2.3)."""
        for module in self.modules():
            if isinstance(module, MPLinear):
                module.force_weight_norm()


def _widen(x: Signal) -> Signal:
    if isinstance(x, Dual):
        return Dual(_widen_tensor(x.value), _widen_tensor(x.tangent))
    return _widen_tensor(x)


def _widen_tensor(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
