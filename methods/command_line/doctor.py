"""`python -m methods doctor MODEL`: what in a set-up is known to freeze videos or to switch methods off.

Reads configuration files only.
"""

from __future__ import annotations

import json
import sys

from .checkpoint import open_checkpoint
from .doctor_rules import ERROR, RULES
from .doctor_setup import CACHES, Setup, read_setup
from .method_settings import read_methods
from .numbers import whole
from .options import ARGUMENTS, DTYPES, read_arguments


def add_doctor(commands) -> None:
    """Add the command `doctor` to the sub-parsers of argparse."""
    p = commands.add_parser("doctor", help="what in a set-up is known to freeze videos", description=__doc__)
    p.add_argument("model", help="folder of a diffusers pipeline, or a hub name")
    p.add_argument("--revision", help="revision of a hub name")
    for name, kind in (
        ("steps", int), ("guidance", float), ("height", int), ("width", int), ("frames", int),
        ("fps", float), ("text-length", int), ("flow-shift", float), ("sampling-type", str),
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=kind, help="default: the checkpoint's, else the pipeline's")
    p.add_argument("--dtype", choices=DTYPES, help="default: bfloat16")
    p.add_argument("--vae-dtype", choices=DTYPES, help="default: as --dtype")
    p.add_argument("--method", action="append", help="as for generate; repeatable")
    p.add_argument("--gamma", type=float)
    p.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an argument of the pipeline's call; repeatable"
    )
    p.add_argument("--cache", choices=CACHES, help="a cache that you use")
    p.add_argument("--backend", help="the attention backend that you use; default: DIFFUSERS_ATTN_BACKEND, else native")
    p.add_argument("--json", action="store_true", help="findings as JSON")


def doctor(options) -> None:
    """Print the findings; exit status 1 if one of them is an error."""
    checkpoint = open_checkpoint(options.model, options.revision)
    whole("--steps", options.steps, 1)
    arguments = read_arguments(options.set or [])
    for name in [n for n in arguments if n in ARGUMENTS and hasattr(options, ARGUMENTS[n])]:
        if getattr(options, ARGUMENTS[name]) is not None:
            raise ValueError(f"--set {name} and --{ARGUMENTS[name].replace('_', '-')} are the same thing")
        setattr(options, ARGUMENTS[name], arguments.pop(name))
    if unknown := [n for n in arguments if n not in checkpoint.call]:
        raise ValueError(f"--set {unknown[0]}: {checkpoint.pipeline.__name__} takes {', '.join(checkpoint.call)}")
    setup = read_setup(checkpoint, options, read_methods(options.method, options.gamma), arguments)
    findings = examine(setup)
    print(json.dumps(findings, indent=1) if options.json else in_words(setup, findings))
    if any(f["severity"] == ERROR for f in findings):
        sys.exit(1)


def examine(setup: Setup) -> list[dict]:
    """What the rules find, errors first: rule, severity, found, change, sources."""
    found = [(rule, rule.find(setup)) for rule in RULES]
    order = ("error", "warning", "note")
    return [
        {"rule": r.key, "severity": r.severity, "found": said, "change": r.change, "sources": list(r.sources)}
        for r, said in sorted(found, key=lambda pair: order.index(pair[0].severity))
        if said is not None
    ]


def in_words(setup: Setup, findings: list[dict]) -> str:
    """The set-up in a line, then each finding with what to change and where it is known from."""
    size = f"{setup.height} x {setup.width}" if setup.height else "size by the image"
    lines = [
        f"{setup.checkpoint.model}: {setup.pipeline}, {setup.steps} steps, guidance {setup.guidance}, {size}, "
        f"{setup.frames} frames, {len(RULES)} rules"
    ]
    for f in findings:
        lines += [f"{f['severity']}: {f['found']} [{f['rule']}]", f"    change: {f['change']}"]
        lines += [f"    source: {source}" for source in f["sources"]]
    return "\n".join(lines if findings else [*lines, "nothing that is known to freeze videos was found"])
