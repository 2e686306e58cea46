"""BLADE: blended latent diffusion under attention control, for local video editing in ComfyUI (arXiv 2409.03514)."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
