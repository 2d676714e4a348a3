"""Tiny random pipelines, from real classes, offline; 48 x 32 pixels, or 96 x 64, give a 2 x 3 token grid."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    ChronoEditPipeline,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    Cosmos2VideoToWorldPipeline,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoImageToVideoPipeline,
    Kandinsky5I2VPipeline,
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    SkyReelsV2ImageToVideoPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanVACEPipeline,
)
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2 import LTX2VideoCondition
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from families import make
from PIL import Image
from tiny_parts import (
    HEIGHT,
    LLAMA_TEMPLATE,
    LLAVA_TEMPLATE,
    WIDTH,
    clip_text,
    clip_vision,
    hunyuan_vae,
    llama_config,
    llama_tokenizer,
    qwen,
    siglip,
    t5,
    wan_vae,
)
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)


def _wan(name, z=16, **options):
    vae = wan_vae(z)
    tokenizer, text_encoder = t5(16)
    parts = dict(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=make(name)[0])
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if name == "wan2.1-i2v":  # 16 x 16 patches and the class token: 257 image tokens, as in the real model
        parts["image_encoder"], parts["image_processor"] = clip_vision(16, image_size=32, patch_size=2)
    if name == "wan-t2v":
        return WanPipeline(**parts), {}
    if name == "wan2.2-a14b":
        options = {"transformer_2": make(name)[0], "boundary_ratio": 0.9}
        for p in options["transformer_2"].parameters():
            p.data.mul_(1.01)
    return WanImageToVideoPipeline(**parts, **options), {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30))}


def _hunyuan(name):
    tokenizer = llama_tokenizer()
    tokenizer_2, text_encoder_2 = clip_text(8)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=4,
        projection_dim=8,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=llama_config(tokenizer), vision_feature_layer=-2, pad_token_id=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=36,
    )  # fmt: skip
    pipe = HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration(config), tokenizer=tokenizer, transformer=make(name)[0],
        vae=hunyuan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        image_processor=CLIPImageProcessorPil(size={"height": 24, "width": 24}, do_center_crop=False),
    )  # fmt: skip
    start = tokenizer(LLAVA_TEMPLATE)["input_ids"].index(tokenizer.convert_tokens_to_ids("<image>"))
    template = {
        "template": LLAVA_TEMPLATE, "crop_start": start + 20, "image_emb_start": start, "image_emb_end": start + 36,
        "image_emb_len": 36,
    }  # fmt: skip
    return pipe, {
        "image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)), "prompt_template": template, "max_sequence_length": 40,
        "true_cfg_scale": 3.0,
    }  # fmt: skip


def _framepack(sampling):
    tokenizer = llama_tokenizer()
    tokenizer_2, text_encoder_2 = clip_text(8)
    image_encoder, feature_extractor = siglip(8)
    pipe = HunyuanVideoFramepackPipeline(
        text_encoder=LlamaModel(llama_config(tokenizer)), tokenizer=tokenizer, transformer=make("framepack")[0],
        vae=hunyuan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2, image_encoder=image_encoder,
        feature_extractor=feature_extractor,
    )  # fmt: skip
    return pipe, {
        "image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)), "latent_window_size": 3, "sampling_type": sampling,
        "prompt_template": {"template": LLAMA_TEMPLATE, "crop_start": 10}, "max_sequence_length": 40, "num_frames": 17,
        "true_cfg_scale": 3.0,
    }  # fmt: skip


def _hunyuan15(name):
    tokenizer, text_encoder = qwen()
    text_encoder_2 = T5EncoderModel(T5Config(vocab_size=400, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    image_encoder, feature_extractor = siglip(8)
    pipe = HunyuanVideo15ImageToVideoPipeline(
        text_encoder=text_encoder, tokenizer=tokenizer, transformer=make(name)[0],
        vae=AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1),
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder_2=text_encoder_2, tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0), image_encoder=image_encoder,
        feature_extractor=feature_extractor,
    )  # fmt: skip
    # Short texts, so that a run takes a second; the published lengths are 1000 and 256.
    pipe.system_message, pipe.prompt_template_encode_start_idx, pipe.tokenizer_max_length = "Describe.", 20, 30
    pipe.tokenizer_2_max_length, pipe.target_size = 12, 48
    return pipe, {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)), "prompt": 'a cat dances "hi"'}


def _cogvideox(name):
    tokenizer, text_encoder = t5(8)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    pipe = CogVideoXImageToVideoPipeline(tokenizer, text_encoder, vae, make(name)[0], CogVideoXDDIMScheduler())
    return pipe, {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)), "max_sequence_length": 6}


def _ltx(name):
    """Its pipelines want sides that are multiples of 32: 96 x 64 pixels and 9 frames give 2 x 2 x 3 tokens."""
    tokenizer, text_encoder = t5(16)
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False), patch_size=4, patch_size_t=1,
    )  # fmt: skip
    parts = dict(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=text_encoder, tokenizer=tokenizer,
        transformer=make("ltx-i2v")[0],
    )  # fmt: skip
    image = Image.new("RGB", (96, 64), (200, 90, 30))
    inputs = {"height": 64, "width": 96, "max_sequence_length": 8}
    if name == "ltx-t2v":
        return LTXPipeline(**parts), inputs
    if name == "ltx-i2v":
        return LTXImageToVideoPipeline(**parts), inputs | {"image": image}
    conditions = [LTXVideoCondition(image), LTXVideoCondition(image.rotate(90), frame_index=8, strength=0.8)]
    return LTXConditionPipeline(**parts), inputs | {"conditions": conditions}


def _ltx2(pipeline=LTX2ImageToVideoPipeline):
    """LTX-2.3 without its two further passes; four registers stand behind the words."""
    tokenizer, _ = t5(16)
    text_encoder = Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=2, per_modality_projections=True, video_hidden_dim=24, audio_hidden_dim=16,
        video_connector_num_attention_heads=2, video_connector_attention_head_dim=12, video_connector_num_layers=1,
        video_connector_num_learnable_registers=4, audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8, audio_connector_num_layers=1, audio_connector_num_learnable_registers=4,
    )  # fmt: skip
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=text_encoder, tokenizer=tokenizer, connectors=connectors,
        vae=AutoencoderKLLTX2Video(
            latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 3, layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 4, spatial_compression_ratio=32, temporal_compression_ratio=8,
        ),
        audio_vae=AutoencoderKLLTX2Audio(base_channels=6, ch_mult=(1,), num_res_blocks=1, latent_channels=2, mel_bins=12),
        transformer=make("ltx-2.3-i2v")[0], vocoder=LTX2Vocoder(in_channels=24, hidden_channels=32),
    )  # fmt: skip
    image = Image.new("RGB", (96, 64), (200, 90, 30))
    inputs = {
        "height": 64, "width": 96, "max_sequence_length": 8, "stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0,
        "audio_modality_scale": 1.0, "audio_guidance_scale": 1.0, "negative_prompt": "blurry cat dances a cat",
    }  # fmt: skip
    if pipeline is LTX2ImageToVideoPipeline:
        return pipe, inputs | {"image": image, "image_crf": 0}
    last = LTX2VideoCondition(image.rotate(90), index=1, strength=0.8, crf=0)
    return pipe, inputs | {"conditions": [LTX2VideoCondition(image, crf=0), last]}


class _Safe:
    """Stands in the place of the safety checker, without which Cosmos does not run."""

    def to(self, device):
        pass

    def check_text_safety(self, prompt):
        return True


def _cosmos():
    tokenizer, text_encoder = t5(16)
    vae = wan_vae(4)
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    pipe = Cosmos2VideoToWorldPipeline(text_encoder, tokenizer, make("cosmos-2")[0], vae, scheduler, _Safe())
    return pipe, {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30)), "max_sequence_length": 8}


def _helios(z=4):
    """Two parts of the video, of three latent frames each, with short, middle and long history."""
    vae = wan_vae(z)
    tokenizer, text_encoder = t5(16)
    pipe = HeliosPipeline(tokenizer, text_encoder, vae, HeliosScheduler(stages=1), make("helios-amplified")[0])
    image = Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30))
    return pipe, {"image": image, "num_frames": 18, "num_latent_frames_per_chunk": 3, "history_sizes": [4, 2, 1]}


def _vace():
    """Two reference images before two latent frames of video."""
    tokenizer, text_encoder = t5(16)
    vae = wan_vae(16)
    pipe = WanVACEPipeline(
        tokenizer, text_encoder, vae, FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=make("wan-vace")[0]
    )
    image = Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30))
    return pipe, {"reference_images": [image, image.rotate(90)]}


def _of_wans_shape(pipeline, name, **inputs):
    """The parts of Wan 2.1 with another transformer and pipeline."""
    wan, given = _wan("wan2.1-i2v")
    kept = ("tokenizer", "text_encoder", "image_encoder", "image_processor", "vae")
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = {k: wan.components[k] for k in kept}
    return pipeline(**parts, scheduler=scheduler, transformer=make(name)[0]), given | inputs


def _kandinsky():
    """With a short template in place of the published one of 128 tokens."""
    tokenizer, text_encoder = qwen()
    tokenizer_2, text_encoder_2 = clip_text(8)
    pipe = Kandinsky5I2VPipeline(
        make("kandinsky-5-i2v")[0], hunyuan_vae(), text_encoder, tokenizer, text_encoder_2, tokenizer_2,
        FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    pipe.prompt_template, pipe.prompt_template_encode_start_idx = "<|im_start|>{}<|im_end|>", 1
    pipe.normalize_first_frame = lambda latents: latents  # by frames that so short a video does not have
    return pipe, {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 30))}


PIPELINES = {
    "wan2.1-i2v": lambda: _wan("wan2.1-i2v"),
    "wan2.2-a14b": lambda: _wan("wan2.2-a14b"),
    "wan2.2-5b": lambda: _wan("wan2.2-5b", z=48, expand_timesteps=True),
    "wan-t2v": lambda: _wan("wan-t2v"),
    "hunyuan-token-replace": lambda: _hunyuan("hunyuan-token-replace"),
    "hunyuan-latent-concat": lambda: _hunyuan("hunyuan-latent-concat"),
    "hunyuan-1.5": lambda: _hunyuan15("hunyuan-1.5"),
    "framepack": lambda: _framepack("inverted_anti_drifting"),
    "framepack-f1": lambda: _framepack("vanilla"),
    "cogvideox-i2v": lambda: _cogvideox("cogvideox-i2v"),
    "ltx-i2v": lambda: _ltx("ltx-i2v"),
    "ltx-condition": lambda: _ltx("ltx-condition"),
    "ltx-t2v": lambda: _ltx("ltx-t2v"),
    "ltx-2": _ltx2,
    "ltx-2-condition": lambda: _ltx2(LTX2ConditionPipeline),
    "cosmos-2": _cosmos,
    "helios": _helios,
    "wan-vace": _vace,
    "skyreels-v2": lambda: _of_wans_shape(SkyReelsV2ImageToVideoPipeline, "skyreels-v2-i2v"),
    "chronoedit": lambda: _of_wans_shape(
        ChronoEditPipeline, "chronoedit", enable_temporal_reasoning=True, num_temporal_reasoning_steps=2
    ),
    "kandinsky-5": _kandinsky,
}


def build(name):
    """(pipeline in eval mode with seeded random weights, the arguments of its call) of a kind in PIPELINES."""
    torch.manual_seed(0)
    pipe, inputs = PIPELINES[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    inputs = {"prompt": "a cat dances", "negative_prompt": "blurry", "num_frames": 9} | inputs
    if name != "hunyuan-1.5":
        inputs = {"height": HEIGHT, "width": WIDTH} | inputs
    if not name.startswith(("hunyuan", "framepack")):
        inputs["guidance_scale"] = 3.0
    return pipe, inputs


def video(pipe, inputs, steps=3):
    """Latents of one seeded run."""
    with torch.inference_mode():
        return pipe(
            **inputs, num_inference_steps=steps, generator=torch.Generator().manual_seed(3), output_type="latent"
        ).frames
