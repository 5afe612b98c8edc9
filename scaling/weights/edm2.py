"""EDM2's published networks as folders of weights, and which of our presets a network is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data_pipeline.files import refuse_occupied, sha256_file
from models.encoders import RGB, get_encoder
from models.family import Family
from models.network import FLAVOURS, NetworkConfig
from models.release import CONFIG, ModelError
from scaling.weights.folder import Parameterization, SavedModel, Source, describe_network, load_model, save_model

LATENT_ENCODERS = {4: "edm2-sd-vae-v1"}  # by latent channels; EDM2's other networks see pixels
LICENCE = (
    "EDM2's published weights: CC BY-NC-SA 4.0 (attribution, no commercial use, share alike); "
    "this copy of them is under the same terms"
)
# network-snapshot-0002147-0.100.pkl, edm2-img512-s-2147483-0.130.pkl: thousands of images, then the width of the EMA.
NAMED = re.compile(r"-(\d{7,})-(\d\.\d+)\.pkl$")


def import_edm2(path: Path, folder: Path, parameterization: Parameterization) -> SavedModel:
    """Write the network of an EDM2 snapshot to a new folder: EDM2's F ("edm"), or exactly -F ("trigflow").

    Where the folder holds that import already, it is verified and left as it is. Raises EDM2Error, ModelError and
    OSError, each naming the file.
    """
    from models.edm2 import as_trigflow_teacher, read_edm2  # torch: which the search for presets does without

    source = _describe(path)
    if (folder / CONFIG).exists():
        return _already(folder, source, parameterization)
    refuse_occupied(folder)  # before a long conversion
    network = read_edm2(path)
    state = as_trigflow_teacher(network.state) if parameterization == "trigflow" else network.state
    known = LATENT_ENCODERS.get(network.config.latent_channels)
    encoder = get_encoder(known) if known else RGB
    facts = {"source": source, "licence": source.licence}
    description = describe_network(network.config, encoder, parameterization=parameterization, **facts)
    return save_model(folder, description, state)


def _describe(path: Path) -> Source:
    named = NAMED.search(path.name)
    return Source(
        file=path.name,
        sha256=sha256_file(path),
        ema_sigma_rel=float(named[2]) if named else None,
        images=int(named[1]) * 1000 if named else None,
        licence=LICENCE,
    )


def _already(folder: Path, source: Source, parameterization: Parameterization) -> SavedModel:
    there = load_model(folder)
    if (there.description.source, there.description.parameterization) != (source, parameterization):
        raise ModelError(f"{folder}: holds another model already: choose another folder, or remove it first")
    there.verify()
    return there


def preset_of(config: NetworkConfig, families: Iterable[Family]) -> str | None:
    """FAMILY/SIZE of the preset of this shape, whichever its flavour; None where there is none."""
    plain = replace(config, **FLAVOURS["edm2"], guidance=False)
    for family in families:
        for size, preset in family.sizes.items():
            if replace(preset, **FLAVOURS["edm2"], guidance=False) == plain:
                return f"{family.name}/{size}"
    return None
