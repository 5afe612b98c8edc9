"""Pictures of samples while a run trains: the same noise and labels every time, so that one sees the network change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from data_pipeline.files import write_bytes_atomic
from models.encoders import EncoderError
from scaling.config.sections import Launch
from scaling.config.validation import ConfigError
from scaling.run.home import RunHome
from scaling.run.spec import RunSpec
from scaling.sampling.decode import run_decoder
from scaling.sampling.evaluations import sampler_steps
from scaling.sampling.generate import generate
from scaling.sampling.pictures import to_png
from scaling.training.origin import InMemory
from scaling.training.sharding.gather import gather
from scaling.training.sharding.pieces import Piece
from scaling.training.sharding.world import World

SIDE = 8  # images a row, and rows

log = logging.getLogger(__name__)


class Grids:
    """8 x 8 samples of the network every so many steps, as grids/step-STEP-N.png, N the steps of the sampler.

    They are the first samples that the finished run will be judged by, from the average that it will be sampled with.
    Nothing that training draws from changes: no global generator is used.
    """

    def __init__(self, spec: RunSpec, launch: Launch, home: Path, world: World, vae: Path | None = None) -> None:
        """vae: the folder of the VAE that decodes. Raises ConfigError where grids are asked for and it is not there."""
        self._spec, self._every, self._folder, self._world = spec, launch.grid_steps, RunHome(home).grids, world
        self._vae = vae
        if self._every and world.leads:
            try:
                run_decoder(spec.data, vae, world.device)
            except EncoderError as error:
                raise ConfigError(f"launch.grid_steps: {self._every}, but {error}, or grid_steps to 0") from error

    def due(self, step: int) -> bool:
        """Whether a grid is drawn after this step."""
        return self._every > 0 and step % self._every == 0

    def draw(self, step: int, averaged: Mapping[str, Piece], buffers: Mapping[str, Piece]) -> list[Path]:
        """Rank 0 draws and writes the grids of a step: their files; [] on the other ranks.

        Collective. averaged: this rank's pieces of the averaged parameters. OSError names the file. A network whose
        samples are not finite has no picture, which is a warning.
        """
        state = gather({**averaged, **buffers}, self._world)
        return [] if state is None else self._draw(step, state)

    def _draw(self, step: int, state: Mapping[str, Tensor]) -> list[Path]:
        spec, device = self._spec, self._world.device
        network = InMemory(spec.network_config(), state).frozen().to(device).eval()
        self._folder.mkdir(exist_ok=True)
        paths = []
        for steps in sampler_steps(spec):
            try:
                images, _ = generate(spec, network, steps, SIDE * SIDE, device, vae=self._vae)
            except EncoderError as error:  # samples that are not finite: training goes on, or says itself what is wrong
                log.warning("no grid of %d-step samples after step %d: %s", steps, step, error)
                continue
            paths.append(self._folder / f"step-{step:08d}-{steps}.png")
            write_bytes_atomic(paths[-1], to_png(images, SIDE))
        return paths
