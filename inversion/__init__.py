"""From a clip's latents to the trajectory that leads from them to noise."""
