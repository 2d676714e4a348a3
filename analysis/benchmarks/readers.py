"""`read_benchmark(folder)`: whatever benchmark a folder holds, as samples of one schema, with all that is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import drawn_samples, focal_guidance, listed_samples, plain_folder, vbench_i2v
from .reference_images import sha256, upright_size
from .sample import Benchmark, Problem, Sample, parse
from .specs import Spec, load_spec

LONGEST = 255  # bytes of a file's name

# Name -> (whether a folder holds it, its reader); the first that does is taken.
READERS = {
    "testbed": (listed_samples.is_testbed, listed_samples.read),
    "omiti2v": (listed_samples.is_omiti2v, listed_samples.read),
    "focal_guidance": (focal_guidance.recognised, focal_guidance.read),
    "vbench_i2v": (vbench_i2v.recognised, vbench_i2v.read),
    "pe_video": (lambda folder: drawn_samples.name_of(folder) == "pe_video", drawn_samples.read),
    "vidprom": (lambda folder: drawn_samples.name_of(folder) == "vidprom", drawn_samples.read),
    "folder": (plain_folder.recognised, plain_folder.read),
}
CHOICES = {"vbench_i2v": ("crop",), "focal_guidance": ("crop", "order")}


def recognise(folder: Path) -> str:
    """The name of the benchmark in a folder. Raises ValueError, that says what would be recognised, if there is none."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    for name, (recognised, _) in READERS.items():
        if recognised(folder):
            return name
    known = "; ".join(f"{name}: {load_spec(name).reads.split(', ')[0]}" for name in READERS)
    raise ValueError(f"{folder} holds no benchmark that is known ({known})")


def read_benchmark(
    folder: Path | str,
    name: str | None = None,
    *,
    crop: str | None = None,
    order: str | None = None,
    images: bool = True,
) -> Benchmark:
    """The benchmark in a folder, and everything that is wrong with it, in `problems`.

    name: of a reader; recognised by its files if not given. crop, order: which crops of the images, where a benchmark has
    several. images: whether every reference is decoded, which finds damaged ones and their sizes; else only those that are
    missing are found. Raises ValueError when the folder holds nothing that is known, and for choices that the benchmark does not
    have; `Benchmark.require` raises for everything else.
    """
    folder = Path(folder)
    name = name or recognise(folder)
    spec = load_spec(name)
    if name not in READERS:
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(READERS)}")
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    chosen = {k: v for k, v in {"crop": crop, "order": order}.items() if v is not None}
    if unknown := set(chosen) - set(CHOICES.get(name, ())):
        raise ValueError(f"{spec.title} has no choice of {', '.join(sorted(unknown))}")
    records, file, problems = READERS[name][1](folder, **chosen)
    samples, wrong, others = parse(records, spec, file)
    wrong += _sizes_of_lists(samples, spec)
    sizes, unsound = _references(folder, samples, others, decode=images)
    wrong += [Problem(*_long_name(s, spec), stops=False) for s in samples if _long_name(s, spec)]
    version = " ".join([spec.version, *sorted({s.domain for s in samples if name in CHOICES}), _contents(samples)])
    return Benchmark(name, version, folder, tuple(samples), (*problems, *wrong, *unsound), spec, sizes)


def _contents(samples: list[Sample]) -> str:
    text = json.dumps([s.record() for s in samples], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sizes_of_lists(samples: list[Sample], spec: Spec) -> list[Problem]:
    """That there are fewer or more samples than the benchmark has: part of one may be wanted, so it does not stop."""
    problems = []
    if spec.samples and samples and len(samples) != spec.samples:
        said = f"{len(samples)} samples; the benchmark has {spec.samples}"
        problems.append(Problem("size", spec.title, said, stops=False))
    counts = Counter(s.main_category for s in samples)
    for group, n in spec.groups.items():
        if samples and counts[group] != n:
            problems.append(Problem("size", group, f"{counts[group]} samples; the benchmark has {n}", stops=False))
    return problems


def _references(
    folder: Path, samples: list[Sample], others: list[tuple[str, str]], *, decode: bool
) -> tuple[dict[str, tuple[int, int]], list[Problem]]:
    """({id: (width, height)} of the samples' references, problems of those and of the images of `others`)."""
    sizes, problems = {}, []

    def look(name: str, image: str, published: str):
        path = folder / image
        if not path.is_file():
            return Problem("missing image", name, f"{image} is not there")
        if published and sha256(path) != published:
            return Problem("changed image", name, f"{image} is not the one whose hash is published")
        try:
            return upright_size(path) if decode else None
        except ValueError as error:
            return Problem("unreadable image", name, str(error))

    asked = [(s.id, s.image_path, s.sha256) for s in samples] + [(name, image, "") for name, image in others]
    with ThreadPoolExecutor() as threads:
        looked = list(threads.map(look, *zip(*asked, strict=True))) if asked else []
    problems += [found for found in looked if isinstance(found, Problem)]
    for sample, found in zip(samples, looked, strict=False):
        if isinstance(found, tuple):
            sizes[sample.id], turned = found
            problems += _about_size(sample, sizes[sample.id], turned)
    return sizes, problems


def _about_size(sample: Sample, size: tuple[int, int], turned: bool) -> list[Problem]:
    found = []
    if turned:
        said = f"{sample.image_path} is turned by its EXIF; upright it is {size[0]}x{size[1]}"
        found.append(Problem("turned image", sample.id, said, stops=False))
    if sample.resolution and tuple(sample.resolution) != size:
        said = f"resolution says {sample.resolution[0]}x{sample.resolution[1]}, the image is {size[0]}x{size[1]}"
        found.append(Problem("another size", sample.id, said, stops=False))
    if sample.subject_box:
        x, y, w, h = sample.subject_box
        if w <= 0 or h <= 0 or x < 0 or y < 0 or x + w > size[0] or y + h > size[1]:
            said = f"subject-box {list(sample.subject_box)} is not within {size[0]}x{size[1]}"
            found.append(Problem("wrong field", sample.id, said))
    return found


def _long_name(sample: Sample, spec: Spec) -> tuple[str, str, str] | None:
    name = spec.video_name.format(id=sample.id, prompt=sample.prompt, seed=0)
    if len(name.encode()) > LONGEST or "/" in name:
        return (
            "video name",
            sample.id,
            f"its scripts want a video called {name[:40]!r}..., which cannot be a file's name",
        )
    return None
