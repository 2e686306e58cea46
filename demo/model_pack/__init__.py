"""Lets ComfyUI recognise the demo checkpoint: SD1.x's architecture in small sizes. Adds no node; BLADE itself does not need it.

Part of the demo only: a real SD1.5 checkpoint loads without it.
"""

import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base

from .architecture import CLIP_CONFIG, UNET_CONFIG


class BladeDemoClipModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device, dtype=dtype, textmodel_json_config=CLIP_CONFIG, return_projected_pooled=False, model_options=model_options
        )


class BladeDemoClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}, **options):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=BladeDemoClipModel, **options)


class BladeDemoModel(comfy.supported_models.SD15):
    unet_config = {
        "context_dim": UNET_CONFIG["context_dim"],
        "model_channels": UNET_CONFIG["model_channels"],
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": UNET_CONFIG["num_heads"], "num_head_channels": -1}

    def model_type(self, state_dict, prefix=""):
        """The entries by which core knows SDXL checkpoints that predict v, with a zero terminal SNR."""
        if "v_pred" not in state_dict:
            return comfy.model_base.ModelType.EPS
        self.sampling_settings = {"zsnr": "ztsnr" in state_dict}
        return comfy.model_base.ModelType.V_PREDICTION

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, BladeDemoClip)


if not any(model.__name__ == "BladeDemoModel" for model in comfy.supported_models.models):
    comfy.supported_models.models.insert(0, BladeDemoModel)

NODE_CLASS_MAPPINGS: dict = {}
