"""The source of a reward function: the local modules that its scores depend on."""

import ast
import hashlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from bonbon.data.fingerprint import DIGEST

IMPORTERS = {"import_module", "__import__"}
"""Functions with a first argument that names a module, if it is a literal."""


@dataclass
class Source:
    """What a function's results depend on, except data that it reads.

    Attributes:
        files: of local modules, by name: those that no package manager installed.
        packages: that these import, with their versions.
    """

    files: dict[str, Path] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def source_of(spec: str, function: Callable[..., Any]) -> Source:
    """Return the source of a function.

    The modules that it imports are found by reading, not by running them.

    Args:
        spec: `package.module:function`, by which it was imported.
        function: what the spec names.
    """
    named = spec.partition(":")[0]
    defined = getattr(inspect.unwrap(function), "__module__", None)
    source = Source()
    for module in dict.fromkeys([named, defined or named]):
        file = _file_of(module)
        if file is not None and _is_installed(module, file):
            source.files[module] = file  # more precise than the package's version
        elif file is not None:
            _add(source, module, file)
    return source


def _add(source: Source, module: str, file: Path) -> None:
    """Add a module and all modules that its source imports."""
    if module in source.files:
        return
    source.files[module] = file
    for name in _imported(module, file):
        imported = _file_of(name)
        if imported is not None and _is_installed(name, imported):
            source.packages |= _distributions(name.partition(".")[0])
        elif imported is not None:
            _add(source, name, imported)


def _imported(module: str, file: Path) -> Iterator[str]:
    """Return the names of modules that a file may import, packages before their modules."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # an extension module
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for name in _named_in(node, package):
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _named_in(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            return [f"{base}.{alias.name}" for alias in names] if base else []
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            return [name] if called in IMPORTERS else []
        case _:
            return []


def _find(module: str) -> ModuleSpec | None:
    """Find a module without running it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for part in rest:
        paths = None if spec is None else spec.submodule_search_locations
        if paths is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(paths))
    return spec


def _file_of(module: str) -> Path | None:
    """Return the file of a module, None if it has none or is part of Python."""
    spec = _find(module)
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    if file is None or not file.is_file():
        return None
    standard = _is_in(file, "stdlib", "platstdlib") and not _is_in(file, "purelib", "platlib")
    return None if standard else file


def _is_installed(module: str, file: Path) -> bool:
    return module.partition(".")[0] == "bonbon" or _is_in(file, "purelib", "platlib")


def _is_in(file: Path, *kinds: str) -> bool:
    """Return whether a file is in one of `sysconfig`'s paths of these names."""
    paths = sysconfig.get_paths()
    return any(file.resolve().is_relative_to(Path(paths[kind]).resolve()) for kind in kinds)


def _distributions(package: str) -> dict[str, str]:
    return {name: version(name) for name in sorted(set(_owners().get(package, [])))}


@cache
def _owners() -> dict[str, list[str]]:
    return dict(packages_distributions())


def fingerprint_source(source: Source) -> str | None:
    """Return the fingerprint of the local modules of a function, None if there are none.

    A module that stands alone is known by its content, wherever it is and whatever its name.
    """
    contents = {module: file.read_bytes() for module, file in source.files.items()}
    if not contents:
        return None
    total = hashlib.blake2b(digest_size=8)
    for module, content in sorted(contents.items()):
        if len(contents) > 1:
            total.update(f"{module}/{len(content)}/".encode())
        total.update(content)
    return DIGEST + total.hexdigest()
