"""Released weights: a folder that a stranger can load, read strictly. Needs torch and safetensors alone.

config.json         what the network is and how it is sampled; the hashes of the files of weights
model.safetensors   parameters in float32, bfloat16 or float16 by the names of TrigFlowNet, buffers always in float32;
                    above 5 GB model-00001-of-0000N.safetensors with model.safetensors.index.json
SHA256SUMS          of all other files, as `sha256sum --check` reads it
README.md, scores.json, grid.png, sample.py   of a release (`trigscale release`), not of weights that are only kept

Nothing is unpickled. The weights carry the keys CORE of config.json, so that neither file can be altered alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from data_pipeline.files import sha256_file
from data_pipeline.text import is_safe, shown
from models.encoders import ENCODERS, Encoder, encoder_of
from models.family import FamilyError, network_config
from models.network import SIGMA_DATA, T_MAX, NetworkConfig
from models.shape import BUFFERS, state_shapes
from models.tensor_files import REMEDY, ModelError, Stored, open_runs, read_header

if TYPE_CHECKING:  # a description is read without torch
    import torch
    from torch import Tensor

    from models.sharded import LocalRun
    from models.trigflow import TrigFlowNet

KIND, VERSION = "trigscale-model", 2
FORMAT = f"{KIND}-{VERSION}"
CONFIG, WEIGHTS, SUMS = "config.json", "model.safetensors", "SHA256SUMS"
INDEX = f"{WEIGHTS}.index.json"
CARD, SCORES, GRID, ALONE = "README.md", "scores.json", "grid.png", "sample.py"
METADATA = "trigscale"  # of the files of weights
CORE = ("kind", "parameterization", "network", "encoder", "guidance", "sigma_data", "t_max")
PRECISIONS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
HASH = re.compile("[0-9a-f]{64}")
FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class Release:
    """A folder of weights whose description is read and fits them; `state` and `network` read the weights.

    content: config.json, in the form of this version. files: SHA-256 by name of each file of weights.
    """

    folder: Path
    config: NetworkConfig
    content: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, str]
    tensors: Mapping[str, Stored] = field(repr=False)

    @property
    def sha256(self) -> str:
        """What the weights are known by: the hash of their file; of several, the hash of the list of theirs."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        return hashlib.sha256(sums_text(self.files).encode()).hexdigest()

    @property
    def encoder(self) -> Encoder:
        """The encoder of what the network sees. ModelError where only its name is known."""
        try:
            return encoder_of(self.content["encoder"])
        except ValueError as error:
            raise ModelError(f"{self.folder / CONFIG}: encoder: {error}") from None

    def verify(self) -> None:
        """Raise ModelError unless every byte of the weights is as it was written."""
        for name, sha256 in self.files.items():
            path = self.folder / name
            if sha256_file(path) != sha256:
                raise ModelError(
                    f"{path}: its content does not match the hash in {CONFIG}: damaged; make or copy it again"
                )

    def state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The weights by the names of TrigFlowNet on the CPU, verified and found finite. ModelError.

        dtype: of parameters; unless given float32, which holds all that files may hold. Buffers are float32.
        """
        import torch

        self.verify()
        types = {name: torch.float32 if name.endswith(BUFFERS) else dtype or torch.float32 for name in self.tensors}
        state = {name: torch.empty(stored.shape, dtype=types[name]) for name, stored in self.tensors.items()}
        with open_runs() as reader:
            for name, tensor in state.items():
                reader.read(self.tensors[name], 0, tensor.view(-1))
                if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
                    raise ModelError(f"{self.tensors[name].path}: {name} holds NaN or infinity: {REMEDY}")
        return state

    def load_into(self, net: TrigFlowNet) -> None:
        """Fill a network of this shape with what it holds of the weights on this rank, and nothing more.

        It may be whole, sharded by FSDP2 (`fully_shard`, then `to_empty`) or made under `deepspeed.zero.Init`. Every
        rank calls it and reads its own share alone, so hashes are not looked at: call `verify` on one rank before.
        ModelError where the network is another one.
        """
        from models.sharded import local_runs

        if net.config != self.config:
            raise ModelError(f"{self.folder}: holds the network {self.config}, not {net.config}")
        self.read(local_runs(net))

    def read(self, runs: Mapping[str, LocalRun]) -> None:
        """Fill runs of these tensors, by name; as `load_into`."""
        with open_runs() as reader:
            for name, run in runs.items():
                reader.read(self.tensors[name], run.first, run.local)

    def network(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> TrigFlowNet:
        """The network for inference; `dtype` of its parameters: float32 unless given. Buffers stay float32."""
        import torch

        from models.trigflow import TrigFlowNet

        with torch.device("meta"):
            net = TrigFlowNet(self.config)
        net.load_state_dict(self.state(dtype), assign=True)
        return net.to(device).eval().requires_grad_(False)


def load_release(
    folder: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TrigFlowNet:
    """The network in a folder that `trigscale release`, `model ema` or `model import-edm2` wrote, for inference.

    F = net(x / sigma_data, t, labels); a student that was distilled with guidance takes `guidance` [B] too. dtype: of
    its parameters, float32 unless given. Raises ModelError, naming the file, where a name, a shape or a hash is not
    what it must be; it is a `data_pipeline.errors.UserError`.
    """
    return read_release(folder).network(device, dtype)


def read_release(folder: Path | str) -> Release:
    """Read the description of a folder of weights and the names and shapes in it; the weights themselves wait.

    Raises ModelError: foreign, damaged or altered files, or those of a newer version.
    """
    folder = Path(folder)
    path = folder / CONFIG
    content = read_json(path)
    version = _version(content, path)
    _require_printable(content, path)
    if version == 1:
        files, carried = {WEIGHTS: content.pop("sha256", None)}, _without(content, "format")
        content = _upgraded(carried)
    else:
        _check_listed(folder)
        files, carried = content.get("files"), {key: content.get(key) for key in CORE}
    if not isinstance(files, dict) or not files or not all(map(_is_file, files.items())):
        raise ModelError(f"{path}: sha256 of the weights is {files!r:.200}, not 64 hexadecimal digits: {REMEDY}")
    config = _config(content.get("network"), path)
    for key, value in (("sigma_data", SIGMA_DATA), ("t_max", T_MAX)):
        if content.get(key) != value:
            raise ModelError(f"{path}: {key} is {content.get(key)!r:.80}, and networks are used here with {value}")
    tensors = _tensors(folder, files, canonical(carried))
    _check_tensors(folder, config, tensors, content.get("dtype", "fp32"))
    return Release(folder, config, content, files, tensors)


def canonical(content: Mapping[str, Any]) -> str:
    """One text for equal content."""
    return json.dumps(content, sort_keys=True)


def sums_text(files: Mapping[str, str]) -> str:
    """What `sha256sum` prints of these files: hashes by name."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))


def read_sums(folder: Path) -> dict[str, str]:
    """The hashes by name in SHA256SUMS. ModelError where it is missing or is no such list."""
    path, found = folder / SUMS, {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            sha256, _, name = line.partition("  ")
            inside = PurePosixPath(name)
            if not HASH.fullmatch(sha256) or not name or inside.is_absolute() or ".." in inside.parts or name in found:
                raise ValueError(f"line {line!r:.100}")
            found[name] = sha256
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path}: no such file: {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: is no list of hashes ({error}): {REMEDY}") from error
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder. ModelError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path}: no such file: name a folder made by `trigscale release`, `model ema` or `model import-edm2`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}): {REMEDY}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}, not an object: {REMEDY}")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys; ValueError where one stands twice, of which readers take either."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key in content if sum(key == each for each, _ in pairs) > 1)
        raise ValueError(f"key {twice!r:.80} stands twice")
    return content


def _require_printable(value: Any, path: Path) -> None:
    """ModelError for a text that a terminal or a card would obey: what is read here is printed."""
    if isinstance(value, str) and not is_safe(value):
        raise ModelError(f"{path}: {shown(value)} holds line breaks or control characters: {REMEDY}")
    for each in value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else ():
        _require_printable(each, path)


def _version(content: Mapping[str, Any], path: Path) -> int:
    found = content.get("format")
    match = re.fullmatch(rf"{KIND}-(\d{{1,6}})", found) if isinstance(found, str) else None
    if match is None:
        raise ModelError(f"{path}: has format {found!r:.80}, not {FORMAT!r}: not written by trigscale")
    if int(match[1]) > VERSION:
        raise ModelError(
            f"{path}: has format {found!r}, and this trigscale knows up to {FORMAT!r}: install a newer one"
        )
    return int(match[1])


def _check_listed(folder: Path) -> None:
    """config.json itself is as it was written."""
    path = folder / CONFIG
    if read_sums(folder).get(CONFIG) != sha256_file(path):
        raise ModelError(f"{path}: its content does not match the hash in {SUMS}: one was altered; {REMEDY}")


def _is_file(entry: tuple[Any, Any]) -> bool:
    name, sha256 = entry
    return bool(FILE.fullmatch(name)) and isinstance(sha256, str) and bool(HASH.fullmatch(sha256))


def _config(network: Any, path: Path) -> NetworkConfig:
    if not isinstance(network, dict):
        raise ModelError(f"{path}: network is {network!r:.80}, not keys of a network's shape: {REMEDY}")
    try:
        return network_config(network, f"{path}: network")
    except FamilyError as error:
        raise ModelError(str(error)) from None


def _tensors(folder: Path, files: Mapping[str, str], carried: str) -> dict[str, Stored]:
    """All tensors of the files, each of which carries what config.json says."""
    tensors: dict[str, Stored] = {}
    for name in files:
        found, metadata = read_header(folder / name)
        if metadata.get(METADATA) != carried:
            raise ModelError(
                f"{folder / name}: belongs to another {CONFIG} than the one beside it: one was altered; {REMEDY}"
            )
        if twice := found.keys() & tensors.keys():
            raise ModelError(f"{folder / name}: holds {min(twice)}, which another file holds too: {REMEDY}")
        tensors |= found
    return tensors


def _check_tensors(folder: Path, config: NetworkConfig, tensors: Mapping[str, Stored], dtype: str) -> None:
    """Names, shapes and types are those of the network."""
    expected = state_shapes(config)
    for name in {**expected, **tensors}:
        found = tensors[name].shape if name in tensors else None
        if found != expected.get(name):
            where = tensors[name].path if name in tensors else folder / WEIGHTS
            raise ModelError(
                f"{where}: {name} has shape {found} where {expected.get(name)} belongs: "
                f"not the network of its description; {REMEDY}"
            )
        code = "F32" if name.endswith(BUFFERS) else PRECISIONS.get(dtype)
        if tensors[name].dtype != code:
            raise ModelError(f"{tensors[name].path}: {name} is {tensors[name].dtype} where {code} belongs: {REMEDY}")


def _without(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of version 1 in the form of this one; what it did not say is None."""
    run, name, source = old.get("run"), old.get("encoder"), old.get("source")
    recipe = run["recipe"] if isinstance(run, dict) else {}
    encoder: dict[str, Any] = {"name": name or "rgb-v1"}
    if encoder["name"] in ENCODERS:
        encoder = ENCODERS[encoder["name"]].describe()
    return {
        **described(
            kind="student" if isinstance(run, dict) and run["method"] != "teacher" else "teacher",
            parameterization=old.get("parameterization"),
            network=old.get("network"),
            encoder=encoder,
            guidance=recipe.get("guidance"),
        ),
        "parameters": old.get("parameters"),
        "dtype": "fp32",
        "licence": source.get("licence") if isinstance(source, dict) else None,
        "source": source,
        "run": run,
    }


def described(**core: Any) -> dict[str, Any]:
    """The keys CORE, with the constants that all networks share."""
    return {key: {**core, "sigma_data": SIGMA_DATA, "t_max": T_MAX}[key] for key in CORE}
