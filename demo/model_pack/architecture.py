"""The demo model's sizes, shared by its training and by the node pack that lets ComfyUI recognise it."""

CONTEXT = 64
UNET_CONFIG = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=64,
    num_res_blocks=[1, 1],
    channel_mult=(1, 2),
    num_heads=4,
    num_head_channels=-1,
    use_spatial_transformer=True,
    transformer_depth=[1, 1],
    transformer_depth_output=[1, 1, 1, 1],
    transformer_depth_middle=1,
    context_dim=CONTEXT,
    use_linear_in_transformer=False,
    use_temporal_attention=False,
)
CLIP_CONFIG = dict(
    vocab_size=49408,
    hidden_size=CONTEXT,
    intermediate_size=4 * CONTEXT,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    eos_token_id=49407,
)
