"""The kinds of models that BLADE edits with: all that is true of one kind only stands in its file here, and in inversion/coordinates.py."""

from __future__ import annotations

from ...inversion.coordinates import Coordinates
from .family import Family
from .unet import UNet

FAMILIES: tuple[Family, ...] = (UNet(),)


def family_of(model) -> Family:
    """Of a MODEL. Raises ValueError for one of no kind that is served."""
    network = model.get_model_object("diffusion_model")
    network = getattr(network, "_orig_mod", network)  # within torch.compile's
    for family in FAMILIES:
        if family.is_of(network):
            return family
    raise ValueError(
        f"the model is a {type(model.model).__name__} ({type(network).__name__}), not a U-Net. Load an SD1.5, SD2.x or SDXL checkpoint: flow and transformer models have no DDIM trajectory."
    )


def coordinates_of(model) -> Coordinates:
    """What a MODEL predicts. Raises ValueError for one that cannot be inverted."""
    return family_of(model).coordinates(model)
