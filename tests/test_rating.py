"""Blinded rating sheets: what a rater is shown gives nothing away, answers find their way back, and agreement is agreement."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.report.imported_scores import join
from analysis.report.rater_agreement import alpha_interval, krippendorff_alpha
from analysis.report.rating_answers import agreement, as_evaluated, differences, means, read_answers
from analysis.report.rating_sheet import plan_sheets, write_for_browsers, write_sheets
from analysis.study.video_files import read_video, write_video

METHODS = ["none", "alignvid"]
KINDS = ["addition", "deletion", "modification"]
_ = np.nan
# Krippendorff's example of four observers and twelve units, with missing answers (Computing Krippendorff's Alpha-Reliability, 2011).
EXAMPLE = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
])  # fmt: skip


@pytest.mark.parametrize("level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_krippendorffs_example(level, published):
    assert krippendorff_alpha(EXAMPLE, level) == pytest.approx(published, abs=5e-4)


def direct_alpha(answers, level):
    """By its definition: the mean difference of two answers to one unit over that of any two answers, in float64."""
    units = [u[~np.isnan(u)] for u in answers.T]
    units = [u for u in units if len(u) > 1]
    every = np.concatenate(units)
    ranks = {v: (every < v).sum() + (every == v).sum() / 2 for v in every}

    def d(x, y):
        return (
            float(x != y) if level == "nominal" else (x - y) ** 2 if level == "interval" else (ranks[x] - ranks[y]) ** 2
        )

    within = sum(sum(d(x, y) for x in u for y in u) / (len(u) - 1) for u in units)
    return 1 - within / (sum(d(x, y) for x in every for y in every) / (len(every) - 1))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_its_definition_on_random_answers(level):
    rng = np.random.default_rng(0)
    for _ in range(20):
        raters, units = rng.integers(2, 7), rng.integers(3, 30)
        answers = rng.integers(1, 8, (raters, units)).astype(float)
        answers[rng.random(answers.shape) < 0.2] = np.nan
        assert krippendorff_alpha(answers, level) == pytest.approx(direct_alpha(answers, level), abs=1e-12)


def test_alpha_of_choices_follows_from_fleiss_kappa():
    """With every answer there, alpha is kappa corrected for the number of answers."""
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(1)
    for _ in range(5):
        answers = rng.integers(0, 3, (5, 40)).astype(float)
        answers[:, :25] = answers[0, :25]
        kappa = rater.fleiss_kappa(rater.aggregate_raters(answers.T.astype(int))[0])
        assert krippendorff_alpha(answers, "nominal") == pytest.approx(
            1 - (1 - kappa) * (1 - 1 / answers.size), abs=1e-12
        )


def test_the_ends_of_alpha():
    rng = np.random.default_rng(2)
    same = np.tile(rng.integers(1, 8, 30), (4, 1)).astype(float)
    assert krippendorff_alpha(same, "ordinal") == 1
    assert abs(krippendorff_alpha(rng.integers(1, 8, (4, 3000)).astype(float), "ordinal")) < 0.03
    assert np.isnan(krippendorff_alpha(np.ones((3, 5)), "nominal")) and np.isnan(
        krippendorff_alpha(np.full((1, 4), 2.0), "nominal")
    )
    low, high = alpha_interval(same + (rng.random(same.shape) < 0.2), "ordinal", np.arange(30))
    assert 0.5 < low < high < 1
    with pytest.raises(ValueError, match="ratio"):
        krippendorff_alpha(EXAMPLE, "ratio")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A manifest of nine prompts, two methods and a third that has one video less; videos of 16 x 18 pixels with metadata."""
    folder, rows = tmp_path_factory.mktemp("study"), []
    Image.new("RGB", (20, 30), "red").save(folder / "reference.png")
    for i in range(9):
        for m, method in enumerate([*METHODS, "third"]):
            video = f"{method}/sample_{i}.mkv"
            if (method, i) != ("third", 0):
                picture = np.full((3, 18, 16, 3), 30 * m, np.uint8)
                picture[:, :, :, 0] = 10 * i
                write_video(folder / video, picture, 8)
            rows.append({"video": video, "id": f"sample_{i}", "seed": 0, "method": method, "prompt": f'"sentence" {i} </script>',
                         "image": "reference.png", "main_category": KINDS[i % 3], "backbone": "Wan2.1"})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


def test_a_sheet_shows_everything_and_gives_nothing_away(study, tmp_path):
    sheets = plan_sheets(study / "manifest.csv", 6, 3, methods=METHODS, ask="both", seed=5)
    key = pd.read_csv(write_sheets(sheets, tmp_path / "sheets"))
    assert not (tmp_path / "sheets/sheets-key.csv").exists() and (tmp_path / "sheets-key.csv").is_file()
    pages = sorted((tmp_path / "sheets").glob("*.html"))
    assert len(pages) == 3 and len(list((tmp_path / "sheets/videos").iterdir())) == 12
    for page in pages:
        text = page.read_text()
        assert not any(word in text for word in [*METHODS[1:], "Wan2.1", "sample_", "manifest", "://"])
        data = data_of(text)
        assert len(data["trials"]) == 6 and len(data["questions"]) == 6
        for trial in data["trials"]:
            assert re.fullmatch(r'"sentence" \d </script>', trial["prompt"]) and [
                v["slot"] for v in trial["videos"]
            ] == ["A", "B"]
            for file in [trial["image"], *(v["file"] for v in trial["videos"])]:
                assert (tmp_path / "sheets" / file).is_file()
                assert re.fullmatch(r"(videos|images)/[0-9a-f]{12}\.(mp4|png)", file)
    for file, own in key.groupby("file"):
        shown = read_video(tmp_path / "sheets" / file)
        made = read_video(study / own["video"].iloc[0])
        assert own["video"].nunique() == 1 and np.abs(shown.astype(int) - made).max() <= 6
        with av.open(str(tmp_path / "sheets" / file)) as container:
            assert "alignvid" not in str(container.metadata) and container.streams.video[0].average_rate == 8
    assert set(key.drop_duplicates("sample")["main_category"].value_counts()) == {2}, "as many of each category"


def test_sides_and_order_are_each_raters_own_and_balanced(study):
    key = plan_sheets(study / "manifest.csv", 9, 40, methods=METHODS).key
    first = key[key["slot"] == "A"]
    assert abs((first["method"] == "alignvid").mean() - 0.5) < 0.1
    orders = {tuple(own.sort_values("trial")["sample"]) for _, own in first.groupby("sheet")}
    assert len(orders) == 40 and all(len(set(o)) == 9 for o in orders)
    assert key.equals(plan_sheets(study / "manifest.csv", 9, 40, methods=METHODS).key)
    assert not key.equals(plan_sheets(study / "manifest.csv", 9, 40, methods=METHODS, seed=1).key)


def test_what_cannot_be_shown_is_refused(study, tmp_path):
    manifest = study / "manifest.csv"
    with pytest.raises(ValueError, match="8 prompts have a video of each of none, alignvid, third; 9 are asked for"):
        plan_sheets(manifest, 9, 1)
    with pytest.raises(ValueError, match="no method 'lost'; it has none, alignvid, third"):
        plan_sheets(manifest, 2, 1, methods=["lost"])
    with pytest.raises(ValueError, match="1 methods"):
        plan_sheets(manifest, 2, 1, methods=["none"])
    with pytest.raises(ValueError, match="ask is 'stars'"):
        plan_sheets(manifest, 2, 1, ask="stars")
    table = pd.read_csv(manifest)
    table.drop(columns="prompt").to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(ValueError, match="no column prompt"):
        plan_sheets(tmp_path / "manifest.csv", 2, 1)
    double = pd.concat([table, table.assign(backbone="other", video="other/" + table["video"])])
    for video in double.loc[double["backbone"] == "other", "video"]:
        (study / video).parent.mkdir(parents=True, exist_ok=True)
        (study / video).touch()
    double.to_csv(study / "double.csv", index=False)
    with pytest.raises(ValueError, match="has 2 videos: choose one with --backbone"):
        plan_sheets(study / "double.csv", 2, 1, methods=METHODS)
    with pytest.raises(ValueError, match=r"no backbone lost; it has Wan2\.1, other"):
        plan_sheets(study / "double.csv", 2, 1, methods=METHODS, backbone="lost")
    one = plan_sheets(study / "double.csv", 2, 1, methods=METHODS, backbone="Wan2.1")
    assert set(one.key["backbone"]) == {"Wan2.1"} and one.prompts
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(ValueError, match="is not empty"):
        write_sheets(plan_sheets(manifest, 2, 1, methods=METHODS), tmp_path / "full")
    (tmp_path / "bad.mkv").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"bad\.mkv cannot be shown"):
        write_for_browsers(tmp_path / "bad.mkv", tmp_path / "bad.mp4")


def answered(key, folder, opinion, *, ask=("semantic_fidelity", "overall")):
    """What each sheet's rater would save: `opinion(rng, method, sample)` is the rating; the best is the one rated highest."""
    files = []
    for sheet, own in key.groupby("sheet"):
        rng, lines = np.random.default_rng(sheet), []
        for trial, rows in own.groupby("trial"):
            rated = {r.slot: opinion(rng, r.method, r.sample) for r in rows.itertuples()}
            about = [key["study"].iloc[0], sheet, f"rater {sheet}", trial]
            lines += [
                [*about, "semantic_fidelity", slot, value, 9]
                for slot, value in rated.items()
                if "semantic_fidelity" in ask
            ]
            lines += [[*about, "overall", "", max(rated, key=rated.get), 9]] * ("overall" in ask)
        files.append(folder / f"answers-{sheet}.csv")
        table = pd.DataFrame(
            lines, columns=["study", "sheet", "rater", "trial", "question", "slot", "value", "seconds"]
        )
        table.to_csv(files[-1], index=False)
    return files


def better(rng, method, sample):
    return int(np.clip(3 + int(sample[-1]) % 3 + 2 * (method == "alignvid") + rng.integers(-1, 2), 1, 7))


@pytest.fixture
def rated(study, tmp_path):
    key = plan_sheets(study / "manifest.csv", 9, 5, methods=METHODS, ask="both").key
    key.to_csv(tmp_path / "key.csv", index=False)
    return key, tmp_path


def test_answers_find_their_way_back_to_the_videos(rated, study):
    key, folder = rated
    answers = read_answers(answered(key, folder, better), folder / "key.csv")
    assert len(answers) == 5 * 9 * 2 * 2
    table = means(answers).set_index(["question", "method"])["mean"]
    gap = table["semantic_fidelity", "alignvid"] - table["semantic_fidelity", "none"]
    assert 1.5 < gap < 2.2 and table["overall", "alignvid"] + table["overall", "none"] == pytest.approx(1)
    found = differences(answers).set_index("question")
    assert found.loc["semantic_fidelity", "difference"] == pytest.approx(-gap) and (found["a_is"] == "lower").all()
    assert (found["n"] == 9).all() and (found["p (Holm)"] >= found["p"]).all()
    agreed = agreement(answers).set_index("question")
    assert agreed.loc["semantic_fidelity", "alpha"] > 0.5 and (agreed["first_side"].abs() < 0.4).all()
    scores = as_evaluated(answers)
    assert len(scores) == 36 and set(scores["metric"]) == {"human_semantic_fidelity", "human_preferred_overall"}
    assert set(scores["scorer"] + " " + scores["version"]) == {"people 5 raters"}


BROWSER = """
// The few things of a browser that the page uses, and a rater who answers everything with 4, and A as the best.
const fs = require("fs"), page = fs.readFileSync(process.argv[1], "utf8");
class Node {
  constructor(tag) { this.tag = tag; this.children = []; this.value = ""; this.style = {}; }
  append(...c) { this.children.push(...c); } replaceChildren() { this.children = []; } focus() {}
  click() { globalThis.clicked = this; }
  all() { return this.children.filter(c => c instanceof Node).flatMap(c => [c, ...c.all()]); }
}
const ids = {}, stored = {};
for (const id of ["trial", "back", "next", "where", "save", "open", "rater"]) ids[id] = new Node(id);
ids.data = {textContent: page.split('id="data">')[1].split("</script>")[0]};
globalThis.document = {getElementById: id => ids[id], createElement: tag => new Node(tag)};
globalThis.localStorage = {getItem: k => stored[k] || null, setItem: (k, v) => { stored[k] = v; }};
globalThis.window = {scrollTo() {}};
globalThis.Blob = class { constructor(parts) { this.text = parts.join(""); } };
globalThis.URL = {createObjectURL: b => { globalThis.saved = b.text; return "blob:"; }, revokeObjectURL() {}};
const script = page.split("<script>")[1].split("</script>")[0];
(0, eval)(script);
ids.save.onclick();
if (globalThis.saved !== undefined) throw new Error("saved without a name");
const open = ids.open.textContent;
for (let page = 0; page < 99; page++) {
  for (const input of ids.trial.all().filter(n => n.tag === "input" && (n.value === "4" || n.value === "A"))) {
    input.checked = true; input.onchange();
  }
  if (ids.next.disabled) break;
  ids.next.onclick();
}
ids.rater.value = 'Ann "A", 1';
ids.save.onclick();
const left = ids.open.textContent;
(0, eval)("{" + script + "}");  // the page is opened again: its answers are still there
const kept = ids.trial.all().filter(n => n.checked).length;
console.log(JSON.stringify({open, left, kept, name: globalThis.clicked.download, csv: globalThis.saved}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_the_page_in_a_browser_saves_what_is_read(study, tmp_path):
    sheets = plan_sheets(study / "manifest.csv", 3, 1, methods=METHODS, ask="both")
    key = write_sheets(sheets, tmp_path / "sheets")
    (tmp_path / "browser.js").write_text(BROWSER.replace("process.argv[1]", "process.argv[2]"))
    command = ["node", str(tmp_path / "browser.js"), str(tmp_path / "sheets/sheet-01.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["open"] == "give your name or number first" and found["left"] == "" and found["kept"] == 8
    assert found["name"] == "answers-1-Ann-A-1.csv"
    (tmp_path / "answers.csv").write_text(found["csv"])
    answers = read_answers([tmp_path / "answers.csv"], key)
    assert set(answers["rater"]) == {'Ann "A", 1'} and len(answers) == 3 * 2 * 6
    assert set(answers.loc[answers["kind"] == "likert", "value"]) == {4}
    best = answers[answers["kind"] == "best"]
    assert (best["value"] == (best["slot"] == "A")).all()


def test_raters_who_do_not_agree_have_no_agreement_and_nothing_is_found(rated):
    key, folder = rated
    answers = read_answers(answered(key, folder, lambda rng, m, s: int(rng.integers(1, 8))), folder / "key.csv")
    assert (agreement(answers)["alpha"].abs() < 0.25).all() and (differences(answers)["a_is"] == "undecided").all()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.assign(study="other"), "is of study other, the key of"),
        (lambda t: t.assign(value="9"), "is not 1 to 7"),
        (lambda t: t.assign(sheet=77), "is on no sheet"),
        (lambda t: pd.concat([t, t[:1]]), "1 answers are there twice"),
        (lambda t: t[1:], "rater rater 1, sheet 1, trial 1: no or not all answers to semantic_fidelity"),
        (lambda t: t[["study"]], "was not saved by a rating sheet"),
    ],
)
def test_answers_that_do_not_fit_are_refused(rated, change, said):
    key, folder = rated
    files = answered(key, folder, better)
    change(pd.read_csv(files[0], keep_default_na=False)).to_csv(files[0], index=False)
    with pytest.raises(ValueError, match=said):
        read_answers(files, folder / "key.csv")


def test_the_command_writes_reads_and_hands_on(study, tmp_path):
    out = tmp_path / "sheets"
    command = ["rate", str(study / "manifest.csv"), "--pairs", "6", "--raters", "2", "-o", str(out), "--ask", "both"]
    done = CliRunner().invoke(app, [*command, "--method", "none", "--method", "alignvid"])
    assert done.exit_code == 0 and "2 sheets of 6 prompts and 12 videos" in done.output
    key = pd.read_csv(f"{out}-key.csv", dtype={"study": str})
    files = answered(key, tmp_path, better)
    scores = tmp_path / "people.csv"
    done = CliRunner().invoke(app, ["rate", "--read", *map(str, files), "--key", f"{out}-key.csv", "-o", str(scores)])
    assert done.exit_code == 0, done.output
    assert "2 raters, 6 prompts, 2 methods" in done.output and "Krippendorff's alpha" in done.output
    manifest = pd.read_csv(study / "manifest.csv")
    shown = manifest[manifest["video"].isin(key["video"])]
    shown.to_csv(tmp_path / "manifest.csv", index=False)
    long = join([scores], tmp_path / "manifest.csv")
    assert len(long) == 24 and set(long["estimator"]) == {"people 2 raters"}
    assert Path(f"{out}-key.csv").is_file()
