"""A model and the cell that a user chose for it: how `model=stack cell=mgu` becomes one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import ConfigError


def with_cell(
    model: Mapping[str, Any], name: str, cell: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model that can find cell `name` (in `cell`, else a shared one), and the param to load it with.

    Raises ConfigError when the model has no param `cell`.
    """
    params = model.get("params")
    if not isinstance(params, Mapping) or "cell" not in params:
        raise ConfigError(
            "cell",
            f"this model has no param 'cell' to put {name} in",
            "Use model=stack, or leave out cell=.",
        )
    out = dict(model)
    if cell is not None:
        out["cells"] = {**(model.get("cells") or {}), name: cell}
    return out, {"cell": name}
