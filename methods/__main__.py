"""`python -m methods generate`: one steered video from a checkpoint, an image and a prompt."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from .core.steer import steer
from .registry import find_methods, from_dict, to_dict


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    top = argparse.ArgumentParser(prog="python -m methods", description=__doc__)
    p = top.add_subparsers(dest="command", required=True).add_parser("generate", help="make one video")
    p.add_argument("--model", required=True, help="folder of a diffusers pipeline, or a hub name")
    p.add_argument("--revision", help="revision of a hub name")
    p.add_argument("--image", type=Path, help="reference image; leave out for text-to-video")
    p.add_argument("--prompt", required=True)
    p.add_argument("--negative-prompt", default="")
    p.add_argument(
        "--method",
        action="append",
        default=[],
        help=f"{', '.join(find_methods())}, or JSON with its settings; repeatable",
    )
    p.add_argument("--gamma", type=float, help="gamma of the methods given by name that have one")
    p.add_argument("-o", "--output", type=Path, required=True, help="video file, .mp4")
    p.add_argument("--height", type=int)
    p.add_argument("--width", type=int)
    p.add_argument("--frames", type=int)
    p.add_argument("--steps", type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument(
        "--pipe",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another argument of the pipeline's call, such as sampling_type=vanilla; repeatable",
    )
    p.add_argument("--fps", type=int, default=16)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    p.add_argument("--offload", choices=["none", "model", "sequential"], default="none", help="keep parts on the CPU")
    return top


def read_methods(names: list[str], gamma: float | None) -> list:
    """Methods from names and JSON; `gamma` is for those given by name that have such a setting.

    Raises ValueError for an unknown method, a missing setting, and a gamma that no method takes.
    """
    known = find_methods()
    with_gamma = [n for n in names if n in known and "gamma" in known[n].__dataclass_fields__]
    if gamma is not None and not with_gamma:
        raise ValueError(f"--gamma {gamma}: none of the methods given by name has a gamma; give settings as JSON")
    found = []
    for name in names:
        if name.lstrip().startswith("{"):
            try:
                settings = json.loads(name)
            except json.JSONDecodeError as error:
                raise ValueError(f"--method {name}: not JSON ({error})") from None
        else:
            settings = {"method": name} | ({"gamma": gamma} if gamma is not None and name in with_gamma else {})
        found.append(from_dict(settings))
    return found


def read_arguments(given: list[str]) -> dict:
    """Arguments of the pipeline's call from NAME=VALUE; a value that is JSON is read as such, any other is text.

    Raises ValueError for one without a name or a value.
    """
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"--pipe {text}: give NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def write_mp4(frames, path: Path, fps: int) -> None:
    """Write (T, H, W, 3) frames in [0, 1] as H.264; H and W must be even, as all models here make them."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in (frames * 255).round().clip(0, 255).astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def generate(options: argparse.Namespace) -> None:
    """Make the video and write its settings beside it as JSON; both appear whole or not at all."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise OSError("writing a video needs PyAV: pip install av") from None
    from diffusers import DiffusionPipeline
    from diffusers.utils import load_image

    methods = read_methods(options.method, options.gamma)
    if options.image is not None and not options.image.is_file():
        raise FileNotFoundError(f"no reference image at {options.image}")
    pipe = DiffusionPipeline.from_pretrained(
        options.model, revision=options.revision, dtype=getattr(torch, options.dtype), use_safetensors=True
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.offload == "model":
        pipe.enable_model_cpu_offload()
    elif options.offload == "sequential":
        pipe.enable_sequential_cpu_offload()
    else:
        pipe.to(device)
    inputs = {
        "prompt": options.prompt, "negative_prompt": options.negative_prompt, "height": options.height,
        "width": options.width, "num_frames": options.frames, "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
    }  # fmt: skip
    inputs = {k: v for k, v in inputs.items() if v is not None} | read_arguments(options.pipe)
    if options.image is not None:
        inputs["image"] = load_image(str(options.image))
    generator = torch.Generator().manual_seed(options.seed)
    try:
        with steer(pipe, *methods), torch.inference_mode():
            frames = pipe(**inputs, generator=generator, output_type="np").frames[0]
    except RuntimeError as error:
        if missing := [f"--{size}" for size in ("height", "width", "frames") if getattr(options, size) is None]:
            raise ValueError(
                f"the model cannot make a video of the pipeline's default size ({str(error).splitlines()[0]}); "
                f"give the size that it was trained on: {', '.join(missing)}"
            ) from None
        raise
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_name(f".{options.output.stem}.{os.getpid()}{options.output.suffix}")
    try:
        write_mp4(frames, temporary, options.fps)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    settings = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in ("command", "method")
    }
    settings |= {"methods": [to_dict(m) for m in methods], "torch": torch.__version__}
    beside = options.output.with_suffix(".json")
    beside.with_suffix(".json.tmp").write_text(json.dumps(settings, indent=1) + "\n")
    os.replace(beside.with_suffix(".json.tmp"), beside)
    os.replace(temporary, options.output)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; user errors end in one line."""
    options = parser().parse_args(arguments)
    try:
        generate(options)
    except KeyboardInterrupt:
        print("stopped; no video was written", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}, settings in {options.output.with_suffix('.json')}")


if __name__ == "__main__":
    main()
