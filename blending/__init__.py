"""The masked sampler: edited latents inside the mask, the clip's own trajectory outside, at every noise level."""
