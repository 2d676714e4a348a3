"""Adaptive low-pass guidance (ALG): the prompt is followed under a blurred image condition, in early steps.

In an active step the prediction is u(c) + w (cond(c_lp) - uncond(c_lp)), with c the image condition and c_lp its low-pass
version: the base keeps the sharp image, while the direction of the prompt comes from an image without the details that tie
the video to it. In all other steps it is plain classifier-free guidance. Filters, schedules and defaults are those of the
released code (github choi403/ALG).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .core.forward_context import ForwardContext
from .core.interception import replace_attribute
from .core.method_protocol import lists_to_tuples
from .core.step_windows import Window, check_window, in_window
from .families import COGVIDEOX, HUNYUAN, WAN, Block

FILTERS, SPACES, SCHEDULES = ("down_up", "gaussian_blur"), ("latent", "image"), ("interval", "linear", "exponential")
BATCHED = ("hidden_states", "encoder_hidden_states", "timestep")  # inputs that hold both branches in CogVideoX

ENCODINGS = weakref.WeakKeyDictionary()  # pipeline -> image condition of an edited image, see watch_encoding

# Released configurations, one per backbone.
PUBLISHED = {
    "wan2.1-i2v-14b": {"factor": 0.4, "window": ("position", 0.0, 0.20)},
    "cogvideox-5b": {"factor": 0.25, "window": ("position", 0.0, 0.04)},
    "hunyuanvideo-i2v": {"factor": 0.625, "window": ("position", 0.0, 0.04)},
}


@dataclass(frozen=True)
class LowPassGuidance:
    """Three-pass guidance with a low-pass image condition.

    filter: "down_up" resizes each plane by `factor` and back (bilinear, antialiased); "gaussian_blur" blurs it with
        `sigma` latent pixels and a kernel of `kernel` times its height.
    factor: in (0, 1]; 1 changes nothing.
    space: "latent" filters the encoded image condition, "image" the image before it is encoded, which costs an encoding
        per strength and needs a pipeline. The CLIP tokens stay sharp, as in the released code.
    window: in which steps, see core/step_windows.py.
    schedule: strength s in these steps, p being step / (steps - 1): "interval" 1; "linear" 1 - p / e, for the window
        ("position", 0, e); "exponential" exp(-rate p), for the window "all". The factor becomes 1 - (1 - factor) s, sigma
        s sigma.
    guidance: scale of classifier-free guidance; read from the pipeline if None, which HunyuanVideo's does not allow.
    Without an unconditional branch (scale 1, distilled guidance) active steps run once, with the filtered condition.
    """

    name: ClassVar[str] = "lowpass"
    label: ClassVar[str] = "Low-pass guidance (ALG)"

    _: dataclasses.KW_ONLY
    filter: str = "down_up"
    factor: float = 0.4
    space: str = "latent"
    window: Window = ("position", 0.0, 0.2)
    schedule: str = "interval"
    sigma: float = 15.0
    kernel: float = 0.02734375
    rate: float = 10.0
    guidance: float | None = None

    def __post_init__(self):
        lists_to_tuples(self)
        for name, values in (("filter", FILTERS), ("schedule", SCHEDULES), ("space", SPACES)):
            if getattr(self, name) not in values:
                raise ValueError(
                    f"LowPassGuidance {name} must be one of {', '.join(values)}, not {getattr(self, name)!r}"
                )
        if not 0 < self.factor <= 1:
            raise ValueError(f"LowPassGuidance factor must be in (0, 1], not {self.factor}")
        check_window(self.window)
        if self.schedule == "linear" and self.window[:2] != ("position", 0):
            raise ValueError(
                'LowPassGuidance schedule="linear" falls from the first step to the end of a window ("position", 0, end), '
                f"not {self.window!r}"
            )
        if self.schedule == "exponential" and self.window != "all":
            raise ValueError(
                f'LowPassGuidance schedule="exponential" is for all steps: window="all", not {self.window!r}'
            )
        for name in ("sigma", "kernel", "rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"LowPassGuidance {name} must be a finite number above 0, not {getattr(self, name)}")

    @classmethod
    def published(cls, backbone: str) -> LowPassGuidance:
        """The released configuration of a backbone. Raises ValueError for one that has none."""
        if backbone not in PUBLISHED:
            raise ValueError(f"ALG has no configuration for {backbone!r}: it has {', '.join(PUBLISHED)}")
        return cls(**PUBLISHED[backbone])

    @property
    def neutral(self) -> bool:
        """Whether the settings change nothing."""
        return self.filter == "down_up" and self.factor == 1

    def check(self, model) -> None:
        """Raise ValueError for a model without an image condition in its latents."""
        if model.family not in (WAN, COGVIDEOX, HUNYUAN) or not model.image_to_video:
            raise ValueError(
                f"LowPassGuidance needs an image-to-video Wan, CogVideoX or HunyuanVideo, not this {model.family}"
            )

    def active(self, model, context: ForwardContext, block: Block, site: str) -> bool:
        """Never inside an attention module."""
        return False

    def watch(self, pipe):
        """Note how the pipeline encodes its image, so that a filtered one can be encoded alike.

        Raises ValueError for a bare transformer with space="image"."""
        if self.space == "latent":
            return lambda: None
        if not hasattr(pipe, "prepare_latents"):
            raise ValueError('LowPassGuidance space="image" filters the image before it is encoded: steer a pipeline')
        return watch_encoding(pipe)

    def strength(self, context: ForwardContext) -> float:
        """s in [0, 1] at this step; ValueError if the number of steps is not known, or a window has none of them."""
        if self.schedule == "interval":
            return float(in_window(self.window, context))
        if self.schedule == "linear":
            return max(0.0, 1 - context.position / self.window[2])
        return math.exp(-self.rate * context.position)

    def edit_inputs(self, model, inputs: dict, context: ForwardContext) -> dict:
        """The filtered condition, except in the unconditional forward, which is the sharp base."""
        if self._idle(context) or context.branch == "uncond":
            return inputs
        return inputs | {"hidden_states": self._filtered(model, inputs, context)}

    def edit_output(self, model, inputs: dict, context: ForwardContext, output, run):
        """Outputs with which the pipeline's u + w (c - u) becomes u(c) + w (cond(c_lp) - uncond(c_lp))."""
        if self._idle(context) or context.branch == "cond":
            return output
        sample = output[0]
        if context.branch == "both":
            half = sample.shape[0] // 2
            first = inputs | {k: inputs[k][:half] for k in BATCHED}
            base = run(first, "uncond")
            exact = [x.float() for x in (base, sample[:half], sample[half:])]
            new = torch.cat([exact[0], exact[0] + exact[2] - exact[1]])
        else:
            w = self.guidance if self.guidance is not None else context.guidance
            if w is None:
                raise ValueError("LowPassGuidance does not know the guidance scale of this pipeline: give guidance=")
            if w == 1:
                return output
            blurred = inputs | {"hidden_states": self._filtered(model, inputs, context)}
            # The pipeline will compute u + w (c_lp - u): solved for the u that makes it three-pass guidance.
            new = (sample.float() - w * run(blurred, "uncond").float()) / (1 - w)
        new = new.to(sample.dtype)
        return (new,) if isinstance(output, tuple) else type(output)(sample=new)

    def _idle(self, context) -> bool:
        return self.strength(context) == 0 or self.neutral

    def _filtered(self, model, inputs, context) -> torch.Tensor:
        """hidden_states with the image condition filtered: extra channels, or the first latent frame where it is one."""
        hidden, config, strength = inputs["hidden_states"], model.transformer.config, self.strength(context)
        out, channel = hidden.clone(), 2 if model.family == COGVIDEOX else 1
        if config.in_channels > config.out_channels:
            condition = out.narrow(channel, config.out_channels, config.in_channels - config.out_channels)
        else:  # the reference is the first latent frame: HunyuanVideo token_replace, Wan 2.2 5B
            condition = out[:, :, :1]
        if self.space == "latent":
            condition.copy_(self._filter(condition, strength))
            return out
        new = ENCODINGS[context.pipe](lambda image: self._filter(image[:, :, None], strength)[:, :, 0], strength)
        if model.family == HUNYUAN:  # latent_concat: the condition is in the first frame, and its mask stays
            condition, new = condition[:, : new.shape[1], :1], new[:, :, :1]
        condition.copy_(new.repeat(hidden.shape[0] // new.shape[0], 1, 1, 1, 1))
        return out

    def _filter(self, x: torch.Tensor, strength: float) -> torch.Tensor:
        """Low-pass every (H, W) plane of a 5-D tensor."""
        height, width = x.shape[-2:]
        planes = x.reshape(-1, 1, height, width).float()
        if self.filter == "down_up":
            factor = 1 - (1 - self.factor) * strength
            small = max(1, round(height * factor)), max(1, round(width * factor))
            options = dict(mode="bilinear", align_corners=False, antialias=True)
            planes = F.interpolate(F.interpolate(planes, small, **options), (height, width), **options)
        else:
            size = max(1, int(self.kernel * height))
            radius = (size + (size + 1) % 2) // 2
            offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
            weights = torch.exp(-0.5 * (offsets / (self.sigma * strength)) ** 2)
            weights = weights / weights.sum()
            planes = F.pad(planes, (radius,) * 4, mode="reflect")
            planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
        return planes.reshape(x.shape).to(x.dtype)


def watch_encoding(pipe):
    """Wrap `pipe.prepare_latents` so that ENCODINGS[pipe](edit, key) gives the image condition of the edited image,
    encoded with the same noise as the sharp one. The last result is cached under its key. Returns an undo.
    """
    original = pipe.prepare_latents
    signature = inspect.signature(original)

    def prepare_latents(*args, **kwargs):
        arguments = signature.bind(*args, **kwargs).arguments
        generator, encoded = _clone(arguments.get("generator")), {}
        result = original(*args, **kwargs)

        def condition(edit, key):
            if key not in encoded:
                changed = {"image": edit(arguments["image"]), "generator": _clone(generator), "latents": result[0]}
                encoded.clear()
                encoded[key] = original(**(arguments | changed))[1]
            return encoded[key]

        ENCODINGS[pipe] = condition
        return result

    undo = replace_attribute(pipe, "prepare_latents", prepare_latents)

    def forget():
        undo()
        ENCODINGS.pop(pipe, None)

    return forget


def _clone(generator):
    """A generator, or list of them, in the same state: drawing from the copy leaves the original as it is."""
    if isinstance(generator, list):
        return [_clone(g) for g in generator]
    return generator.clone_state() if generator is not None else None
