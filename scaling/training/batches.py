"""What a rank trains on at each step: its share of the samples, and all that is random about them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from data_pipeline.order import SampleOrder
from data_pipeline.reader import LatentReader
from models.dropout import Dropout
from scaling.config.sections import StudentRecipe, TeacherRecipe
from scaling.methods.batch import Batch, draw_noise, draw_time
from scaling.methods.guidance import NO_LABEL
from scaling.run.devices import onto
from scaling.run.randomness import derive_seed, keys, normals, uniforms
from scaling.run.spec import RunSpec
from scaling.training.sharding.placement import check_devices
from scaling.training.sharding.world import World


class Batches:
    """The batches of one run as one rank sees them, by position in the stream of samples.

    Each rank takes a run of consecutive positions of the batch, in `passes` microbatches of `size` samples. What a
    sample is and all its random numbers follow from its position, so that neither the number of ranks nor a restart
    changes them.
    """

    def __init__(self, spec: RunSpec, reader: LatentReader, world: World, microbatch: int) -> None:
        """microbatch: images of a pass; 0: the rank's whole share. ConfigError where shares would be unequal."""
        check_devices(f"{spec.method}-{spec.size}", spec.recipe.batch, world.size, microbatch)
        self.spec, self.reader, self.world = spec, reader, world
        self.encoder = spec.data.latent_encoder()
        self.order = SampleOrder(len(reader), derive_seed(spec.seed, "order"))
        self.share = spec.recipe.batch // world.size
        self.size = microbatch or self.share
        self.passes = self.share // self.size

    def step(self, step: int) -> Iterator[Batch]:
        """The microbatches of this rank at step number `step`, counted from 0."""
        first = step * self.spec.recipe.batch + self.world.rank * self.share
        for n in range(self.passes):
            yield self._batch(first + n * self.size)

    def _batch(self, first: int) -> Batch:
        """The samples at positions first .. first + size - 1."""
        recipe, seed, device, size = self.spec.recipe, self.spec.seed, self.world.device, self.size
        latents, labels = self.reader.read(self.order.indices(first, size))
        x0 = self.encoder.normalize(self._draw(onto(torch.from_numpy(latents), device).float(), first))
        normal = normals(seed, "z", first, size, x0[0].numel(), device)
        tau = normals(seed, "t", first, size, 1, device).flatten()
        return Batch(
            x0=x0,
            z=draw_noise(normal.reshape(x0.shape)),
            t=draw_time(tau, recipe.p_mean, recipe.p_std),
            labels=self._labels(onto(torch.from_numpy(labels), device), first),
            dropout=self._dropout(first),
            guidance=self._guidance(first),
        )

    def _draw(self, stored: Tensor, first: int) -> Tensor:
        """Latents of stored ones; of moments mean + std eps, eps drawn anew at each position of the stream."""
        if not self.reader.manifest.moments:
            return stored
        mean, std = stored.chunk(2, dim=1)
        eps = normals(self.spec.seed, "latent", first, self.size, mean[0].numel(), self.world.device)
        return mean + std * eps.reshape(mean.shape)

    def _labels(self, labels: Tensor, first: int) -> Tensor:
        """A teacher with guidance must know samples without labels too: some lose theirs."""
        recipe = self.spec.recipe
        if not isinstance(recipe, TeacherRecipe) or not recipe.label_dropout:
            return labels
        lost = uniforms(self.spec.seed, "label", first, self.size, self.world.device) < recipe.label_dropout
        return labels.masked_fill(lost, NO_LABEL)

    def _dropout(self, first: int) -> Dropout | None:
        recipe = self.spec.recipe
        if not recipe.dropout:
            return None
        masks = keys(self.spec.seed, "dropout", first, self.size, self.world.device)
        return Dropout(recipe.dropout, masks, recipe.dropout_max_resolution)

    def _guidance(self, first: int) -> Tensor | None:
        """s ~ U[low, high] for each sample."""
        recipe = self.spec.recipe
        if not isinstance(recipe, StudentRecipe) or recipe.guidance is None:
            return None
        low, high = recipe.guidance
        return low + (high - low) * uniforms(self.spec.seed, "guidance", first, self.size, self.world.device)
