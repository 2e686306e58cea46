"""The folder of a ComfyUI instance in which the graphs of workflows/ run: the pack, the demo model and the demo clips."""

from __future__ import annotations

from pathlib import Path

from runner.host import REPOSITORY, copy_if_new, make_base

DEMO = REPOSITORY / "demo"
CHECKPOINT_NAME = "blade_demo.safetensors"  # the name that the workflows ask for
TWIN_NAME = "blade_demo_v.safetensors"  # its U-Net fine-tuned to predict v, for core's Load Diffusion Model
PUBLISHED = (  # models that workflows ask for and that this repository does not hold
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints/sd_xl_base_1.0.safetensors",
    "controlnet/control_v11p_sd15_canny_fp16.safetensors",
)


def prepare_base(base: Path, checkpoint: Path | None = None, pack: str = "blade") -> Path:
    """Fills the folder of one ComfyUI instance: this repository as custom node pack `pack`, the demo model's pack, the checkpoint (this
    repository's own unless another is given, always as blade_demo.safetensors), its twin that predicts v, and the demo clips.

    May be called again on the same folder. Returns its absolute path."""
    base = make_base(base, {pack: REPOSITORY, "blade_demo_model": DEMO / "model_pack"})
    files = {
        base / "models" / "checkpoints" / CHECKPOINT_NAME: checkpoint or DEMO / CHECKPOINT_NAME,
        base / "models" / "diffusion_models" / TWIN_NAME: DEMO / TWIN_NAME,
        **{base / "input" / clip.name: clip for clip in (DEMO / "clips").glob("*.mp4")},
    }
    for target, source in files.items():
        if source.exists():
            copy_if_new(source, target)
    return base


def add_placeholders(base: Path) -> None:
    """Empty files under the names of the published models that workflows ask for: the server then accepts such a graph, and ends at its loader."""
    for name in PUBLISHED:
        path = base / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
