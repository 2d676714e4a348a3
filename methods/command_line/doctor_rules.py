"""What is known to freeze videos or to switch methods off: one rule each, with where it is known from.

A rule looks at a set-up (doctor_setup.py) and says what it finds there, or None. Advice out of threads is that of their
writers and was not measured here, unless it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from ..families import FAMILIES, family_of
from .doctor_setup import NATIVE_BACKENDS, Setup
from .method_settings import check_methods
from .noise_schedule import plan_schedule, planned_scheduler
from .sizes import pixel_multiple

GITHUB = "https://github.com/"
ERROR, WARNING, NOTE = "error", "warning", "note"  # fails or does nothing; known to freeze; to look at by hand
FEW = 8  # steps of distilled schedules: at most that many


@dataclass(frozen=True)
class Rule:
    """key: its name. severity: see above. change: what to do. sources: addresses, or files of diffusers 0.42.1."""

    key: str
    severity: str
    find: Callable[[Setup], str | None]
    change: str
    sources: tuple[str, ...]


def family_is_known(s: Setup) -> str | None:
    """No family knows the transformer, so that no method can be put on it."""
    if s.transformer in FAMILIES:
        return None
    try:
        family_of(type(s.transformer or f"transformer in {s.pipeline}", (), {})())
    except TypeError as error:
        return f"no method can be attached: {error}"


def guidance_is_off(s: Setup) -> str | None:
    """A scale of at most 1, of classifier-free guidance or as an input of a distilled model."""
    if s.distilled:
        if (s.guidance or 0) > 1 or s.guided:
            return None
        return f"guidance {s.guidance}, the scale that the distilled model takes as an input"
    if s.guided or s.guidance is None:
        return None
    few = ", as few-step models are meant to be run" if s.steps <= FEW else ""
    return f"guidance {s.guidance}: no unconditional branch runs{few}, and the negative prompt does not count"


def scale_is_ignored(s: Setup) -> str | None:
    """`guidance_scale` is given to a HunyuanVideo that is not distilled and reads `true_cfg_scale` alone."""
    if "true_cfg_scale" in s.checkpoint.call and not s.distilled and "guidance_scale" in s.arguments:
        return f"guidance_scale={s.arguments['guidance_scale']} is not read: this transformer has guidance_embeds false"
    return None


def few_steps(s: Setup) -> str | None:
    """At most FEW steps, as of distilled models."""
    return (
        f"{s.steps} steps: distilled few-step models move less than the models they come from"
        if s.steps <= FEW
        else None
    )


def methods_act(s: Setup) -> str | None:
    """A method that the model cannot have, or that acts in none of the steps."""
    if not s.methods:
        return None
    try:
        changes = SimpleNamespace(scheduler=None, flow_shift=s.flow_shift)
        scheduler = planned_scheduler(s.checkpoint, plan_schedule(s.checkpoint, changes, []), s.steps)
        check_methods(list(s.methods), s.checkpoint.transformers, s.steps, scheduler)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def windows_are_short(s: Setup) -> str | None:
    """At most FEW steps, of which the published windows hold few or none; only where no method is named."""
    if s.methods or s.steps > FEW:
        return None
    alignvid, dymos = int(0.30 * s.steps + 1e-9), max(1, int(0.20 * s.steps + 1e-9))
    acts = f"{alignvid} of them" if alignvid else "none of them"
    return f"of {s.steps} steps AlignVid's early window (30 %) holds {acts}, DyMoS' share (20 %) {dymos}"


def caches(s: Setup) -> str | None:
    """A cache, which can skip early steps."""
    return f"a cache ({s.cache}) that can skip early steps" if s.cache else None


def cache_hides_methods(s: Setup) -> str | None:
    """A cache along with methods, which cannot act in what it serves."""
    if s.cache and s.methods:
        return (
            f"the {s.cache} cache serves blocks or attention from earlier steps; where {s.methods[0].name} is due in such a step, "
            "the run ends with an error"
        )
    return None


def backend_is_replaced(s: Setup) -> str | None:
    """An attention backend other than PyTorch's own, which is computed instead where a method acts."""
    if s.backend in NATIVE_BACKENDS:
        return None
    return (
        f"attention backend {s.backend!r}: where a method or `record` acts, PyTorch's own attention is computed in its place, "
        "which can be slower; elsewhere it stays"
    )


def size_does_not_fit(s: Setup) -> str | None:
    """A height or width, in pixels, that is no multiple of what autoencoder and patches take together."""
    if s.height is None or s.width is None:
        return None
    multiple = pixel_multiple(s.checkpoint)
    wrong = [f"{n} {v}" for n, v in (("height", s.height), ("width", s.width)) if v % multiple]
    return f"{' and '.join(wrong)}: not a multiple of {multiple}" if wrong else None


def ltx_size_does_not_fit(s: Setup) -> str | None:
    """`size_does_not_fit` of LTX pipelines, whose rule has a source of its own."""
    return size_does_not_fit(s) if s.pipeline.startswith("LTX") else None


def other_size_does_not_fit(s: Setup) -> str | None:
    """`size_does_not_fit` of all other pipelines."""
    return None if s.pipeline.startswith("LTX") else size_does_not_fit(s)


def frames_do_not_fit(s: Setup) -> str | None:
    """A number of frames that the autoencoder's compression in time cannot make."""
    every = s.checkpoint.compression[0]
    if s.frames is None or "latent_window_size" in s.checkpoint.call or s.frames % every == 1 % every:
        return None
    return f"{s.frames} frames: not {every}k + 1, so another number is made"


def ltx_without_noise(s: Setup) -> str | None:
    """An LTX pipeline that takes the reference clean, which the original code does not."""
    if not s.pipeline.startswith("LTX") or "image" not in s.checkpoint.call:
        return None
    stages = [n for n in ("image_crf", "image_cond_noise_scale") if n in s.checkpoint.call]
    if not stages:
        return (
            f"{s.pipeline} neither compresses the reference with H.264 nor adds noise to it, as the original code does"
        )
    off = [n for n in stages if s.argument(n) == 0]
    return f"{' and '.join(off)} is 0: the reference goes in clean" if off == stages else None


def reference_blended_twice(s: Setup) -> str | None:
    """An LTX strength strictly between 0 and 1, which a port may apply to the reference twice."""
    strength = s.argument("strength")
    if not s.pipeline.startswith("LTX") or strength is None or strength in (0, 1, 0.0, 1.0):
        return None
    return (
        f"strength {strength}: check in your port that the latents and the time of the reference's tokens say the same; one "
        f"blended it in twice ({1 - (1 - strength) ** 2:.4g} of the latents at strength {strength})"
    )


def wan_text_is_split_wrongly(s: Setup) -> str | None:
    """Wan 2.1 image-to-video with other than 512 text tokens, by which diffusers tells text from image."""
    if s.transformer == "WanTransformer3DModel" and s.config.get("added_kv_proj_dim") and s.text_length != 512:
        return f"{s.text_length} text tokens: diffusers takes the last 512 for text, so text counts as image or the reverse"
    return None


def text_is_shorter(s: Setup) -> str | None:
    """Fewer text tokens than in training."""
    if "max_sequence_length" not in s.checkpoint.call or wan_text_is_split_wrongly(s):
        return None
    trained = s.config.get("max_text_seq_length") or s.checkpoint.call["max_sequence_length"].default
    return f"{s.text_length} text tokens, {trained} in training" if s.text_length < trained else None


def text_is_longer(s: Setup) -> str | None:
    """More text tokens than in training."""
    trained = s.config.get("max_text_seq_length")
    if not trained or s.text_length is None or s.text_length <= trained:
        return None
    return f"{s.text_length} text tokens, {trained} in training"


def wan_vae_in_half(s: Setup) -> str | None:
    """Wan's autoencoder in less than float32."""
    if s.checkpoint.component("vae") == "AutoencoderKLWan" and s.vae_dtype != "float32":
        return f"the autoencoder in {s.vae_dtype}"
    return None


def wan_is_long(s: Setup) -> str | None:
    """More than 81 frames of a Wan."""
    if s.pipeline.startswith("Wan") and (s.frames or 0) > 81:
        return f"{s.frames} frames: Wan's videos of more than 81 tend to return to their first frame"
    return None


def framepack_starts_still(s: Setup) -> str | None:
    """FramePack in its own order, from the end of the video to its reference."""
    if "Framepack" in s.pipeline and s.sampling_type == "inverted_anti_drifting":
        return "the video is made from its end (inverted_anti_drifting): such videos are often still for the first few seconds"
    return None


def f1_is_long(s: Setup) -> str | None:
    """More frames of FramePack-F1 than the pipeline's default."""
    default = s.checkpoint.call["num_frames"].default
    if "Framepack" in s.pipeline and s.sampling_type == "vanilla" and (s.frames or 0) > default:
        return f"{s.frames} frames: the longer a video of FramePack-F1, the less moves in it"
    return None


def f1_in_v1_order(s: Setup) -> str | None:
    """A FramePack-F1, by its name, that is not sampled forwards."""
    if "Framepack" in s.pipeline and "f1" in s.checkpoint.model.lower() and s.sampling_type != "vanilla":
        return f"{s.checkpoint.model} looks like FramePack-F1, which is sampled forwards, and the sampling type is {s.sampling_type}"
    return None


def quantised(s: Setup) -> str | None:
    """A quantised transformer."""
    how = s.config.get("quantization_config")
    return f"quantised transformer ({how.get('quant_method', 'unknown')})" if how else None


def dynamic_guidance(s: Setup) -> str | None:
    """CogVideoX's `use_dynamic_cfg`, whose scale jumps in diffusers."""
    if s.argument("use_dynamic_cfg") is True:
        return "use_dynamic_cfg: diffusers takes the time for the step, so that the scale jumps up and down from step to step"
    return None


RULES = (
    Rule("no-family", ERROR, family_is_known, "use one of the families of `python -m methods families`", ("methods/families",)),
    Rule(
        "guidance-off", WARNING, guidance_is_off,
        "give a scale above 1: without, this repository's models follow some 20 points fewer prompts; for few-step models see few-steps",
        (f"{GITHUB}Tencent-Hunyuan/HunyuanVideo-I2V/issues/6", "docs/footguns.md"),
    ),
    Rule(
        "scale-ignored", ERROR, scale_is_ignored, "guide it with true_cfg_scale above 1 and a negative prompt",
        ("diffusers: pipelines/hunyuan_video/pipeline_hunyuan_video_image2video.py",),
    ),
    Rule(
        "few-steps", WARNING, few_steps,
        "take more steps, or leave the distillation LoRA out of the high-noise expert and guide it; users say that this mends slow "
        "motion and can cost quality",
        (f"{GITHUB}ModelTC/LightX2V-Wan2.2-Lightning/issues/13", f"{GITHUB}vita-epfl/Stable-Video-Infinity/issues/66"),
    ),
    Rule(
        "method-never-acts", ERROR, methods_act, "widen the window, take more steps, or choose blocks and sites that the model has",
        ("https://arxiv.org/abs/2512.01334, appendix F.3", "docs/methods.md"),
    ),
    Rule(
        "short-windows", NOTE, windows_are_short, "state windows as pairs, such as [0, 0.5], and compare methods at equal steps only",
        ("https://arxiv.org/abs/2512.01334, appendix F.3", "https://arxiv.org/abs/2605.19398, table 3"),
    ),
    Rule(
        "early-cache", WARNING, caches, "let the cache start after the early steps, or leave it off",
        (f"{GITHUB}kijai/ComfyUI-KJNodes/issues/210", f"{GITHUB}welltop-cn/ComfyUI-TeaCache/issues/63"),
    ),
    Rule(
        "cache-hides-methods", WARNING, cache_hides_methods, "let the cache begin after the methods' windows, or leave it off",
        ("diffusers: hooks/first_block_cache.py, hooks/mag_cache.py", "docs/footguns.md"),
    ),
    Rule(
        "backend-replaced", NOTE, backend_is_replaced, "nothing, unless the time matters: the report of `steer` counts such calls",
        ("diffusers: models/attention_dispatch.py", "docs/footguns.md"),
    ),
    Rule(
        "ltx-size", ERROR, ltx_size_does_not_fit, "use multiples of 32; others stood still for the first seconds in ports that take them",
        (f"{GITHUB}Lightricks/ComfyUI-LTXVideo/issues/384",),
    ),
    Rule("size", ERROR, other_size_does_not_fit, "use multiples of it", ("diffusers: check_inputs of the pipeline",)),
    Rule("frames", ERROR, frames_do_not_fit, "use such a number", ("diffusers: __call__ of the pipeline",)),
    Rule(
        "ltx-clean-reference", WARNING, ltx_without_noise,
        "use LTXConditionPipeline, which adds noise to it (image_cond_noise_scale; 0.025 is recommended for LTX 0.9.1 and later), or "
        "compress the image with H.264 at CRF 30 to 35 first",
        (
            f"{GITHUB}Lightricks/LTX-Video/issues/92", f"{GITHUB}Lightricks/LTX-Video/issues/184",
            f"{GITHUB}Comfy-Org/ComfyUI/pull/5937", f"{GITHUB}utensils/mold/issues/1055", f"{GITHUB}huggingface/diffusers/pull/11516",
        ),
    ),
    Rule(
        "reference-twice", NOTE, reference_blended_twice, "blend once; the token's time must say the same share as the latents hold",
        (f"{GITHUB}utensils/mold/issues/1055", f"{GITHUB}utensils/mold/pull/1076"),
    ),
    Rule(
        "wan-text-split", ERROR, wan_text_is_split_wrongly, "leave the text length at 512",
        ("diffusers: models/transformers/transformer_wan.py", "docs/footguns.md"),
    ),
    Rule(
        "text-shorter", NOTE, text_is_shorter, "give the length of training; shorter texts are padded to it",
        ("diffusers: max_sequence_length in the pipeline's docstring",),
    ),
    Rule(
        "text-longer", WARNING, text_is_longer,
        "give the length of training; of 24 samples of this repository's CogVideoX-type model, trained with 24 tokens, 21 were all "
        "right with 24 and 9 with 226",
        ("diffusers: pipelines/cogvideo/pipeline_cogvideox_image2video.py, max_sequence_length",),
    ),
    Rule(
        "wan-vae-precision", NOTE, wan_vae_in_half, "load the autoencoder in float32, as diffusers' example does",
        ("diffusers: pipelines/wan/pipeline_wan_i2v.py, docstring",),
    ),
    Rule(
        "wan-too-long", WARNING, wan_is_long, "make at most 81 frames",
        tuple(f"{GITHUB}kijai/ComfyUI-WanVideoWrapper/issues/{n}" for n in (109, 911, 931)),
    ),
    Rule(
        "framepack-still-start", NOTE, framepack_starts_still,
        'add "constant action" or the like to the prompt, or try FramePack-F1 (sampling type vanilla)',
        (f"{GITHUB}lllyasviel/FramePack/issues/458",),
    ),
    Rule(
        "framepack-f1-long", NOTE, f1_is_long, "make a shorter video, and name an action for each part of it",
        (f"{GITHUB}lllyasviel/FramePack/issues/552",),
    ),
    Rule(
        "f1-order", ERROR, f1_in_v1_order, "give --sampling-type vanilla",
        ("diffusers: pipelines/hunyuan_video/pipeline_hunyuan_video_framepack.py",),
    ),
    Rule(
        "quantised", NOTE, quantised, "compare with the unquantised weights once: an int8 distilled Wan 2.1 made frames that were all the image itself",
        (f"{GITHUB}ModelTC/LightX2V/issues/895",),
    ),
    Rule(
        "dynamic-guidance", WARNING, dynamic_guidance, "leave use_dynamic_cfg off",
        (f"{GITHUB}huggingface/diffusers/issues/9641", f"{GITHUB}huggingface/diffusers/pull/13172"),
    ),
)  # fmt: skip
