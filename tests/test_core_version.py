"""The numbers of methods/core and methods/families on fixed inputs, stored with the version that they were made with.

If the first test fails after a change that is meant to move numbers: raise CORE_VERSION, then write the file anew with
`PYTHONPATH=.:tests python tests/test_core_version.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, IMAGE_TO_VIDEO, forward, make, options

from methods import AlignVid, DyMoS, record, steer
from methods.core import attention_call, interception
from methods.core.attention_call import AttentionCall
from methods.core.version import CORE_VERSION
from methods.families import FAMILIES as KNOWN

STORED = Path(__file__).parent / "data" / "core_version.json"
# Share of a row's largest value. Rounding moves them by 1.2e-6 at most: two threads instead of one, torch's scalar kernels
# instead of AVX, oneDNN switched off, weights changed in their last bit.
TOLERANCE = 2e-5


def outputs(name: str) -> dict[str, list[float]]:
    """Of a family: 12 values of a steered forward pass, and every recorded statistic, averaged over blocks and frames.

    AlignVid scales by a number, by key and by head; DyMoS's bias grows with the frame; the mask, where there is one, is
    the model's own."""
    model, inputs = make(name, batch=1 if name == "wan2.1-flf2v" else 2)
    groups = "conditioning+reference" if name.startswith("cogvideox") and name in IMAGE_TO_VIDEO else "conditioning"
    methods = [AlignVid(1.4, window="all", blocks="all", groups=groups)]
    methods += [AlignVid(0.8, window="all", blocks=(1,), groups=groups, energy="absolute")]
    methods += [DyMoS(1.5, window="all", schedule="linear")] if name in IMAGE_TO_VIDEO else []
    with steer(model, *methods, steps=10, **options(name)), record(model, frames=True, largest=True) as recording:
        out = forward(model, inputs).flatten()
    found = {"output": out[torch.linspace(0, len(out) - 1, 12).round().long()].tolist()}
    table = recording.to_frame()
    for (site, statistic), rows in table.astype({"key": str}).groupby(["site", "statistic"]):
        found[f"{site} {statistic}"] = rows.groupby("key")["value"].mean().tolist()
    return {k: [float(f"{v:.7g}") for v in values] for k, values in found.items()}


def differences(name: str, stored: dict) -> list[str]:
    """What has moved by more than rounding."""
    found, moved = outputs(name), []
    for key in sorted(found.keys() | stored.keys()):
        new, old = found.get(key, []), stored.get(key, [])
        largest = max((abs(v) for v in old), default=0.0)
        if len(new) != len(old) or any(
            abs(a - b) > TOLERANCE * max(largest, 0.1) for a, b in zip(new, old, strict=True)
        ):
            moved.append(f"{name}, {key}: {old} -> {new}")
    return moved


def stored() -> dict:
    return json.loads(STORED.read_text())


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_move_only_with_the_version(name):
    assert stored()["version"] == CORE_VERSION, "CORE_VERSION was raised: write the stored numbers anew, see above"
    assert not differences(name, stored()["outputs"][name]), "numbers of the core have moved: raise CORE_VERSION"


def one_token_late(family):
    """The family with a reference that begins one token late."""
    import dataclasses

    def layout(transformer, inputs, image_tokens):
        right = family.layout(transformer, inputs, image_tokens)
        late = slice(right.reference.start + 1, right.reference.stop + 1)
        return dataclasses.replace(right, reference=late)

    return dataclasses.replace(family, layout=layout)


def wrong_layout(patch):
    for name, family in KNOWN.items():
        patch.setitem(KNOWN, name, one_token_late(family))


def wrong_bias(patch):
    right = attention_call.biased_attention
    patch.setattr(
        attention_call, "biased_attention", lambda q, k, v, keys, bias, *rest: right(q, k, v, keys, 1.1 * bias, *rest)
    )


def no_mask(patch):
    patch.setattr(AttentionCall, "rows_of_mask", lambda self, rows: None)


def wrong_scale(patch):
    right = AttentionCall.scaled
    patch.setattr(AttentionCall, "scaled", lambda self, *a: (*right(self, *a)[:2], right(self, *a)[2] * 1.001))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[(name, change) for name in IMAGE_TO_VIDEO for change in (wrong_layout, wrong_bias)],
        *[(name, no_mask) for name in ("hunyuan-token-replace", "hunyuan-1.5", "framepack", "ltx-i2v", "ltx-2-i2v")],
        *[(name, wrong_scale) for name in FAMILIES],
    ],
)
def test_a_changed_core_is_noticed(name, change, monkeypatch):
    change(monkeypatch)
    assert differences(name, stored()["outputs"][name])


def test_an_attention_that_is_not_intercepted_is_noticed(monkeypatch):
    monkeypatch.setattr(
        interception.InterceptSDPA, "__torch_function__", lambda self, f, t, a=(), k=None: f(*a, **(k or {}))
    )
    with pytest.raises(RuntimeError, match="0 calls"):
        outputs("wan2.1-i2v")


if __name__ == "__main__":
    torch.set_num_threads(1)
    now = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        now[family] = outputs(family)
    if STORED.exists() and stored()["version"] == CORE_VERSION:
        kept = stored()["outputs"]
        moved = [d for family in FAMILIES if family in kept for d in differences(family, kept[family])]
        if moved:
            raise SystemExit("raise CORE_VERSION first; these have moved:\n" + "\n".join(moved))
    lines = ",\n".join(f' "{family}": {json.dumps(values)}' for family, values in now.items())
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(f'{{"version": {CORE_VERSION}, "outputs": {{\n{lines}\n}}}}\n')
