"""A consistency model as a folder of Hugging Face's diffusers, which needs diffusers alone to be sampled.

diffusers has no network of this kind, so the folder carries its code (`carried/`): it is loaded with trust_remote_code.
Its scheduler is diffusers' SCMScheduler; what that leaves to a pipeline is in `carried/pipeline.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_folder, refuse_occupied, write_json_atomic, write_text_atomic
from models import vae as vae_files
from models.network import SIGMA_DATA, T_MAX
from models.trigflow import TrigFlowNet
from scaling.config.recipes import StudentRecipe
from scaling.run.spec import RunSpec

CARRIED = Path(__file__).parent / "carried"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TESTED = "0.42.1"  # diffusers
CARD = """\
# {name} for diffusers

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("DIR", trust_remote_code=True{vae})
images = pipe(class_labels=[{classes}], num_inference_steps=2).images
```

`trust_remote_code`: diffusers has no network of this kind, so `pipeline.py` and `unet/*.py` are code; read it first.
The scheduler is diffusers' SCMScheduler. Given `noise` and `renoise`, the samples are those of trigscale. Written for
diffusers {tested}; load it in float32.

Licence of the weights: {licence}.
"""


class DiffusersError(UserError):
    """What cannot be written as a folder of diffusers; the message says why."""


def write_diffusers(
    network: TrigFlowNet, spec: RunSpec, to: Path, *, vae: Path | None = None, licence: str | None = None
) -> dict[str, Any]:
    """Write a student to a new folder; what was done. vae: the folder of its VAE, to be copied beside it.

    Raises DiffusersError for a teacher, EncoderError for another VAE, OSError where the folder cannot be written.
    """
    if not isinstance(spec.recipe, StudentRecipe):
        raise DiffusersError(
            f"{spec.name()} is a teacher: diffusers' SCMScheduler samples consistency models; export a student"
        )
    refuse_occupied(to)
    encoder = spec.data.latent_encoder()
    if vae is not None:
        vae_files.require_encoders(vae_files.find_vae(vae), encoder)
    weights = {
        name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items() if name.startswith("unet.")
    }
    with atomic_folder(to) as partial:
        (partial / "unet").mkdir()
        (partial / "scheduler").mkdir()
        save_file(weights, partial / "unet" / WEIGHTS, {"format": "pt"})
        config = {
            "_class_name": "TrigFlowUNet",
            "_diffusers_version": TESTED,
            "net": json.loads(json.dumps(network.config.describe())),
            "tensors": {name: list(tensor.shape) for name, tensor in weights.items()},
            "sigma_data": SIGMA_DATA,
            "t_max": T_MAX,
            "intermediate_t": spec.sampling.intermediate_t,
            "encoder": encoder.describe(),
            "guidance": spec.recipe.guidance,
        }
        write_json_atomic(partial / "unet" / "config.json", config)
        for name in ("trigflow_unet.py", "sample.py"):
            shutil.copyfile(CARRIED / name, partial / "unet" / name)
        shutil.copyfile(CARRIED / "pipeline.py", partial / "pipeline.py")
        write_json_atomic(partial / "scheduler" / "scheduler_config.json", _scheduler())
        if vae is not None:
            (partial / "vae").mkdir()
            for name in (vae_files.CONFIG, vae_files.WEIGHTS):
                shutil.copyfile(vae / name, partial / "vae" / name)
        write_json_atomic(partial / "model_index.json", _index(vae is not None))
        write_text_atomic(partial / "README.md", _card(spec, network, licence, needs=bool(encoder.vae) and vae is None))
        shutil.copymode(partial / "model_index.json", partial / "unet" / WEIGHTS)
    return {"folder": str(to), "run": spec.name(), "parameters": sum(tensor.numel() for tensor in weights.values())}


def _index(has_vae: bool) -> dict[str, Any]:
    return {
        "_class_name": ["pipeline", "TrigFlowPipeline"],
        "_diffusers_version": TESTED,
        "unet": ["trigflow_unet", "TrigFlowUNet"],
        "scheduler": ["diffusers", "SCMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"] if has_vae else [None, None],
    }


def _scheduler() -> dict[str, Any]:
    return {
        "_class_name": "SCMScheduler",
        "_diffusers_version": TESTED,
        "num_train_timesteps": 1000,
        "prediction_type": "trigflow",
        "sigma_data": SIGMA_DATA,
    }


def _card(spec: RunSpec, network: TrigFlowNet, licence: str | None, *, needs: bool) -> str:
    return CARD.format(
        name=spec.name(),
        vae=', vae=AutoencoderKL.from_pretrained("VAE")' if needs else "",
        classes="0, 1, 2" if network.config.num_classes else "-1",
        tested=TESTED,
        licence=licence or "not said",
    )
