"""Claims: their file, their tests on data with known answers, and what the ledger says of the code."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.papers.claim_inputs import NotRun, Study, common
from analysis.papers.claim_rules import TESTS, cost
from analysis.papers.claim_schema import ATTENTION, FRAMES, LAYERS, SCORES, Claims, Setting, load_claims
from analysis.papers.claims_page import KINDS, SYMBOLS, kind_of, page
from analysis.papers.code_differences import write_ledger
from analysis.papers.decide_claims import decide, write_claims
from analysis.study.files import write_table
from analysis.study.parameters import Sweep, load_parameters

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")
TEXT = (ROOT / "papers/claims.yaml").read_text()
A, B, C = ({"method": m} for m in ("alignvid", "dymos-1", "alg"))
TWIN = {"model": "text-to-video"}


# The file -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def claims():
    return load_claims(PARAMETERS, ROOT / "papers/claims.yaml")


def made(setting, backbone, *, recorded=None):
    """Whether a sweep of params.yaml makes a setting, and records that of its attention."""
    return any(
        (s.backbone, s.prompts, s.reference != "own") == (backbone, setting.prompts, setting.reference != "own")
        and setting.method in s.methods and setting.guidance_scale in s.guidance_scale and setting.blur in s.blur
        and (recorded is None or (s.record is not None and getattr(s.record, recorded)))
        for s in PARAMETERS.sweeps.values()
    )  # fmt: skip


def test_every_setting_is_made_by_a_sweep_of_some_model(claims):
    def own(setting, model):
        return setting.model_copy(
            update={"method": claims.stand_ins.get(model, {}).get(setting.method, setting.method)}
        )

    for claim in claims.claims:
        measures = set(claim.test.measures)
        recorded = "frames" if measures & set(FRAMES) else "groups" if measures & set(ATTENTION) else None
        for s in claim.test.settings if not measures & set(LAYERS) else []:
            names = {m: siblings.get(s.model, m) for m, siblings in claims.models.items() if s.model in {"", *siblings}}
            assert not names or any(made(own(s, m), n, recorded=recorded) for m, n in names.items()), f"{claim.id}: {s}"
    for model, names in claims.stand_ins.items():
        backbones = (model, *claims.models[model].values())
        assert all(any(made(Setting(method=m), b) for b in backbones) for m in names.values()), model
    for row in claims.ledger:
        assert any(all(made(s, m) for s in row.settings) for m in claims.models), row.id


def test_measures_are_columns_of_the_scores():
    columns = list(pd.read_csv(ROOT / "results/sweeps/wan/baseline/scores.csv", nrows=1).columns)
    assert [c for c in columns if c in SCORES] == list(SCORES)
    layers = pd.read_csv(ROOT / "results/studies/semantic-layers/wan/layers.csv", nrows=1)
    assert {"morans_i", "std"} <= set(layers.columns)


def test_notebooks_papers_and_families_are_there(claims):
    named = {name for c in claims.claims for name in c.notebook}
    assert named <= {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert 20 <= len(claims.claims) <= 80 and {c.paper for c in claims.claims} == set(claims.papers)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("family: alignvid, pilot", "familie: pilot", "familie"),
        ("measure: sharpness_retention", "measure: beauty", "beauty"),
        ("a: {blur: 1.0}, b: {}", "a: {blurr: 1.0}, b: {}", "blurr"),
        ("a: {method: alignvid}, b: {}", "a: {method: nope}, b: {}", "method 'nope'"),
        ("id: twin-distance", "id: dominance", "'dominance' is given twice"),
        ("  - id: dominance\n    paper: dymos", "  - id: dominance\n    paper: nobody", "nobody"),
        ("text-to-video: wan-t2v", "text-to-video: nobody", "backbone 'nobody'"),
        ("sign: lower", "sign: sideways", "sign"),
        ("focal-full: focal-joint-full", "focal-full: nobody", "method 'nobody'"),
        ("stand_ins:\n  cogvideox-i2v:", "stand_ins:\n  nobody:", "'nobody' is not one of the models"),
        ("kind: trend", "kind: feeling", "feeling"),
        ("claims:\n", "claims: [\n", "claims.yaml"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path, old, new, message):
    assert old in TEXT
    (tmp_path / "claims.yaml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_claims(PARAMETERS, tmp_path / "claims.yaml")


# The tests, on data with a known answer -------------------------------------------------------------------------------
def study(folder, settings, n=40):
    """A study of one sweep per setting: settings holds (fields of a Setting, {measure: n values})."""
    sweeps = {}
    for i, (setting, scores) in enumerate(settings):
        s = Setting(**setting)
        sweeps[f"s{i}"] = Sweep(
            backbone="wan-i2v", samples=n, seeds=[0], guidance_scale=[s.guidance_scale], methods=[s.method]
        )
        table = pd.DataFrame({"sample": [f"p{j:03d}" for j in range(n)], "seed": 0} | scores)
        table = table.assign(method=s.method, guidance_scale=s.guidance_scale, blur=s.blur)
        write_table(table, folder / f"sweeps/wan/s{i}/scores.csv")
    return Study(folder, PARAMETERS.model_copy(update={"sweeps": sweeps}), {"wan-i2v": {"text-to-video": "wan-t2v"}})


def claim(test, name="c", family="f"):
    return {
        "id": name,
        "paper": "p",
        "where": "w",
        "claim": "It works.",
        "family": family,
        "notebook": "n",
        "test": test,
    }


def decided(folder, tests, settings, families=None, **kwargs):
    families = families or ["f"] * len(tests)
    entries = [claim(t, f"c{i}", f) for i, (t, f) in enumerate(zip(tests, families, strict=True))]
    file = Claims(papers={"p": "P"}, models={"wan-i2v": {"text-to-video": "wan-t2v"}}, claims=entries, ledger=())
    return decide(file, study(folder, settings, **kwargs))


def flow(mean, n=40, seed=0):
    return {"flow_px": np.random.default_rng(seed).normal(mean, 1, n)}


def difference(a, b, sign="higher", measure="flow_px", **more):
    return {"kind": "difference", "measure": measure, "a": a, "b": b, "sign": sign} | more


def test_a_difference_is_decided_by_its_interval_and_corrected_p(tmp_path):
    settings = [(A, flow(3, seed=1)), (B, flow(0, seed=2)), (C, flow(0.05, seed=3))]
    tests = [difference(A, B), difference(A, B, "lower"), difference(B, C), difference(A, {"method": "dymos-2"})]
    table = decided(tmp_path, tests, settings)
    assert list(table["verdict"]) == ["supported", "contradicted", "inconclusive", "not run"]
    assert table["effect"][0] == pytest.approx(3, abs=0.7) and table["n"][0] == 40
    assert table["reason"][3] == "not run: dymos-2" and np.isnan(table["p (Holm)"][3])


def test_a_significant_interval_is_not_enough_among_many(tmp_path):
    rng = np.random.default_rng(4)
    values = {m: {"flow_px": rng.normal(0, 1, 40)} for m in ("alg", "alignvid")}
    values["alignvid"]["flow_px"] = values["alg"]["flow_px"] + rng.normal(0.33, 1, 40)
    settings = [({"method": m}, v) for m, v in values.items()]
    alone = decided(tmp_path / "a", [difference(A, C)], settings)
    assert alone["low"][0] > 0 and 0.001 < alone["p"][0] < 0.05 and alone["verdict"][0] == "supported"
    crowd = decided(tmp_path / "b", [difference(A, C)] * 60, settings)
    assert set(crowd["verdict"]) == {"inconclusive"}


def test_adherence_is_in_points_and_tested_by_mcnemar(tmp_path):
    settings = [(A, {"adherence": [1] * 30 + [0] * 10}), (B, {"adherence": [1] * 10 + [0] * 30})]
    row = decided(tmp_path, [difference(A, B, measure="adherence")], settings).iloc[0]
    assert (row["effect"], row["unit"], row["verdict"]) == (50, "points", "supported")
    assert row["p"] == pytest.approx(2 * 0.5**20)


def test_a_margin_decides_what_counts_as_little(tmp_path):
    base = np.random.default_rng(0).normal(40, 3, 40)
    noise = np.random.default_rng(1).normal(0, 0.2, 40)
    settings = [(A, {"background_psnr": base - 0.3 + noise}), (B, {"background_psnr": base})]
    tests = [difference(A, B, measure="background_psnr", line=line) for line in (-1.0, -0.3, 0.0)]
    table = decided(tmp_path, [*tests, difference(B, B, measure="background_psnr", line=-1.0)], settings)
    assert list(table["verdict"]) == ["supported", "inconclusive", "contradicted", "supported"]
    few = decided(tmp_path / "few", [difference(B, B, measure="background_psnr", line=-1.0)],
                  [(B, {"background_psnr": [40.0] * 4})], n=4)  # fmt: skip
    assert few["verdict"][0] == "inconclusive", "four equal videos prove little"


def test_of_several_comparisons_the_least_favourable_counts(tmp_path):
    settings = [(A, flow(2, seed=1)), (B, flow(0, seed=2)), (C, flow(2, seed=3)), ({}, flow(5, seed=4))]
    tests = [difference(A, [B, {"method": "none"}]), difference(A, [B, C]), difference({}, [A, B, C])]
    table = decided(tmp_path, [*tests, difference({}, [A, B, C], "lower")], settings)
    assert list(table["verdict"]) == ["contradicted", "inconclusive", "supported", "contradicted"]
    assert table["effect"][0] == pytest.approx(-3, abs=0.8) and table["effect"][2] == pytest.approx(3, abs=0.8)
    assert (table["low"] <= table["effect"]).all() and (table["effect"] <= table["high"]).all()
    one = decided(tmp_path / "one", [difference(A, B), difference(A, {}), difference(A, C)], settings)["p"]
    assert table["p"][0] == pytest.approx(min(1, 2 * min(one[1:2]))), "one comparison against the claim is enough"
    assert table["p"][1] == pytest.approx(max(one[0], one[2])), "all must hold"


def test_a_difference_beyond_another(tmp_path):
    four = [(A, flow(9, seed=1)), (B, flow(1, seed=2)), (C, flow(2, seed=3)), ({}, flow(-3, seed=4))]
    row = decided(tmp_path, [difference(A, B, beyond=[C, {}])], four).iloc[0]
    assert row["effect"] == pytest.approx(3, abs=1) and row["verdict"] == "supported"


def test_a_trend_follows_ranks_within_prompts(tmp_path):
    rng = np.random.default_rng(0)
    prompt = rng.normal(0, 10, 40)  # prompts differ by more than levels do
    values = [{"flow_px": prompt + i + rng.normal(0, 0.3, 40), "sharpness_retention": 1.0} for i in range(4)]
    levels = [{}, A, B, C]
    trend = {"kind": "trend", "measure": "flow_px", "levels": levels, "sign": "higher"}
    tests = [trend, trend | {"sign": "lower"}, trend | {"measure": "sharpness_retention"}]
    tests.append(trend | {"levels": [*levels, {"method": "dymos-2"}]})
    table = decided(tmp_path, tests, list(zip(levels, values, strict=True)))
    assert list(table["verdict"]) == ["supported", "contradicted", "inconclusive", "not run"]
    ranks = [pd.Series([v["flow_px"][j] for v in values]).corr(pd.Series(range(4)), "spearman") for j in range(40)]
    assert table["effect"][0] == pytest.approx(np.mean(ranks)) and table["effect"][2] == 0


def test_a_correlation_over_prompts(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 40), rng.normal(0, 1, 40)
    first = {"flow_px": x, "first_psnr": x + rng.normal(0, 0.3, 40), "macro": y, "sharpness_retention": 1.0}
    second = {"flow_px": np.zeros(40), "first_psnr": np.zeros(40)}
    test = {"kind": "correlation", "x": "flow_px", "y": "first_psnr", "a": A, "sign": "higher"}
    tests = [
        test,
        test | {"sign": "lower"},
        test | {"y": "macro"},
        test | {"y": "sharpness_retention"},
        test | {"b": B},
    ]
    table = decided(tmp_path, [*tests, test | {"a": C}], [(A, first), (B, second)])
    assert list(table["verdict"]) == [
        "supported", "contradicted", "inconclusive", "inconclusive", "supported", "not run",
    ]  # fmt: skip
    assert table["effect"][0] == pytest.approx(pd.Series(x).corr(pd.Series(first["first_psnr"]), "spearman"))


def test_attention_between_frames_against_the_twin(tmp_path):
    def recorded(mass):
        shares = {(0, 0): 0.5, (0, 1): 0.5, (1, 0): mass, (1, 1): 1 - mass}
        shift = {(1, 0): 0.001, (1, 1): -0.001}  # from prompt to prompt
        rows = [(f"p{j}", *at, v + j * shift.get(at, 0)) for j in range(10) for at, v in shares.items()]
        return pd.DataFrame(rows, columns=["sample", "query_frame", "key_frame", "value"]).assign(window="all")

    sweeps = {}
    for name, backbone, method, mass in (("t", "wan-t2v", "none", 0.2), ("i", "wan-i2v", "none", 0.5),
                                         ("d", "wan-i2v", "dymos-1", 0.25)):  # fmt: skip
        sweeps[name] = Sweep(backbone=backbone, samples=10, seeds=[0], guidance_scale=[1.0], methods=[method])
        (tmp_path / "attention").mkdir(exist_ok=True)
        table = recorded(mass).assign(method=method, guidance_scale=1.0, blur=0.0, seed=0)
        write_table(table, tmp_path / f"sweeps/wan/{name}/attention-frames.csv")
    data = Study(tmp_path, PARAMETERS.model_copy(update={"sweeps": sweeps}), {"wan-i2v": {"text-to-video": "wan-t2v"}})
    entries = [
        claim(difference({}, TWIN, measure="dominance"), "a"),
        claim(difference({"method": "dymos-1"}, {}, "lower", "twin_distance"), "b"),
        claim(difference({"window": "early"}, TWIN, measure="dominance"), "c"),
    ]
    table = decide(Claims(papers={"p": "P"}, models=data.models, claims=entries, ledger=()), data)
    assert list(table["verdict"]) == ["supported", "supported", "not run"]
    assert table["effect"][0] == pytest.approx(30)


def test_segments_of_a_profile(tmp_path):
    (folder := tmp_path / "studies/semantic-layers/wan").mkdir(parents=True)
    rows = [
        {"sample": s, "words": w, "space": "hidden", "step": t, "block": b, "std": 1.0,
         "morans_i": (0.5 - 0.2 * (3 <= b < 6) + 0.01 * (s % 3) + 0.1 * t) * (w == "keywords")}
        for s in range(12) for w in ("keywords", "others") for t in range(2) for b in range(9)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "layers.csv", index=False)
    middle, rest = {"blocks": "middle third"}, [{"blocks": "first third"}, {"blocks": "last third"}]
    tests = [difference(middle, rest, "lower", "morans_i"), difference(middle, rest, "higher", "morans_i")]
    tests += [difference(middle, rest, "lower", "std"), difference(middle | A, rest, "lower", "std")]
    table = decided(tmp_path, tests, [])
    assert list(table["verdict"]) == ["supported", "contradicted", "inconclusive", "not run"]
    assert table["effect"][0] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    "listed, word, share",
    [((0, 1, 2, 3, 4), "supported", 100), ((6, 7, 8, 9), "contradicted", 0), ((2, 7), "inconclusive", 50)],
)
def test_calibrated_blocks_in_the_first_half(tmp_path, listed, word, share):
    (folder := tmp_path / "studies/foreground/wan").mkdir(parents=True)
    rows = [
        {"sample": s, "mask": m, "definition": "tokens", "block": b, "ratio": 0.6 if b in listed and m == "clean" else 0.4}
        for s in range(12) for m in ("clean", "noise") for b in range(10)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "ratios.csv", index=False)
    row = decided(tmp_path, [{"kind": "first-half"}], []).iloc[0]
    assert (row["verdict"], row["effect"], row["n"]) == (word, share, 12)
    (folder / "ratios.csv").unlink()
    assert decided(tmp_path, [{"kind": "first-half"}], [])["verdict"][0] == "not run"


def test_a_cost_is_a_share_of_what_was_timed(tmp_path):
    (tmp_path / "bench").mkdir()
    timed = {"setting": "X", "tokens": [10, 20], "ratio": [3, 1.02], "ratio_low": [3, 1.01], "ratio_high": [3, 1.03]}
    pd.DataFrame(timed).to_csv(tmp_path / "bench/attention-cpu.csv", index=False)
    test = {"kind": "cost", "setting": "X", "share": 0.5}
    table = decided(
        tmp_path, [test | {"line": line} for line in (2.0, 0.1, 1.0)] + [test | {"setting": "Y", "line": 1.0}], []
    )
    assert list(table["verdict"]) == ["supported", "contradicted", "inconclusive", "not run"]
    assert table["effect"][0] == pytest.approx(1.0) and table["n"][0] == 20 and table["p"].isna().all()
    with pytest.raises(NotRun, match="Y"):
        cost(Claims.model_validate({"papers": {"p": "P"}, "models": {"m": {}}, "ledger": [],
             "claims": [claim(test | {"setting": "Y", "line": 1})]}).claims[0].test, pd.DataFrame(timed))  # fmt: skip


def test_holm_within_families_equals_statsmodels(tmp_path):
    settings = [({"method": f"alignvid-g{g}"}, flow(m, seed=i)) for i, (g, m) in enumerate(zip(
        ("0.5", "0.7", "2", "3"), (0.6, 0.4, 0.9, 0.2), strict=True))] + [({}, flow(0, seed=9))]  # fmt: skip
    tests = (
        [difference(s, {}) for s, _ in settings[:4]]
        + [difference(A, {})]
        + [difference(s, {}) for s, _ in settings[:2]]
    )
    table = decided(tmp_path, tests, settings, families=["one"] * 5 + ["two"] * 2)
    for family in ("one", "two"):
        rows = table[(table["family"] == family) & table["p"].notna()]
        assert np.allclose(rows["p (Holm)"], multipletests(rows["p"], method="holm")[1])
    assert table["p (Holm)"].isna().sum() == 1


def test_nothing_is_dropped(tmp_path):
    broken = flow(0)
    broken["flow_px"][3] = np.nan
    table = decided(tmp_path, [difference(A, B)], [(A, broken), (B, flow(0))])
    assert table["verdict"][0] == "not run" and "1 of 40 videos have no motion" not in table["reason"][0]
    assert table["reason"][0] == "1 of 40 videos have no flow_px: alignvid"
    a, b = (pd.DataFrame({"sample": s, "seed": 0, "value": 0.0}) for s in (["p", "q"], ["q", "r", "s"]))
    with pytest.raises(ValueError, match="only 1 in common"):
        common(a, b)
    assert [len(t) for t in common(b, b[:2])] == [2, 2]


# What is written ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_page_and_tables_of_what_was_measured(tmp_path, claims):
    for name in ("sweeps", "studies", "bench"):
        (tmp_path / name).symlink_to(ROOT / "results" / name)
    data = Study(tmp_path, PARAMETERS, claims.models, claims.stand_ins)
    table, ledger = write_claims(claims, data), write_ledger(claims, data)
    text = (tmp_path / "claims/claims.md").read_text()
    assert "Smoke run" in text and not set("✔✘○") & set(text)  # a small run states no verdict
    assert all(text.count(f"| {c.claim} |") == 1 for c in claims.claims)
    assert (table["reason"] != "").eq(table["verdict"] == "not run").all()
    assert list(pd.read_csv(tmp_path / "claims/claims.csv")["verdict"]) == list(table["verdict"])
    assert set(ledger["id"]) == {row.id for row in claims.ledger} and len(pd.read_csv(tmp_path / "claims/ledger.csv"))
    row = table[table["model"] == "wan-i2v"].set_index("id").loc["dominance"]
    assert 0 < row["low"] < row["effect"] < row["high"]  # of four pairs, which can decide nothing
    scores = pd.read_csv(
        ROOT / "results/sweeps/cogvideox/focal-ablation/scores.csv"
    )  # focal-full is focal-joint-full there
    changes = scores.pivot(index=["sample", "seed"], columns="method", values="adherence")
    row = table[table["model"] == "cogvideox-i2v"].set_index("id").loc["focal-zero-shot"]
    assert row["effect"] == pytest.approx(100 * (changes["focal-joint-full"] - changes["none"]).mean())


@pytest.mark.slow
def test_the_full_page_has_every_claim_once_under_what_it_is_about(claims):
    full = load_parameters(ROOT / "params.yaml", full=True)
    table = decide(claims, Study(ROOT / "results/full", full, claims.models, claims.stand_ins))
    text = page(table, claims, full)
    parts = dict(zip(KINDS, re.split(r"\n## .*\n", text)[1:], strict=True))

    def told(word):  # a dash alone is the cell of a model that a claim about time has none for
        return f"{SYMBOLS[word]} not run" if word == "not run" else SYMBOLS[word]

    for claim in claims.claims:
        assert text.count(f"| {claim.claim}") == 1 and claim.claim in parts[kind_of(claim)]
    assert text.count(".ipynb)") == sum(len(c.notebook) for c in claims.claims)
    for kind, part in parts.items():
        own = table[table["id"].isin([c.id for c in claims.claims if kind_of(c) == kind])]
        assert all(part.count(told(word)) == n for word, n in own["verdict"].value_counts().items())
        for model in claims.models:
            counts = own[own["model"] == model]["verdict"].value_counts()
            assert f"{counts.get('supported', 0)} of {counts.sum()} supported" in part
    assert not re.search(r"focal-(full|fsg|cache)|dymos-|alignvid-", re.sub(r"\]\([^)]*\)|`[^`]*`", "", text))


@pytest.mark.parametrize(("name", "kind"), [("alignvid-adherence", "efficacy"), ("dymos-motion", "efficacy"),
    ("alignvid-integrity", "cost"), ("calibrated-adherence", "efficacy"), ("dymos-cost", "cost"), ("twin-distance", "mechanism"),
    ("entropy-adherence", "mechanism"), ("foreground-first-half", "mechanism"), ("unguided-dymos", "own")])  # fmt: skip
def test_what_a_claim_is_about(claims, name, kind):
    assert kind_of(next(c for c in claims.claims if c.id == name)) == kind


def test_the_same_setting_in_two_sweeps_has_the_same_scores(claims):
    scores = Study(ROOT / "results", PARAMETERS, claims.models).scores
    by = ["backbone", "method", "guidance_scale", "blur", "prompts", "reference", "seed", "sample"]
    assert scores.duplicated(by).any()
    assert (scores.groupby(by)[["adherence", "displacement_px"]].nunique() == 1).all().all()


# What the ledger says of the code -------------------------------------------------------------------------------------


def test_every_kind_of_claim_has_its_rule():
    assert set(TESTS) == {"difference", "trend", "correlation", "first-half"}
