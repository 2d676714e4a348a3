"""Run VBench on a manifest's videos and write its values per video: `vbench_program.py MANIFEST OUT DIMENSION...`.

It runs in VBench's environment (vbench.txt), by its own Python, and imports nothing of this repository. VBench reads
mp4 and gif, takes a video's prompt from its name or a list, and downloads weights when it first needs them
(VBENCH_CACHE_DIR). imaging_quality is 0 to 100 per video in VBench's file and 0 to 1 in its mean; here it is 0 to 1.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

READS = {".mp4", ".gif"}
IMAGES = {".jpg", ".jpeg", ".png"}
OF_I2V = {"i2v_subject", "i2v_background"}
SCALE = {"imaging_quality": 100.0}


def main(manifest: str, out: str, *dimensions: str) -> None:
    """Score the videos of `manifest` in VBench's `dimensions`, and write the table `out`, a row for each of them."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines, given = [], {}
    with tempfile.TemporaryDirectory() as work:
        videos, images = Path(work, "videos"), Path(work, "images")
        videos.mkdir()
        images.mkdir()
        for number, row in enumerate(rows):
            problem = lay_out(row, f"{number:06d}", videos, images if set(dimensions) & OF_I2V else None)
            if problem:
                lines += [(row["video"], f"vbench_{d}", "", "failed", problem) for d in dimensions]
            else:
                given[f"{number:06d}"] = row
        if given:
            results = run(videos, images, Path(work), dimensions, given)
            for dimension in dimensions:
                for one in results[dimension][1]:
                    value = float(one["video_results"]) / SCALE.get(dimension, 1.0)
                    lines.append(
                        (given[Path(one["video_path"]).stem]["video"], f"vbench_{dimension}", repr(value), "ok", "")
                    )
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "metric", "value", "status", "reason"))
        writer.writerows(lines)


def lay_out(row, name: str, videos: Path, images) -> str:
    """Link a video, and its reference unless `images` is None, under a name that VBench can read; returns what is
    wrong, "" if nothing is."""
    video = Path(row["video"])
    if video.suffix.lower() not in READS:
        return f"VBench reads mp4 and gif, not {video.suffix or 'a folder'}"
    if images is not None:
        image = Path(row["image"])
        if image.suffix.lower() not in IMAGES:
            return f"VBench-I2V reads jpg and png, not {image.suffix}"
        (images / (name + image.suffix.lower())).symlink_to(image)
    (videos / (name + video.suffix.lower())).symlink_to(video)
    return ""


def run(videos: Path, images: Path, work: Path, dimensions, given) -> dict:
    """VBench's own result file: {dimension: [mean, [{"video_path", "video_results"}, ...]]}."""
    import torch
    import vbench

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    info = Path(vbench.__file__).parent / "VBench_full_info.json"
    if set(dimensions) & OF_I2V:
        from vbench2_beta_i2v import VBenchI2V

        bench = VBenchI2V(device, str(info), str(work))
        more = {"custom_image_folder": str(images)}
    else:
        bench = vbench.VBench(device, str(info), str(work))
        prompts = {path.name: given[path.stem]["prompt"] for path in videos.iterdir() if given[path.stem]["prompt"]}
        more = {"prompt_list": prompts if len(prompts) == len(given) else []}
    bench.evaluate(videos_path=str(videos), name="run", dimension_list=list(dimensions), mode="custom_input", **more)
    return json.loads((work / "run_eval_results.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what VBench says is no result
    main(*sys.argv[1:])
