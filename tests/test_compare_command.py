"""`python -m analysis compare A B`: any two settings from files, sweeps and methods, by the one rule."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_real_rows import written
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.report.compare_scores import Side, compare, read_side, told
from analysis.report.imported_scores import import_scores
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
PARAMETERS = load_parameters(ROOT / "params.yaml")


def side(label, values, *, seeds=1, **columns):
    n = len(values) // seeds
    rows = [{"sample": f"s{i}", "seed": s} for s in range(seeds) for i in range(n)]
    return Side(label, pd.DataFrame(rows).assign(**({"flow_px": values} | columns)))


def test_the_numbers_are_those_of_an_independent_test():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40).round(3)
    y = (x - 0.3 + rng.normal(scale=0.4, size=40)).round(3)
    row = compare(side("a", x), side("b", y), ["flow_px"]).iloc[0]
    d = x - y
    low, high = stats.t.interval(0.95, 39, d.mean(), stats.sem(d))
    assert row["difference"] == pytest.approx(d.mean()) and row["low"] <= low + 1e-9 and row["high"] >= high - 1e-9
    assert row["high"] - row["low"] < 1.5 * (high - low)
    wanted = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=9999, rng=1).pvalue
    assert row["p"] == pytest.approx(wanted, abs=0.01) and row["p (Holm)"] == row["p"]
    assert (row["n"], row["changed"], row["gained"], row["lost"]) == (40, 40, (d > 0).sum(), (d < 0).sum())
    assert row["a"] == pytest.approx(x.mean()) and row["a_is"] == "higher" and row["detectable"] > 0


def test_prompts_are_the_unit_and_pairs_are_common():
    a, b = side("a", np.arange(20.0), seeds=2), side("b", np.arange(20.0) + 1, seeds=2)
    b = Side("b", b.table[(b.table["sample"] != "s0") | (b.table["seed"] == 0)])
    row = compare(a, b, ["flow_px"]).iloc[0]
    assert (row["n"], row["only_a"], row["only_b"], row["difference"]) == (10, 1, 0, -1) and row["a_is"] == "lower"
    assert "without a partner, left out: up to 1 of A and 0 of B" in told(compare(a, b, ["flow_px"]), a, b)


def test_columns_are_one_family():
    rng = np.random.default_rng(2)
    x = rng.normal(size=30)
    others = {f"m{i}": rng.normal(size=30) for i in range(5)}
    a, b = (
        side("a", x + 0.35 + rng.normal(scale=0.9, size=30), **others),
        side("b", x, **{k: v[::-1] for k, v in others.items()}),
    )
    table = compare(a, b).set_index("column")
    assert len(table) == 6 and (table["p (Holm)"] >= table["p"]).all()
    assert table["p (Holm)"].min() == pytest.approx(6 * table["p"].min())
    alone = compare(a, b, ["flow_px"]).iloc[0]
    assert alone["p"] == table.loc["flow_px", "p"] and alone["p (Holm)"] == alone["p"]


def test_videos_without_a_value_are_not_dropped_silently():
    a, b = side("a", [1.0, 2, np.nan]), side("b", [1.0, 2, 3], other=[1, 2, 3])
    with pytest.raises(ValueError, match="1 of 6 videos have no flow_px"):
        compare(a, b)
    with pytest.raises(ValueError, match=r"a have no 'other'; both have flow_px"):
        compare(a, b, ["other"])
    with pytest.raises(ValueError, match="no sample and seed in common"):
        compare(a, Side("c", b.table.assign(seed=7)))


def test_proportions_are_what_is_declared_or_said():
    a, b = (
        side("a", [1.0] * 12, adherence=[1] * 12, other=[1] * 12),
        side("b", [1.0] * 12, adherence=[1] * 12, other=[1] * 12),
    )
    table = compare(a, b).set_index("column")
    assert table.loc["adherence", "high"] > 20, "in points: twelve unchanged prompts rule out little"
    assert table.loc["other", "high"] == 0
    assert compare(a, b, ["other"], ["other"]).iloc[0]["high"] > 0.2


def test_sweeps_and_methods_of_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    one = read_side("methods-alignvid:alignvid", PARAMETERS)
    same = read_side("alignvid", PARAMETERS)
    plain, base = read_side("none", PARAMETERS), read_side("baseline", PARAMETERS)
    columns = ["adherence", "flow_px"]
    two = [compare(*sides, columns).drop(columns="only_b") for sides in ((one, base), (same, plain))]
    pd.testing.assert_frame_equal(*two)
    with pytest.raises(ValueError, match=r"several settings, method .*; write methods-alignvid:METHOD"):
        read_side("methods-alignvid", PARAMETERS)
    with pytest.raises(ValueError, match=r"several settings, guidance_scale .*; write guidance@GUIDANCE"):
        read_side("guidance", PARAMETERS)
    with pytest.raises(ValueError, match=r"baseline has no method dymos; it has none"):
        read_side("baseline:dymos", PARAMETERS)
    with pytest.raises(ValueError, match=r"no \.csv file, no sweep and no method"):
        read_side("basline", PARAMETERS)
    scale = PARAMETERS.sweeps["guidance"].guidance_scale[-1]
    assert set(read_side(f"guidance@{scale}", PARAMETERS).table["guidance_scale"]) == {scale}


def test_files_of_all_three_kinds(tmp_path, monkeypatch):
    wan = {("Wan2.1", "none"): 0.4, ("Wan2.1", "alignvid"): 0.6}
    scores, manifest = written(tmp_path, wan)
    path = str(import_scores("x", scores, manifest, tmp_path))
    table = compare(*(read_side(f"{path}:{m}", None) for m in ("alignvid", "none")), ["macro"])
    assert table.iloc[0]["a_is"] == "higher" and table.iloc[0]["n"] == 30
    direct = compare(*(read_side(f"{scores[0]}:{m}", None, manifest=manifest) for m in ("alignvid", "none")), ["macro"])
    pd.testing.assert_frame_equal(direct, table)
    monkeypatch.chdir(ROOT)
    file = "results/sweeps/wan/baseline/scores.csv"
    zero = compare(read_side(file, None), read_side("baseline", PARAMETERS))
    assert (zero["difference"] == 0).all() and (zero["a_is"] == "undecided").all() and (zero["changed"] == 0).all()
    with pytest.raises(ValueError, match="no file"):
        read_side("nothing.csv", None)
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="neither the columns sample and seed"):
        read_side(str(tmp_path / "bad.csv"), None)
    scores[0].rename(tmp_path / "sub.csv")
    manifest.rename(tmp_path / "m2.csv")
    with pytest.raises(ValueError, match="name its manifest"):
        read_side(str(tmp_path / "sub.csv"), None)


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    scores, manifest = written(tmp_path, {("Wan2.1", "none"): 0.4, ("Wan2.1", "alignvid"): 0.6})
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "c.csv"
    command = [
        "compare",
        f"{scores[0]}:alignvid",
        f"{scores[0]}:none",
        "--manifest",
        str(manifest),
        "--column",
        "macro",
    ]
    done = CliRunner().invoke(app, [*command, "--column", "adherence", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert (
        "macro: A " in done.output
        and " points; A - B +" in done.output
        and "n 30 prompts" in done.output
        and "Holm over the 2 columns" in done.output
    )
    one = CliRunner().invoke(app, [*command, "--category", "addition"])
    assert one.exit_code == 0 and "n 10 prompts" in one.output and ":none, addition" in one.output
    lost = CliRunner().invoke(app, [*command, "--category", "motion"])
    assert lost.exit_code == 1 and "has no category 'motion'; it has addition, deletion, modification" in str(
        lost.exception
    )
    table = pd.read_csv(out)
    assert list(table["column"]) == ["macro", "adherence"] and (table["a_is"] == "higher").all()
