"""Post-training for Focal Guidance (its section 5.1 and appendix A): tune the cross-attention of the semantic-weak blocks
with the guidance on, and a control without it on the same clips, noise, times and order. In CogVideoX and HunyuanVideo that
is the joint attention, and the projection of the anchors is trained along with it.

At inference the attention cache comes from the step before, which training does not have. Here a first pass without
gradients, at the same noise and time, fills it: that is what Eq. 11 asks for, the maps of all responsive layers at time t.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from safetensors import safe_open
from safetensors.torch import save_file

from methods import FocalGuidance, steer
from methods.families import describe
from methods.focal_anchors.joint_attention import JointAttentionValues
from methods.focal_anchors.pipeline_run import forget_run, start_run
from methods.focal_anchors.projection import AnchorProjection
from testbed.trainer import warmup_cosine

from ..study.files import write_atomically
from ..videos.tuned_weights import put
from .encode_clips import Shards
from .encoded import Encoded, Text
from .tuned_families import module_of

PREPARED = ("forward", "_original_forward", "_is_accelerate_prepared")  # what `Accelerator.prepare` sets on a model


@dataclass(frozen=True)
class Tuning:
    """steps of `batch` clips each with AdamW at `lr` (linear warm-up over `warmup` steps, then a half cosine; no weight
    decay, gradients cut to a norm of 1); captions are replaced by the empty one in a `text_dropout` share of the clips."""

    steps: int
    batch: int
    lr: float
    warmup: int = 10
    text_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self):
        for name, fits in (("steps", self.steps >= 1), ("batch", self.batch >= 1), ("lr", 0 < self.lr < 1),
                           ("text_dropout", 0 <= self.text_dropout <= 1), ("warmup", self.warmup >= 0)):  # fmt: skip
            if not fits:
                raise ValueError(f"{name} of the tuning is {getattr(self, name)}, which is out of range")


class Kept:
    """A method that changes nothing: it lets the others act once more while gradient checkpointing recomputes blocks in
    the backward pass, when the forward pass that they belong to has ended."""

    keeps_context = True
    neutral = True

    def check(self, model) -> None:
        """Nothing to refuse."""

    def active(self, model, context, block, site) -> bool:
        """Never inside an attention module."""
        return False

    def edit_output(self, model, inputs, context, output, run):
        """Note where the forward pass stands."""
        self.controller, self.context = run.controller, context
        self.layout = self.controller.layout
        return output

    def __enter__(self):
        self.controller.context, self.controller.layout = self.context, self.layout

    def __exit__(self, *error):
        self.controller.context = self.controller.layout = None


def tuned_parameters(transformer, weak) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter of the cross-attention (`attn2`), or else the joint attention, of the blocks `weak`."""
    wanted = tuple(module_of(transformer).attention_of(i, transformer) for i in sorted(weak))
    return {name: p for name, p in transformer.named_parameters() if name.startswith(wanted)}


def weak_blocks(transformer, guidance: FocalGuidance) -> frozenset[int]:
    """Indices of the guidance's weak blocks. Raises ValueError if the guidance cannot work on the transformer."""
    model = describe(transformer)
    guidance.check(model)
    return guidance.weak_blocks(model)


def order(count: int, tuning: Tuning, step: int) -> list[int]:
    """The clips of a step: every epoch is a permutation of its own."""
    places = range(step * tuning.batch, (step + 1) * tuning.batch)
    return [int(np.random.default_rng([tuning.seed, p // count]).permutation(count)[p % count]) for p in places]


def clip_loss(
    pipe, model, guidance: FocalGuidance | None, clip: Encoded, empty: Text, draw: torch.Generator, dropout: float,
    projection: AnchorProjection | None,
):  # fmt: skip
    """Loss of one clip, flow matching or v-prediction; all that is drawn comes from `draw`, whether there is guidance or
    not. projection: that of the guidance, None for the one that it names."""
    family, device = module_of(pipe.transformer), pipe.transformer.device
    timestep = family.draw_time(pipe, draw)
    drop = float(torch.rand(1, generator=draw)) < dropout
    noise = torch.randn(clip.latent.shape, generator=draw)
    inputs, target = family.noised(pipe, clip, empty if drop else clip.text, timestep, noise)
    inputs = {k: v.to(device, torch.float32) if torch.is_tensor(v) else v for k, v in inputs.items()}
    inputs["return_dict"] = False
    run = start_run(pipe, clip.caption)
    if guidance is not None:
        run.anchors[guidance] = clip.found
        if projection is not None:
            run.values[guidance] = JointAttentionValues(pipe.transformer, projection)
    with pipe.transformer.cache_context("uncond" if drop else "cond"):
        if guidance is not None and guidance.cache and guidance.cache_from == "previous" and not drop:
            with torch.no_grad():  # counted as the step before: a second pass of one name is another step
                # Not `model`: a process whose caption was dropped has no such pass to synchronise with.
                pipe.transformer(**inputs)
        velocity = model(**inputs)[0]
    return (velocity.float() - target.to(device))[:, :, family.CLEAN_FRAMES :].square().mean()


def tune(
    pipe,
    guidance: FocalGuidance | None,
    weak: frozenset[int],
    clips: Shards,
    tuning: Tuning,
    state: Path,
    *,
    precision: str = "no",
    checkpointing: bool = False,
    save_every: float = 60.0,
    name: str = "tune",
    projection: AnchorProjection | None = None,
) -> tuple[dict[str, torch.Tensor], list[float], float]:
    """(tuned tensors in the transformer's dtype, loss of every step, seconds); `pipe` is left as it was.

    guidance: None for the control. state: a safetensors file, rewritten every `save_every` seconds, from which a killed
    run goes on. precision: "no" or "bf16", as accelerate's mixed precision; tuned tensors are float32 meanwhile. One video
    is one micro-step, and processes started by `accelerate launch` share them. Raises ValueError if they cannot.
    projection: the guidance's, float32, trained in place along with the blocks; None where there is none.
    """
    world = PartialState().num_processes
    if tuning.batch % world:
        raise ValueError(f"a batch of {tuning.batch} clips cannot be shared by {world} processes")
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=tuning.batch // world)
    transformer, dtype, kept = pipe.transformer, pipe.transformer.dtype, Kept()
    asked = {p: p.requires_grad for p in transformer.parameters()}
    transformer.requires_grad_(False)
    chosen = tuned_parameters(transformer, weak)
    before = {k: p.detach().clone() for k, p in chosen.items()}
    own = dict(projection.to(transformer.device).named_parameters()) if projection is not None else {}
    trained = chosen | {f"projection.{k}": p for k, p in own.items()}
    with ExitStack() as undo:
        undo.callback(_restore, transformer, chosen, before, asked)
        for p in chosen.values():
            p.data, p.requires_grad = p.data.float(), True
        for p in own.values():
            p.requires_grad = True
        if checkpointing:
            transformer.enable_gradient_checkpointing()
            undo.callback(transformer.disable_gradient_checkpointing)
        plain = torch.optim.AdamW(trained.values(), lr=tuning.lr, betas=(0.9, 0.99), weight_decay=0.0)
        undo.callback(_unprepare, transformer, {k: v for k, v in transformer.__dict__.items() if k in PREPARED})
        model, optimizer = accelerator.prepare(transformer, plain)
        first, losses, spent = _load(state, trained, plain) if state.exists() else (0, [], 0.0)
        undo.enter_context(steer(pipe, *([guidance] if guidance is not None else []), kept))
        began = saved = time.time()
        for step in range(first, tuning.steps):
            for group in plain.param_groups:
                group["lr"] = tuning.lr * warmup_cosine(step, tuning.steps, tuning.warmup)
            total = torch.zeros((), device=accelerator.device)
            for i, index in list(enumerate(order(len(clips), tuning, step)))[accelerator.process_index :: world]:
                draw = torch.Generator().manual_seed((tuning.seed * 1_000_003 + step) * 1009 + i)
                with accelerator.accumulate(model):
                    loss = clip_loss(
                        pipe, model, guidance, clips[index], clips.empty, draw, tuning.text_dropout, projection
                    )
                    with kept if checkpointing else nullcontext():
                        accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        if world > 1:  # not part of the model that processes have in common
                            _average(accelerator, own.values())
                        accelerator.clip_grad_norm_(trained.values(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                total += loss.detach()
            losses.append(float(accelerator.reduce(total, "sum")) / tuning.batch)
            now, last = time.time(), step + 1 == tuning.steps
            if accelerator.is_main_process and (now - saved >= save_every or last):
                _save(state, trained, plain, step + 1, losses, spent + now - began)
                left = (now - began) / (step + 1 - first) * (tuning.steps - step - 1)
                mean = np.mean(losses[-20:])
                print(f"{name}: step {step + 1}/{tuning.steps}  loss {mean:.4f}  {left / 60:.1f} min left", flush=True)
                saved = now
        forget_run(pipe)
        seconds = spent + time.time() - began
        return {k: p.detach().to("cpu", dtype, copy=True) for k, p in chosen.items()}, losses, seconds


def _average(accelerator: Accelerator, parameters) -> None:
    """Give every process the mean of their gradients; one whose captions were all dropped has none."""
    for p in parameters:
        p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "mean")


def _unprepare(transformer, before: dict) -> None:
    """Take off what accelerate put on the transformer; else it would take it for prepared when the next variant is tuned,
    and that one would run without mixed precision."""
    for name in PREPARED:
        transformer.__dict__.pop(name, None)
    transformer.__dict__.update(before)


def _restore(transformer, chosen, before, asked):
    for name, p in chosen.items():
        p.data, p.grad = before[name], None
    for p, value in asked.items():
        p.requires_grad = value


def _save(path: Path, chosen, optimizer, step: int, losses: list[float], seconds: float) -> None:
    tensors = {f"model/{k}": p.detach() for k, p in chosen.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors = {k: v.cpu().contiguous().clone() for k, v in tensors.items()}
    meta = {"step": str(step), "seconds": json.dumps(seconds)}
    write_atomically(path, partial(save_file, tensors, metadata=meta))


def _load(path: Path, chosen, optimizer) -> tuple[int, list[float], float]:
    with safe_open(path, "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    put(chosen, {k: tensors[f"model/{k}"] for k in chosen})
    state = optimizer.state_dict()
    state["state"] = {}
    for k, v in tensors.items():
        if k.startswith("optimizer/"):
            _, i, name = k.split("/")
            state["state"].setdefault(int(i), {})[name] = v
    optimizer.load_state_dict(state)
    return int(meta["step"]), tensors["losses"].tolist(), float(meta["seconds"])
