"""The modules that a source imports, read from it: nothing is imported."""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import resolve_name


def imports(source: bytes, name: str, is_package: bool) -> frozenset[str]:
    """Full names of all that the source of a module imports."""
    return _imports_in(source, name if is_package else name.rpartition(".")[0])


@lru_cache(maxsize=4096)
def _imports_in(source: bytes, package: str) -> frozenset[str]:
    """Full names of all that a source imports, in functions too; modules and what may be a name in one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a compiled module; one that cannot be imported either
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if not base:
                continue
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names if alias.name != "*"}
        elif isinstance(node, ast.Call):
            found |= _imported_by_call(node)
    return frozenset(found)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    try:
        return resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
    except ImportError:  # beyond the top-level package
        return ""


def _imported_by_call(node: ast.Call) -> set[str]:
    """The module of `importlib.import_module("name")`."""
    function = node.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    first = node.args[0] if node.args else None
    if called not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return set()
    return {first.value} if isinstance(first.value, str) and not first.value.startswith(".") else set()


def with_packages(name: str) -> list[str]:
    """`a.b.c` with the packages `a` and `a.b`, which are imported with it."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
