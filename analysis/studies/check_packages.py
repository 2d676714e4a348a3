"""Is what the study needs installed: the pipelines, what quantises, the scorers that are asked for, and a GPU?"""

from __future__ import annotations

from importlib.util import find_spec

from ..study.parameters import Parameters
from ..videos.load_backbone import check_backbone
from .findings import Finding

QUANTISERS = {
    "BitsAndBytesConfig": "bitsandbytes",
    "QuantoConfig": "optimum.quanto",
    "TorchAoConfig": "torchao",
    "GGUFQuantizationConfig": "gguf",
}


def package_findings(parameters: Parameters, scorers: list[str] | None = None) -> list[Finding]:
    """Of packages, scorers and devices."""
    import diffusers
    import torch

    found = []
    for name in dict.fromkeys(s.backbone for s in parameters.sweeps.values()):
        backbone = parameters.backbones[name]
        if backbone.pipeline not in dir(diffusers):  # asking for the class would import it
            found.append(Finding("blocks", name, f"diffusers {diffusers.__version__} has no {backbone.pipeline}"))
            continue
        try:
            check_backbone(name, backbone)
        except (ValueError, OSError) as error:
            found.append(Finding("blocks", name, " ".join(str(error).split())))
        found += _mixed_backends(name, parameters)
        if (
            (q := backbone.load.quantisation)
            and (module := QUANTISERS.get(q.config))
            and find_spec(module.split(".")[0]) is None
        ):
            found.append(Finding("blocks", name, f"{q.config} needs {module}, which is not installed"))
    for spelled in scorers or []:
        found.append(_scorer(spelled))
    count = torch.cuda.device_count()
    names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(count)}))
    said = f"{count} x {names}" if count else "there is no GPU here; videos are made on the CPU"
    return [*found, Finding("fine" if count else "note", "device", said)]


def _mixed_backends(name: str, parameters: Parameters) -> list[Finding]:
    """A note where a change against `none` would hold the difference of two attention backends, too."""
    from methods.core.backends import SEEN

    backend = parameters.backbones[name].load.attention_backend
    steered = any(m != "none" for s in parameters.sweeps.values() if s.backbone == name for m in s.methods)
    if backend is None or backend in SEEN or not steered:
        return []
    said = (
        f"with attention_backend {backend}, calls in which a method acts are PyTorch's own: changes against `none` hold the "
        "difference of the two backends, too; say `native` where that matters"
    )
    return [Finding("note", name, said)]


def _scorer(spelled: str) -> Finding:
    from ..scorers.registry import make_scorer

    try:
        why = make_scorer(spelled).available()
    except ValueError as error:
        why = str(error)
    return (
        Finding("blocks", spelled, f"the scorer cannot run here: {why}")
        if why
        else Finding("fine", spelled, "the scorer can run")
    )
