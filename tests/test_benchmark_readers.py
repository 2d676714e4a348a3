"""Readers of benchmarks: every format to one schema, and every fault of a folder found at once, before anything is loaded."""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.benchmarks import Sample, drawn_samples, large_sets, read_benchmark
from analysis.benchmarks.canonical_crops import canonical_crops, share_in_view
from analysis.benchmarks.readers import READERS
from analysis.benchmarks.specs import load_spec, spec_names
from analysis.benchmarks.vbench_i2v import sample_id
from analysis.study.benchmark_samples import load_samples

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import make_fixtures  # noqa: E402

FIXTURES = ROOT / "benchmarks/fixtures"
NAMES = ["omiti2v", "vbench_i2v", "focal_guidance", "pe_video", "vidprom", "folder"]


@pytest.fixture
def copy(tmp_path):
    """A function that copies a fixture, to be damaged."""

    def copied(name):
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copied


def kinds(benchmark):
    return {(p.kind, p.where) for p in benchmark.errors}


def edit(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_recognised_and_read_whole(name):
    benchmark = read_benchmark(FIXTURES / name)
    assert benchmark.name == name and not benchmark.errors, benchmark.errors
    assert len(benchmark.samples) >= 3 and set(benchmark.sizes) == {s.id for s in benchmark.samples}
    assert all(benchmark.image(s).is_file() and s.prompt for s in benchmark.samples)
    assert benchmark.require() is benchmark
    assert {"id", "prompt", "image-path", "main-category", "questions"} <= set(benchmark.records[0])
    assert read_benchmark(FIXTURES / name, name).version == benchmark.version
    assert bool(benchmark.samples[0].questions) == (benchmark.spec.questions == "required")


def test_the_fixtures_are_those_that_the_program_makes(tmp_path):
    make_fixtures.make(tmp_path)
    made, kept = (
        {p.relative_to(f) for f in [root] for p in root.rglob("*") if p.is_file()} for root in (tmp_path, FIXTURES)
    )
    assert made == kept
    for file in (f for f in made if f.suffix == ".json" and f.name != "draw.json"):
        assert (tmp_path / file).read_text() == (FIXTURES / file).read_text()


def test_images_have_the_size_that_they_have_upright():
    benchmark = read_benchmark(FIXTURES / "omiti2v")
    assert list(benchmark.sizes.values()) == [(80, 45), (40, 64), (48, 48), (40, 64), (63, 65)]
    assert [p.where for p in benchmark.problems if p.kind == "turned image"] == ["sample_3"]
    assert not [p for p in benchmark.problems if p.kind == "another size"]


def test_the_testbed_is_a_benchmark_like_any_other():
    folder = ROOT / "testbed/benchmark"
    benchmark = read_benchmark(folder)
    assert benchmark.name == "testbed" and not benchmark.problems and len(benchmark.samples) == 467
    assert benchmark.records == json.loads((folder / "meta.json").read_text()) == load_samples(folder)


def test_all_faults_of_a_folder_are_found_at_once(copy):
    folder = copy("omiti2v")

    def change(rows):
        rows[0]["questions"][1].pop("expected_answer")
        rows[0]["image-path"] = "lost.jpg"
        rows[1]["prompt"] = "  "
        rows[1]["resolution"] = [0, 5]
        rows[2]["id"] = "sample_4"
        rows[3]["questions"] = []
        rows.append({"id": "outside", "prompt": "x", "image-path": "../x.png", "questions": rows[4]["questions"]})
        rows.append(dict(rows[4], id="yes", questions=[dict(rows[4]["questions"][0], expected_answer="Yes")]))
        rows.append(7)

    edit(folder / "meta.json", change)
    (folder / "modification/colour/scene/sample_3.jpg").write_bytes(b"no image")
    (folder / "deletion/object/animal/sample_2.jpg").unlink()
    benchmark = read_benchmark(folder)
    assert kinds(benchmark) == {
        ("question without answer", "sample_0"),
        ("missing image", "sample_0"),
        ("wrong field", "sample_1"),
        ("no questions", "sample_3"),
        ("unreadable image", "sample_3"),
        ("missing image", "sample_4"),
        ("duplicate id", "sample_4"),
        ("wrong field", "outside"),
        ("wrong field", "yes"),
        ("wrong field", "meta.json[7]"),
    }
    assert sum(p.where == "sample_1" for p in benchmark.errors) == 2, "the prompt, and the width"
    with pytest.raises(ValueError, match=r"missing image.*sample_4"):
        benchmark.require()


def test_a_truncated_photograph_is_found_only_by_decoding_it(copy):
    folder = copy("omiti2v")
    image = folder / "addition/object/food/sample_1.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    assert kinds(read_benchmark(folder)) == {("unreadable image", "sample_1")}
    assert not read_benchmark(folder, images=False).errors


@pytest.mark.parametrize("text", ["{", "{}", "[]", ""])
def test_a_list_that_is_none_is_named(copy, text):
    folder = copy("omiti2v")
    (folder / "meta.json").write_text(text)
    benchmark = read_benchmark(folder)
    assert [p.where for p in benchmark.errors] == ["meta.json"] and not benchmark.samples


def test_what_is_no_benchmark_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        read_benchmark(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no benchmark that is known"):
        read_benchmark(tmp_path)
    with pytest.raises(ValueError, match=r"unknown benchmark .vbench.; there are .*vbench_i2v"):
        read_benchmark(tmp_path, "vbench")
    with pytest.raises(ValueError, match="no choice of crop"):
        read_benchmark(FIXTURES / "omiti2v", crop="1-1")


def test_vbench_reads_subject_rows_in_the_crop_that_is_asked_for(copy):
    folder = copy("vbench_i2v")
    benchmark = read_benchmark(folder)
    assert len(benchmark.samples) == 5 and {s.domain for s in benchmark.samples} == {"crop 16-9"}
    assert set(benchmark.sizes.values()) == {(80, 45)}
    square = read_benchmark(folder, crop="1-1")
    assert set(square.sizes.values()) == {(45, 45)} and square.version != benchmark.version
    assert len(set(read_benchmark(folder, crop="origin").sizes.values())) == 4
    shutil.rmtree(folder / "data/crop/16-9")
    assert {s.domain for s in read_benchmark(folder).samples} == {"crop 7-4"}
    missing = read_benchmark(folder, crop="16-9")
    assert ("missing file", "data/crop/16-9") in kinds(missing) and len(missing.errors) == 6
    with pytest.raises(ValueError, match="4-3"):
        read_benchmark(folder, crop="4-3")
    sample = benchmark.samples[0]
    assert benchmark.video_name(sample, 3) == f"{sample.prompt}-3.mp4"


def test_ids_of_prompts_are_names_of_files_and_do_not_collide():
    prompts = ["A cat, 50% off / now", "a cat 50 off now", "ü" * 300, "a cat " * 60 + "x", "a cat " * 60 + "y"]
    ids = [sample_id(p) for p in prompts]
    assert len(set(ids)) == len(ids) and all(i.isascii() and len(i) < 60 and "/" not in i for i in ids)
    assert ids == [sample_id(p) for p in prompts]


def test_a_prompt_that_cannot_be_a_file_name_is_said(copy):
    folder = copy("vbench_i2v")
    edit(folder / "vbench2_i2v_full_info.json", lambda rows: rows[0].update(prompt_en="a/b " + "x" * 300))
    found = [p for p in read_benchmark(folder).problems if p.kind == "video name"]
    assert len(found) == 1 and not found[0].stops


def test_crops_have_the_sizes_of_vbench_examples():
    """The two examples of VBench-I2V's README: portrait 4882x6102, and landscape 3381x2254."""
    portrait = canonical_crops(4882, 6102, (0, 530, 4882, 4882), "vbench")
    assert portrait["1-1"] == (0, 530, 4882, 5412)
    left, top, right, bottom = portrait["16-9"]
    assert (left, right - left, bottom - top) == (1, 4880, 2745) and top >= 530 and bottom <= 5412
    landscape = canonical_crops(3381, 2254, (720, 252, 1899, 1899), "vbench")
    assert [landscape["16-9"][i + 2] - landscape["16-9"][i] for i in (0, 1)] == [3376, 1899]
    assert [landscape["1-1"][i + 2] - landscape["1-1"][i] for i in (0, 1)] == [1899, 1899]


def test_the_two_orders_of_crops():
    """One crop lies in the other; which is outside depends on the order and the image. VBench's keeps more, but for landscape
    images below 4:3."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = (int(v) for v in rng.integers(60, 400, 2))
        w, h = rng.uniform(1, width / 3), rng.uniform(1, height / 3)
        subject = (rng.uniform(0, width - w), rng.uniform(0, height - h), w, h)
        area = {}
        for order in ("paper", "vbench"):
            crops = canonical_crops(width, height, subject, order)
            first = "16-9" if (height > width) == (order == "paper") else "1-1"
            outer, inner = crops[first], crops["1-1" if first == "16-9" else "16-9"]
            assert 0 <= outer[0] <= inner[0] and inner[2] <= outer[2] <= width
            assert 0 <= outer[1] <= inner[1] and inner[3] <= outer[3] <= height
            assert all(0 <= share_in_view(c, subject) <= 1 for c in crops.values())
            area[order] = sum((c[2] - c[0]) * (c[3] - c[1]) for c in crops.values())
        if height > width or width > 1.4 * height:
            assert area["vbench"] >= area["paper"] * 0.98
        elif width < 1.25 * height:
            assert area["vbench"] < area["paper"]
    with pytest.raises(ValueError, match="order"):
        canonical_crops(60, 60, (0, 0, 1, 1), "first")


def test_focal_guidance_asks_all_answers_and_reads_its_crops(copy):
    folder = copy("focal_guidance")
    assert read_benchmark(folder).score == "all right"
    missing = read_benchmark(folder, crop="1-1", order="vbench")
    assert ("missing file", "crops/vbench/1-1") in kinds(missing)
    assert any("benchmark-crop" in p.what and "--order vbench" in p.what for p in missing.errors)
    done = CliRunner().invoke(app, ["benchmark-crop", str(folder), "--ratio", "1-1", "--order", "vbench"])
    assert done.exit_code == 0 and "5 crops" in done.output
    cropped = read_benchmark(folder, crop="1-1", order="vbench")
    assert not cropped.errors and all(w == h for w, h in cropped.sizes.values())
    edit(folder / "focal_guidance.json", lambda rows: rows[0].update(dimension="Speed", subject_box=[0, 0, 900, 9]))
    assert [p.where for p in read_benchmark(folder).errors] == ["pair_0", "pair_0"]


def test_draws_can_be_repeated_by_anyone():
    ids = [f"v{i}" for i in range(500)]
    chosen = drawn_samples.draw(ids, 20, 3)
    assert chosen == drawn_samples.draw(reversed(ids), 20, 3) == drawn_samples.draw(ids, 90, 3)[:20]
    assert chosen != drawn_samples.draw(ids, 20, 4)
    counts = np.zeros(500)
    for seed in range(200):
        counts[[int(i[1:]) for i in drawn_samples.draw(ids, 50, seed)]] += 1
    assert abs(counts.mean() - 20) < 1e-9 and 10 < counts.var() < 30  # 18 of a binomial
    with pytest.raises(ValueError, match="501 samples are asked for"):
        drawn_samples.draw(ids, 501, 0)
    with pytest.raises(ValueError, match="twice"):
        drawn_samples.draw(["a", "a"], 1, 0)


def video(path, frames=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            picture = np.full((48, 64, 3), 40 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_pe_video_is_drawn_from_shards_and_from_files(tmp_path):
    source = tmp_path / "source"
    for i in range(6):
        video(source / f"test/{i:03d}.mp4")
        caption = {"human_caption": f"caption {i}", "model_caption": "other"} if i else {"title": "no caption"}
        (source / f"test/{i:03d}.json").write_text(json.dumps(caption))
    with tarfile.open(source / "test/0001.tar", "w") as tar:
        for i in range(3):
            for suffix in (".mp4", ".json"):
                tar.add(source / f"test/{i:03d}{suffix}", f"{i:03d}{suffix}")
                (source / f"test/{i:03d}{suffix}").unlink()
    problems = large_sets.draw_pe_video(source, tmp_path / "drawn", 6, 1)
    assert [p.where for p in problems] == ["000"] and "title" in problems[0].what
    found = json.loads((tmp_path / "drawn/draw.json").read_text())
    assert (found["of"], found["drawn"], len(found["population_sha256"])) == (6, 6, 64)
    benchmark = read_benchmark(tmp_path / "drawn")
    assert kinds(benchmark) == {("wrong field", "000")} and set(benchmark.sizes.values()) == {(64, 48)}
    assert {s.prompt for s in benchmark.samples} == {f"caption {i}" for i in range(1, 6)}


def test_vidprom_is_drawn_from_its_list_and_its_images_are_sealed(tmp_path):
    rows = "\n".join(f'u{i},"a cat, and {i} dogs",2023,0.1' for i in range(30))
    (tmp_path / "VidProM_unique.csv").write_text(f"uuid,prompt,time,toxicity\n{rows}\nempty,,2023,0\n")
    command = [
        "benchmark-draw",
        "vidprom",
        str(tmp_path),
        "-o",
        str(tmp_path / "drawn"),
        "--samples",
        "4",
        "--seed",
        "2",
    ]
    assert CliRunner().invoke(app, command).exit_code == 0
    benchmark = read_benchmark(tmp_path / "drawn")
    assert benchmark.name == "vidprom" and {p.kind for p in benchmark.errors} == {"missing image"}
    (tmp_path / "drawn/images").mkdir()
    for sample in benchmark.samples:
        Image.new("RGB", (32, 32)).save(tmp_path / "drawn" / sample.image_path)
    assert not read_benchmark(tmp_path / "drawn").errors
    assert CliRunner().invoke(app, ["benchmark-seal", str(tmp_path / "drawn")]).exit_code == 0
    sealed = read_benchmark(tmp_path / "drawn")
    assert not sealed.errors and all(s.sha256 for s in sealed.samples)
    Image.new("RGB", (32, 32), "red").save(sealed.image(sealed.samples[0]))
    assert kinds(read_benchmark(tmp_path / "drawn")) == {("changed image", sealed.samples[0].id)}
    edit(tmp_path / "drawn/draw.json", lambda d: d["samples"].reverse())
    assert ("wrong field", "draw.json") in kinds(read_benchmark(tmp_path / "drawn"))


def test_any_folder_of_videos_with_prompts_in_any_of_three_places(tmp_path):
    for name in ("a/one.mp4", "two.mp4"):
        video(tmp_path / name)
    Image.new("RGB", (20, 30)).save(tmp_path / "three.png")
    assert [p.kind for p in read_benchmark(tmp_path).errors] == ["missing file"]
    for name in ("a/one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(f"prompt of {name}\n")
    benchmark = read_benchmark(tmp_path)
    assert {s.id: s.prompt for s in benchmark.samples} == {
        "a-one": "prompt of a/one", "three": "prompt of three", "two": "prompt of two"
    }  # fmt: skip
    assert benchmark.sizes == {"a-one": (64, 48), "three": (20, 30), "two": (64, 48)}
    (tmp_path / "prompts.json").write_text(json.dumps({"two.mp4": "x", "four.mp4": "y"}))
    assert kinds(read_benchmark(tmp_path)) == {
        ("missing image", "four.mp4"), ("no prompt", "a/one.mp4"), ("no prompt", "three.png")
    }  # fmt: skip
    (tmp_path / "prompts.csv").write_text("file,prompt,id\ntwo.mp4,x,2\na/one.mp4,y,1\nthree.png, ,3\n")
    (tmp_path / "two.mp4").write_bytes(b"damaged")
    assert kinds(read_benchmark(tmp_path)) == {("wrong field", "three.png"), ("unreadable image", "2")}


def test_every_reader_has_a_specification_and_says_what_to_get():
    assert set(READERS) == set(spec_names())
    for name in spec_names():
        done = CliRunner().invoke(app, ["benchmark-check", "--about", name])
        assert done.exit_code == 0 and load_spec(name).title in done.output
        assert all(d.where in done.output for d in load_spec(name).download)


def test_the_check_prints_all_and_fails_when_something_is_wrong(copy):
    good = CliRunner().invoke(app, ["benchmark-check", str(FIXTURES / "omiti2v")])
    assert (
        good.exit_code == 0
        and "5 sound samples, 10 questions" in good.output
        and "5 samples; the benchmark has 367" in good.output
    )
    folder = copy("omiti2v")
    (folder / "deletion/object/animal/sample_2.jpg").unlink()
    bad = CliRunner().invoke(app, ["benchmark-check", str(folder)])
    assert bad.exit_code == 1 and "wrong: missing image (1)" in bad.output and "hf download" in bad.output


def test_fields_are_those_of_omiti2v():
    assert [f.alias for f in Sample.model_fields.values()][:9] == list(read_benchmark(FIXTURES / "omiti2v").records[0])
