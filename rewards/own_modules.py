"""The modules of a user's own that a reward or a tool imports, as their files stood when it was named.

A worker that starts later, and a later run, must not take up an edited file unnoticed. So what a file imports is read
with it, by its import statements and without running anything, and goes with it to the workers, which import that.

A user's own are modules with a ``.py`` file outside of ``site-packages``, of Python itself and of this library. What is
imported under a name that is only computed (``importlib.import_module(name)``) is not found.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Iterator, Mapping, Sequence

__all__ = [
    "LoaderOfSource",
    "OwnModule",
    "Sources",
    "digest_of",
    "imported_by",
    "own_module",
    "serve",
]

LIBRARY = ("grpo", "rewards")
INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class OwnModule:
    """A module's file and what it held; ``is_package`` for an ``__init__.py``."""

    path: str
    source: bytes
    is_package: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """What a reward or a tool was made of: ``file`` where it is named by path, and the ``modules`` by name."""

    file: bytes | None = None
    modules: Mapping[str, OwnModule] | None = None


class LoaderOfSource(SourceFileLoader):
    """Loads a module from what its file held when it was read."""

    def __init__(self, name: str, path: str, source: bytes):
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType | None:
        return self.source_to_code(self._source, self.path)


def imported_by(path: Path, source: bytes, module: str = "") -> dict[str, OwnModule]:
    """The user's own modules that a file imports anywhere in it, and those that they import, by name.

    ``module`` is the file's own name where it has one, for relative imports.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    search = _Search(path.parent)
    search.add_imports(source, package)
    return search.found


def own_module(name: str) -> dict[str, OwnModule]:
    """The module, the packages around it and all that they import, of those that are the user's own."""
    search = _Search(None)
    search.add(name)
    return search.found


def digest_of(path: Path, module: str = "") -> str:
    """A digest of a file and of the user's own modules that it imports; of the file alone where it imports none.

    Raises `OSError` where the file cannot be read.
    """
    source = path.read_bytes()
    sha256 = hashlib.sha256()
    for name, part in [("", source), *_named(imported_by(path, source, module))]:
        content = f"{name}:".encode() + part if name else part
        sha256.update(len(content).to_bytes(8, "little") + content)
    return sha256.hexdigest()[:32]


def _named(modules: Mapping[str, OwnModule]) -> list[tuple[str, bytes]]:
    return [(name, modules[name].source) for name in sorted(modules)]


# ---- import statements ------------------------------------------------------------------------------------------


class _Search:
    """Follows import statements; a name is looked for as Python would, and at last in `folder`."""

    def __init__(self, folder: Path | None):
        self.found: dict[str, OwnModule] = {}
        self._folder = folder
        self._specs: dict[str, ModuleSpec | None] = {}

    def add_imports(self, source: bytes, package: str) -> None:
        """Add what the import statements of `source`, a file of `package`, name."""
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return  # whoever runs it says so
        for name in _names_in(tree, package):
            self.add(name)

    def add(self, name: str) -> None:
        """Add a module, the packages that it lies in, and what they import."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            self._add_one(".".join(parts[:end]))

    def _add_one(self, name: str) -> None:
        if name in self._specs:
            return
        spec = self._spec(name)
        self._specs[name] = spec
        file = None if spec is None else spec.origin
        if spec is None or file is None or not _is_own(Path(file)):
            return
        try:
            source = Path(file).read_bytes()
        except OSError:
            return
        is_package = spec.submodule_search_locations is not None
        self.found[name] = OwnModule(file, source, is_package)
        self.add_imports(source, name if is_package else name.rpartition(".")[0])

    def _spec(self, name: str) -> ModuleSpec | None:
        parent, _, _ = name.rpartition(".")
        if name in sys.stdlib_module_names or name in LIBRARY:
            return None
        try:
            if parent:
                package = self._specs.get(parent)
                locations = package.submodule_search_locations if package else None
                return PathFinder.find_spec(name, locations) if locations is not None else None
            return importlib.util.find_spec(name) or self._neighbour(name)
        except (ImportError, ValueError, AttributeError):
            return self._neighbour(name)

    def _neighbour(self, name: str) -> ModuleSpec | None:
        return None if self._folder is None else PathFinder.find_spec(name, [str(self._folder)])


def _names_in(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that import statements name; of ``from a.b import c`` also ``a.b.c``, which may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    """The module that is imported from; empty for a relative import that leads nowhere."""
    if not statement.level:
        return statement.module or ""
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - statement.level + 1]
    if not kept or statement.level > len(parts):
        return ""
    return ".".join([*kept, *([statement.module] if statement.module else [])])


def _is_own(path: Path) -> bool:
    if path.suffix != ".py" or any(part in INSTALLED for part in path.parts):
        return False
    of_python = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return not any(path.is_relative_to(folder) for folder in of_python if folder)


# ---- importing what was read ------------------------------------------------------------------------------------


class _FinderOfSources:
    """Finds modules by name among those that were read."""

    def __init__(self) -> None:
        self.modules: dict[str, OwnModule] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self.modules.get(name)
        if module is None:
            return None
        folder = [str(Path(module.path).parent)] if module.is_package else None
        return importlib.util.spec_from_file_location(
            name,
            module.path,
            loader=LoaderOfSource(name, module.path, module.source),
            submodule_search_locations=folder,
        )


_FINDER = _FinderOfSources()


def serve(modules: Mapping[str, OwnModule] | None) -> None:
    """Import these modules in this process as they were read, whatever their files hold; the first of a name counts."""
    if not modules:
        return
    for name, module in modules.items():
        _FINDER.modules.setdefault(name, module)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
