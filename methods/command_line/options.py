"""Options of `python -m methods generate`, read from the command line and from the settings file of an earlier video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..registry import find_methods
from .reference_image import FITS

DTYPES = ("float32", "bfloat16", "float16")
# Options that are arguments of a pipeline's call under another name: `--set num_frames=9` is `--frames 9`.
ARGUMENTS = {
    "prompt": "prompt", "negative_prompt": "negative_prompt", "height": "height", "width": "width",
    "num_frames": "frames", "num_inference_steps": "steps", "guidance_scale_2": "guidance_2",
    "sampling_type": "sampling_type", "max_sequence_length": "text_length", "frame_rate": "fps",
}  # fmt: skip
NOT_REPEATED = ("command", "settings", "output", "dry_run", "report", "gamma", "method")


def add_generate(commands) -> None:
    """Add the command `generate` to the sub-parsers of argparse."""
    p = commands.add_parser("generate", help="make one video, and a file that says how", description=__doc__)
    p.add_argument(
        "--settings", help="settings file of an earlier video, whose options are taken where none is given here"
    )
    p.add_argument("--model", help="folder of a diffusers pipeline, or a hub name")
    p.add_argument("--revision", help="revision of a hub name")
    p.add_argument("--image", help="reference image; leave out for text-to-video")
    p.add_argument(
        "--fit", choices=FITS, help="how an image of another size becomes the video's: crop (default), pad or exact"
    )
    p.add_argument("--last-image", help="image that the video shall end with, of pipelines that take one")
    p.add_argument("--prompt")
    p.add_argument("--negative-prompt", help="needs guidance; default: empty")
    p.add_argument(
        "--method",
        action="append",
        help=f"{', '.join(find_methods())}; or JSON with settings, a list of such, or a .json or .yaml file; repeatable",
    )
    p.add_argument("--gamma", type=float, help="gamma of the method given by name that has one")
    p.add_argument("-o", "--output", type=Path, help="video file: .mp4, .mov or .mkv")
    p.add_argument("--height", type=int)
    p.add_argument("--width", type=int)
    p.add_argument("--frames", type=int, help="frames of the video that is made")
    p.add_argument("--steps", type=int)
    p.add_argument(
        "--guidance", type=float,
        help="scale: guidance_scale, true_cfg_scale where the model takes no guidance, or the pipeline's guider",
    )  # fmt: skip
    p.add_argument("--guidance-2", type=float, help="scale of the second expert (Wan 2.2 A14B)")
    p.add_argument("--sampling-type", help="FramePack: inverted_anti_drifting or, for F1, vanilla")
    p.add_argument("--flow-shift", type=float, help="shift of the noise schedule")
    p.add_argument("--scheduler", metavar="CLASS", help="a scheduler of diffusers instead of the checkpoint's")
    p.add_argument("--text-length", type=int, help="text tokens (max_sequence_length)")
    p.add_argument(
        "--set", "--pipe", action="append", metavar="NAME=VALUE",
        help="another argument of the pipeline's call; the value is JSON or text; repeatable",
    )  # fmt: skip
    p.add_argument("--fps", type=float)
    p.add_argument("--seed", type=int)
    p.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    p.add_argument("--vae-dtype", choices=DTYPES, help="default: float32 for Wan, else as --dtype")
    p.add_argument("--device", help="default: cuda if there is one, else cpu")
    p.add_argument("--offload", choices=["none", "model", "sequential"], help="keep parts on the CPU; default: none")
    p.add_argument("--report", action="store_true", help="print where the methods acted")
    p.add_argument(
        "--dry-run", action="store_true", help="check everything and say what would be made, without weights"
    )


def read_arguments(given: list[str]) -> dict:
    """Arguments of the pipeline's call from NAME=VALUE; a value that is JSON is read as such, any other is text.

    Raises ValueError for one without a name or a value, and for one that is given twice.
    """
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"--set {text}: give NAME=VALUE")
        if name in found:
            raise ValueError(f"--set {text}: {name} is given twice")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def merge(options: argparse.Namespace) -> argparse.Namespace:
    """Options with those of the settings file filled in, `set` as a dictionary; arguments that have an option move there.

    Raises ValueError for what is given twice and for a required option that is missing.
    """
    given = dict(vars(options))
    given["set"] = read_arguments(given["set"] or [])
    for name in [n for n in given["set"] if n in ARGUMENTS]:
        option, value = ARGUMENTS[name], given["set"].pop(name)
        if given[option] is not None:
            raise ValueError(
                f"--set {name}={value} and --{option.replace('_', '-')} {given[option]} are the same thing"
            )
        given[option] = value
    given["recorded"] = {}
    if options.settings is not None:
        earlier = read_settings(options.settings)
        given["set"] = earlier["asked"].get("set", {}) | given["set"]
        stated = earlier["asked"] | earlier["made"]["options"]
        given["recorded"] = {
            part: earlier["made"][made]
            for part, made in (("model", "weights"), ("image", "image_file"), ("last_image", "last_image_file"))
            if given[part] is None and earlier["made"].get(made)
        }
        if given["method"] is None and given["gamma"] is None:
            given["method"] = [json.dumps(m) for m in earlier["methods"]]
        given |= {k: v for k, v in stated.items() if k in given and k != "set" and given[k] is None}
    for name, flag in (("model", "--model"), ("prompt", "--prompt"), ("output", "-o")):
        if given[name] is None:
            raise ValueError(
                f"{flag} is needed" + ("" if name == "output" else ", or --settings with a file that has it")
            )
    return argparse.Namespace(**given)


def read_settings(path: str) -> dict:
    """A settings file as `generate` writes it. Raises FileNotFoundError and ValueError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"--settings {path}: no such file")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--settings {path}: not JSON ({error})") from None
    if not (isinstance(found, dict) and {"asked", "made", "methods"} <= set(found)):
        raise ValueError(f"--settings {path}: not the settings of a video, which have asked, made and methods")
    return found


def asked(options: argparse.Namespace) -> dict:
    """What was asked, for the settings file: options that were given, the methods and the output apart."""
    skipped = (*NOT_REPEATED, "recorded")
    return {k: v for k, v in vars(options).items() if k not in skipped and v not in (None, {})}
