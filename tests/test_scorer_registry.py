"""What scorers say of themselves, how they are found and made, and what is checked of what they return."""

import sys
import types

import pytest
from commands import ROOT
from ruamel.yaml import YAML

from analysis.scorers.registry import _typed, find_scorers, make_scorer, scorer_names
from analysis.scorers.scorer import Metric, Scorer, check_values
from analysis.scorers.video import NotScored
from analysis.study.column_metrics import columns_of_metric, fills_nothing
from analysis.study.score_columns import COLUMNS


@pytest.mark.parametrize("name", scorer_names())
def test_every_scorer_says_what_it_is_and_what_it_fills(name):
    scorer = make_scorer(name)
    assert scorer.__doc__ and scorer.version and scorer.name == name
    papers = YAML(typ="safe", pure=True).load((ROOT / "papers/stand_ins.yaml").read_text())
    for metric, said in scorer.metrics.items():
        assert len(said.what) > 20 and said.better in ("", "higher", "lower"), metric
        filled = () if fills_nothing(name) else columns_of_metric(metric)
        if filled:
            assert said.published or said.imitates, f"{metric} fills a column and does not say how"
        if metric in COLUMNS:  # a name of this repository's own tables has their unit
            ours = COLUMNS[metric]
            assert said.proportion == ours.proportion and said.unit in (ours.unit, "share"), metric
            stands = [f"{p}: {c}" for p, of in papers["metrics"].items() for c, how in of.items()
                      if "none" in how or papers["columns"][how["use"]]["measured"] == metric]  # fmt: skip
            assert set(filled) <= set(stands), f"{metric} fills what papers/stand_ins.yaml does not give it"
        if said.imitates.startswith("VBench "):
            published = said.imitates.split()[1]
            assert metric != published, f"{metric} has the name of the metric that it follows, and not its estimator's"


def test_scorers_are_found_and_a_bad_one_is_refused(tmp_path, monkeypatch):
    import analysis.scorers as package
    from analysis.scorers import registry

    def with_file(text):
        (tmp_path / "brightness.py").write_text(text)
        sys.modules.pop("analysis.scorers.brightness", None)
        find_scorers.cache_clear()
        return find_scorers()

    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    good = (
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from analysis.scorers.scorer import Metric, Scorer\n\n"
        "@dataclass(frozen=True)\nclass Brightness(Scorer):\n"
        "    gain: float = 1.0\n    name: ClassVar[str] = 'brightness'\n    version: ClassVar[str] = '1'\n"
        "    metrics: ClassVar[dict] = {'brightness': Metric('', 0, 255, 'The mean grey level.')}\n\n"
        "    def score(self, video, sample):\n        return {'brightness': self.gain * float(video.frames.mean())}\n"
    )
    try:
        assert "brightness" in with_file(good)
        scorer = make_scorer("brightness:gain=0.5")
        assert scorer.gain == 0.5 and scorer.spelled() == "brightness:gain=0.5"
        assert make_scorer("brightness:gain=1").spelled() == "brightness"
        with pytest.raises(ValueError, match="'colour=2'; it has gain"):
            make_scorer("brightness:colour=2")
        with pytest.raises(ValueError, match="gain is 'much'; float is wanted"):
            make_scorer("brightness:gain=much")
        with pytest.raises(ValueError, match="declares no metrics"):
            with_file(good.replace("    metrics:", "    other:"))
        with pytest.raises(ValueError, match="inputs are of image, prompt, id, questions, not depth"):
            with_file(good.replace("    gain:", "    inputs: ClassVar[tuple] = ('depth',)\n    gain:"))
        with pytest.raises(ValueError, match="two scorers are called 'sharpness'"):
            with_file(good.replace("'brightness'\n", "'sharpness'\n"))
        (tmp_path / "brightness.py").unlink()
        entry = types.SimpleNamespace(name="x", value="x:X", load=lambda: (_ for _ in ()).throw(ImportError("no x")))
        monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [entry])
        find_scorers.cache_clear()
        with pytest.raises(ValueError, match=r"'x' \(x:X\) cannot be loaded: no x"):
            find_scorers()
        entry.load = lambda: Fixed
        find_scorers.cache_clear()
        assert find_scorers()["fixed"] is Fixed
    finally:
        sys.modules.pop("analysis.scorers.brightness", None)
        monkeypatch.undo()
        find_scorers.cache_clear()
    with pytest.raises(ValueError, match="unknown scorer 'sharpnes'; known are"):
        make_scorer("sharpnes")


class Fixed(Scorer):
    """Behind an entry point."""

    name, version = "fixed", "1"
    metrics = {"fixed": Metric("", 0, 1, "Always the same."), "each": Metric("", 0, 1, "By question.", per_item=True)}  # noqa: RUF012


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [(int, "3", 3), (float, "3", 3.0), (float, "0.5", 0.5), (bool, "true", True), (bool, "False", False), (str, "3", "3"),
     (int | None, "None", None), (float | None, "2", 2.0), (str | None, "http://host:80/v1", "http://host:80/v1"),
     (int, "3.5", ValueError), (int, "true", ValueError), (bool, "1", ValueError), (float, "[1]", ValueError)],
)  # fmt: skip
def test_parameters_have_the_type_of_their_field(hint, text, value):
    if value is ValueError:
        with pytest.raises(ValueError, match="is wanted"):
            _typed("scorer", "key", text, hint)
    else:
        found = _typed("scorer", "key", text, hint)
        assert found == value and type(found) is type(value)


def test_values_are_checked_against_what_is_declared():
    scorer = Fixed()
    check_values(scorer, {"fixed": 1.0, "each/q1": 0.0})
    check_values(scorer, {"fixed": float("nan")})
    check_values(scorer, dict.fromkeys(scorer.metrics, NotScored("failed", "x")))
    for values, what in [({}, "no fixed"), ({"fixed": 2.0}, "outside"), ({"fixed": 1.0, "other": 1.0}, "not declare"),
                         ({"fixed": 1.0, "each": 1.0}, "not declare"), ({"fixed": 1.0, "fixed/a": 1.0}, "not declare")]:  # fmt: skip
        with pytest.raises(ValueError, match=what):
            check_values(scorer, values)
