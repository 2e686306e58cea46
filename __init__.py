"""BLADE: blended latent diffusion under attention control, for local video editing in ComfyUI (arXiv 2409.03514)."""

WEB_DIRECTORY = "web"  # the nodes' help pages, in its folder docs, and what the page runs


async def comfy_entrypoint():
    """ComfyUI's door to the pack."""
    from .nodes import BladeExtension

    return BladeExtension()
