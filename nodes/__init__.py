"""What an artist sees: one file per step, registered here."""

from comfy_api.latest import ComfyExtension, io

from .compare import Compare
from .composite import PixelComposite
from .decode_video import DecodeVideo
from .edit import EditNode
from .edit_report import EditReport
from .encode_video import EncodeVideo
from .guider import CFGSchedule
from .invert import DDIMInvert
from .latent_composite import LatentComposite
from .load_trajectory import LoadTrajectory
from .load_video import LoadVideo
from .mask import CrossAttentionMask
from .prompt import Prompt
from .reconstruction import ReconstructionCheck
from .sampler import BlendedSampler
from .sampler_select import BlendedSamplerSelect
from .save_trajectory import SaveTrajectory
from .save_video import SaveVideo
from .temporal import TemporalAttention
from .video_frames import VideoToFrames


class BladeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadVideo,
            VideoToFrames,
            EncodeVideo,
            Prompt,
            TemporalAttention,
            DDIMInvert,
            ReconstructionCheck,
            SaveTrajectory,
            LoadTrajectory,
            CrossAttentionMask,
            BlendedSampler,
            EditNode,
            BlendedSamplerSelect,
            CFGSchedule,
            LatentComposite,
            PixelComposite,
            Compare,
            EditReport,
            SaveVideo,
            DecodeVideo,
        ]
