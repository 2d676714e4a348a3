"""Write benchmarks/fixtures: a few samples in the format of each benchmark, with drawn images of five shapes. Run from the root:

    python -m benchmarks.make_fixtures

Nothing in them is of the benchmarks themselves but names of fields, categories and files.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from PIL import Image, ImageDraw

from analysis.benchmarks.drawn_samples import RULE, draw, population_hash, seal

FOLDER = Path(__file__).parent / "fixtures"
ORIENTATION, QUARTER_TURN = 0x0112, 6
# Name -> (width and height as stored, EXIF orientation): landscape, portrait, square, turned by EXIF, and no multiple of anything.
SHAPES = {
    "landscape": (80, 45, 1),
    "portrait": (40, 64, 1),
    "square": (48, 48, 1),
    "turned": (64, 40, 6),
    "odd": (63, 65, 1),
}


def picture(path: Path, shape: str, colour: str) -> None:
    """A disc on a gradient; JPEG with EXIF where the shape is turned."""
    width, height, orientation = SHAPES[shape]
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    side = min(width, height) // 2
    ImageDraw.Draw(image).ellipse(
        (width // 2 - side // 2, height // 4, width // 2 + side // 2, height // 4 + side), colour
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if orientation == 1:
        image.save(path)
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.save(path, exif=exif)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def questions(name: str, words: str) -> list[dict]:
    texts = [(f"Is {words} at the end of the video?", "yes"), (f"Does {words} leave the picture?", "no")]
    return [{"id": f"{name}_q{i}", "question": q, "expected_answer": a, "category": "object_presence"}
            for i, (q, a) in enumerate(texts)]  # fmt: skip


def omiti2v(folder: Path) -> None:
    rows = []
    kinds = ["modification/pose/human", "addition/object/food", "deletion/object/animal", "modification/colour/scene",
             "addition/object/plant"]  # fmt: skip
    for i, (shape, kind) in enumerate(zip(SHAPES, kinds, strict=True)):
        file, (main, sub, domain) = f"{kind}/sample_{i}.jpg", kind.split("/")
        picture(folder / file, shape, ["red", "green", "blue", "orange", "purple"][i])
        width, height, orientation = SHAPES[shape]
        size = [height, width] if orientation == QUARTER_TURN else [width, height]
        rows.append({"id": f"sample_{i}", "image-path": file, "prompt": f"The disc in picture {i} turns white.",
                     "main-category": main, "sub-category": sub, "domain": domain, "expected-change": "the disc turns white",
                     "resolution": size, "questions": questions(f"sample_{i}", "a white disc")})  # fmt: skip
    write_json(folder / "meta.json", rows)


def vbench_i2v(folder: Path) -> None:
    quality = ["subject_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality",
               "temporal_flickering"]  # fmt: skip
    rows, crops = [], {"16-9": (80, 45), "7-4": (77, 44), "8-5": (72, 45), "1-1": (45, 45)}
    for i, (shape, kind) in enumerate(zip(SHAPES, ["animal", "food", "plant", "transportation", "other"], strict=True)):
        name = f"a disc of picture {i} is rolling over a floor, and a shadow follows"
        row = {
            "prompt_en": name,
            "dimension": ["i2v_subject", *quality],
            "image_type": kind,
            "image_name": f"{name}.jpg",
        }
        rows.append(row)
        picture(folder / f"data/origin/{name}.jpg", shape, "red")
        for crop, size in crops.items():
            target = folder / f"data/crop/{crop}/{name}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(folder / f"data/origin/{name}.jpg").resize(size).save(target)
    scene = {"image_type": "scenery", "image_name": "an empty floor.jpg"}
    rows.append({"prompt_en": "an empty floor", "dimension": ["i2v_background", "background_consistency"], **scene})
    rows.append({"prompt_en": "an empty floor, camera pans left", "dimension": ["camera_motion"], **scene})
    write_json(folder / "vbench2_i2v_full_info.json", rows)


def focal_guidance(folder: Path) -> None:
    rows, kinds = [], ["Dynamic Attributes", "Human Motion", "Human Interaction"]
    for i, shape in enumerate(SHAPES):
        width, height, orientation = SHAPES[shape]
        size = (height, width) if orientation == QUARTER_TURN else (width, height)
        picture(folder / f"images/pair_{i}.jpg", shape, "blue")
        asked = [
            {"id": q["id"], "question": q["question"], "answer": q["expected_answer"]}
            for q in questions(f"pair_{i}", "the disc")
        ]
        rows.append({"id": f"pair_{i}", "image": f"images/pair_{i}.jpg", "prompt": "The disc jumps.", "dimension": kinds[i % 3],
                     "subject_box": [size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2], "questions": asked})  # fmt: skip
    write_json(folder / "focal_guidance.json", rows)


def drawn(folder: Path, name: str, n: int = 3) -> None:
    population = [f"{name}-{i:03d}" for i in range(20)]
    chosen = draw(population, n, 0)
    for i, shape in zip(chosen, list(SHAPES)[:n], strict=True):
        picture(folder / f"images/{i}.png", shape, "green")
    samples = [{"id": i, "prompt": f"a disc, the one of {i}", "image": f"images/{i}.png"} for i in chosen]
    about = {"benchmark": name, "rule": RULE, "seed": 0, "drawn": n, "of": len(population)}
    write_json(folder / "draw.json", about | {"population_sha256": population_hash(population), "samples": samples})
    seal(folder)


def plain(folder: Path) -> None:
    for shape in SHAPES:
        picture(folder / f"{shape}.jpg", shape, "orange")
    with (folder / "prompts.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [["file", "prompt"], *([f"{shape}.jpg", f"the disc of the {shape} picture falls"] for shape in SHAPES)]
        )


def make(folder: Path = FOLDER) -> None:
    omiti2v(folder / "omiti2v")
    vbench_i2v(folder / "vbench_i2v")
    focal_guidance(folder / "focal_guidance")
    drawn(folder / "pe_video", "pe_video")
    drawn(folder / "vidprom", "vidprom")
    plain(folder / "folder")


if __name__ == "__main__":
    make()
