"""What a rank trains on at each step: its share of the samples, and all that is random about them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from data_pipeline.opening import order_of
from data_pipeline.reader import LatentReader
from data_pipeline.stream import SampleStream
from models.dropout import Dropout
from scaling.config.recipes import StudentRecipe, TeacherRecipe
from scaling.config.sections import Loading
from scaling.methods.batch import Batch, Noise, draw_noise, draw_time
from scaling.methods.ends import drawn_end
from scaling.methods.guidance import NO_LABEL
from scaling.methods.method import proposals
from scaling.run.randomness import derive_seed, device_normals, keys, normals, uniforms
from scaling.run.spec import RunSpec
from scaling.training.feed import Feed
from scaling.training.sharding.placement import check_devices
from scaling.training.sharding.world import World

PLAIN = Loading()


class Batches:
    """The batches of one run as one rank sees them, by position in the stream of samples.

    Each rank takes a run of consecutive positions of the batch, in `passes` microbatches of `size` samples. What a
    sample is and all its random numbers follow from its position, so that neither the number of ranks nor a restart
    changes them. They are read ahead, and in another thread, as `loading` says.

    stand_ins: samples that stood in for others which cannot be read, on this rank, since they were last taken.
    """

    def __init__(
        self, spec: RunSpec, reader: LatentReader, world: World, microbatch: int, loading: Loading = PLAIN
    ) -> None:
        """microbatch: images of a pass; 0: the rank's whole share. ConfigError where shares would be unequal."""
        check_devices(f"{spec.label}-{spec.size}", spec.recipe.batch, world.size, microbatch)
        self.spec, self.reader, self.world = spec, reader, world
        self.encoder = spec.data.latent_encoder()
        window = spec.data.window
        blocks, block = (window.blocks, window.block) if window else (0, 0)
        order = order_of(reader.manifest, blocks, block, derive_seed(spec.seed, "order"))
        bad_share = loading.bad_share if loading.on_bad_shard == "skip" else None
        self.stream = SampleStream(reader, order, bad_share)
        self.share = spec.recipe.batch // world.size
        self.size = microbatch or self.share
        self.passes = self.share // self.size
        self.feed = Feed(self.stream, self.size, self._following, loading, world.device)
        self.proposals = proposals(spec.recipe)
        self.stand_ins = 0

    def step(self, step: int) -> Iterator[Batch]:
        """The microbatches of this rank at step number `step`, counted from 0."""
        for n in range(self.passes):
            yield self._batch(self._first(step) + n * self.size)

    def take_stand_ins(self) -> int:
        """The count of stand-ins, which begins anew."""
        taken, self.stand_ins = self.stand_ins, 0
        return taken

    def close(self) -> None:
        """Read no further ahead."""
        self.feed.close()

    def _first(self, step: int) -> int:
        """The first position of this rank's share of a step."""
        return step * self.spec.recipe.batch + self.world.rank * self.share

    def _following(self, first: int) -> int | None:
        """The first position of the microbatch after the one at `first`; None after the last step."""
        step = first // self.spec.recipe.batch
        if first + self.size < self._first(step) + self.share:
            return first + self.size
        return self._first(step + 1) if step + 1 < self.spec.recipe.steps else None

    def _batch(self, first: int) -> Batch:
        """The samples at positions first .. first + size - 1."""
        recipe = self.spec.recipe
        fed = self.feed.get(first)
        self.stand_ins += fed.stand_ins
        x0 = self.encoder.normalize(self._drawn(fed.latents, first))
        noise = self._noise("", first, x0, recipe.p_mean, recipe.p_std)
        return Batch(
            x0=x0,
            z=noise.z,
            t=noise.t,
            labels=self._labels(fed.labels, first),
            dropout=self._dropout(first),
            guidance=self._guidance(first),
            guidance_sigma=recipe.guidance_sigma if isinstance(recipe, StudentRecipe) else None,
            further={name: self._noise(f"-{name}", first, x0, *times) for name, times in self.proposals.items()},
            to=self._end(noise.t, first),
        )

    def _noise(self, key: str, first: int, x0: Tensor, p_mean: float, p_std: float) -> Noise:
        """Noise like x0 and times, other ones for each key."""
        seed, device = self.spec.seed, self.world.device
        normal = normals(seed, f"z{key}", first, self.size, x0[0].numel(), device)
        tau = normals(seed, f"t{key}", first, self.size, 1, device).flatten()
        return Noise(draw_noise(normal.reshape(x0.shape)), draw_time(tau, p_mean, p_std))

    def _drawn(self, latents: Tensor, first: int) -> Tensor:
        """The latents themselves, or of their moments mean + std eps, another eps each time that a sample is seen."""
        if not self.reader.manifest.moments:
            return latents
        mean, std = latents.chunk(2, dim=1)
        eps = device_normals(self.spec.seed, "latent", first, len(mean), mean[0].numel(), latents.device)
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

    def _end(self, t: Tensor, first: int) -> Tensor | None:
        """Where a flow map is told to lead each sample."""
        recipe = self.spec.recipe
        if not isinstance(recipe, StudentRecipe) or not recipe.flow_map:
            return None
        same, place = (
            uniforms(self.spec.seed, purpose, first, self.size, self.world.device) for purpose in ("same", "to")
        )
        return drawn_end(t, same, place, recipe.flow_map_same)

    def _guidance(self, first: int) -> Tensor | None:
        """s ~ U[low, high] for each sample."""
        recipe = self.spec.recipe
        if not isinstance(recipe, StudentRecipe) or recipe.guidance is None:
            return None
        low, high = recipe.guidance
        return low + (high - low) * uniforms(self.spec.seed, "guidance", first, self.size, self.world.device)
