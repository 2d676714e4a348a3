"""What the schema of params.yaml refuses in a study's, apart from what is still to be stated."""

from __future__ import annotations

from pydantic import ValidationError

from ..study.parameters import Parameters


def problems_of(found: dict, missing: list[str]) -> list[str]:
    """Each problem in a sentence; settings of `missing` (paths, null in the file) are none."""
    try:
        Parameters.model_validate(found)
    except ValidationError as error:
        paths = {".".join(map(str, e["loc"])): e["msg"] for e in error.errors()}
        return [f"{path}: {said}" for path, said in paths.items() if not _covered(path, missing)]
    return []


def _covered(path: str, missing: list[str]) -> bool:
    # pydantic names the members of a union behind the field: `backbones.wan.fit.Bucket`.
    return any(path == m or path.startswith(f"{m}.") for m in missing)
