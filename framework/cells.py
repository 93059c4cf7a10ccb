"""Where cells come from: the graph's own `cells:`, folders of the user, then conf/cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.errors import GraphError
from framework.expand import CELL_KEYS, Definition
from framework.names import check_keys, known
from framework.yamlfile import read_yaml

CONF = Path(__file__).resolve().parent.parent / "conf"


class CellLibrary:
    """Finds cells by name. Each file is read once."""

    def __init__(self, local: object, env: Mapping[str, Any], folders: Iterable[str | Path]):
        if local is not None and not isinstance(local, Mapping):
            raise GraphError("cells", f"must be a mapping, not {local!r}",
                             "Write cells: {mine: {out: h, nodes: {...}}}.")
        self.local: Mapping[str, Any] = local or {}
        self.env = env
        self.folders = [*map(Path, folders), CONF / "cell"]
        self.found: dict[str, Definition] = {}

    def find(self, name: str, place: str) -> Definition:
        """The cell's definition; GraphError with the cells there are."""
        if name not in self.found:
            self.found[name] = self._look(name, place)
        return self.found[name]

    def _look(self, name: str, place: str) -> Definition:
        spec: Any
        if name in self.local:
            spec, path, env = self.local[name], f"cells.{name}.", self.env
        else:
            files = (file for folder in self.folders for file in folder.glob("*.yaml"))
            file = next((file for file in files if file.stem == name), None)
            if file is None:
                there = [*map(str, self.local), *(n for folder in self.folders for n in yaml_names(folder))]
                raise GraphError(place, f"no cell {name!r}", known("Cells", name, dict.fromkeys(there)))
            spec, path, env = read_yaml(file.read_text(encoding="utf-8"), file.name), f"{file.name}:", {}
        top = path.rstrip(".:")
        if not isinstance(spec, Mapping):
            raise GraphError(top, f"a cell must be a mapping, not {spec!r}", "Write {out: h, nodes: {...}}.")
        check_keys(spec, CELL_KEYS, top)
        params = spec.get("params")
        if params is not None and not isinstance(params, Mapping):
            raise GraphError(f"{path}params", f"must be a mapping of names to values, not {params!r}",
                             "Write params: {depth: 3}.")
        return Definition(name, spec, path, env)


def yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder, without their suffix."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
