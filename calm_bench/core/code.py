"""The hash of the code that a value is computed by: imports are followed, nothing is run.

A kept value stands as long as that code does what it did. The code is what its roots reach by
imports, those inside of functions and packages' `__init__` too, as far as it lies in this package
or in a root's own. Comments, docstrings and what is there for type checkers alone do nothing, so
they do not count.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Self

from calm_bench.core.cache import ContentCache
from calm_bench.seeds import content_hash

HOME = "calm_bench"

SILENT = frozenset(
    f"{HOME}{name}"
    for name in (
        *("", ".core", ".core.paths", ".core.progress", ".core.ranks"),
        *(".errors", ".registry", ".store", ".store.run_store"),
    )
)
"""Modules that decide no score: how far things are, what went wrong, where files lie, what a name
stands for (that which it stands for is a root of its own)."""

_PARSING = Lock()  # Python 3.11 raises SystemError where two threads build syntax trees at once

LIBRARIES = ("ctranslate2", "faster-whisper", "jiwer", "numpy", "scipy", "soundfile", "soxr")


@cache
def computed_by(*roots: str) -> str:
    """What scores depend on besides audio and recipe: the code of these modules, and libraries.

    The code is that of the first call: what a process has loaded does not change.
    """
    return content_hash(code_hash(*roots), {name: version_of(name) for name in LIBRARIES})


def code_hash(*roots: str, without: Collection[str] = SILENT) -> str:
    """A hash of what these modules and all that they reach do, under their names."""
    found = modules_of(*roots, without=without)
    return content_hash([[name, _code(path.read_bytes()).hash] for name, path in found.items()])


def modules_of(*roots: str, without: Collection[str] = SILENT) -> dict[str, Path]:
    """By name, the files of the modules that these modules reach by imports, themselves included.

    Those of `without` are neither counted nor followed.
    """
    packages = {HOME, *(root.partition(".")[0] for root in roots)}
    found: dict[str, Path] = {}
    left = [part for root in roots for part in _with_packages(root)]
    while left:
        name = left.pop()
        path = None if name in found or name in without else _file_of(name)
        if path is not None:
            found[name] = path
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            imports = _code(path.read_bytes()).imports_in(package)
            ours = {n for n in imports if n.partition(".")[0] in packages}
            left += [part for n in ours for part in _with_packages(n)]
    return dict(sorted(found.items()))


def _file_of(name: str) -> Path | None:
    """Where a module's source lies; None for what is no module or has no source."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded) if loaded.endswith(".py") else None
    top, *parts = name.split(".")
    for folder in _folders(top):
        path = folder.joinpath(*parts)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


@cache
def _folders(top: str) -> tuple[Path, ...]:
    try:
        spec = find_spec(top)
    except ValueError:  # a script that runs as a module
        return ()
    return tuple(map(Path, (spec and spec.submodule_search_locations) or ()))


class _Code(NamedTuple):
    """One module's code: the hash of what it does, and what it imports."""

    hash: str
    imports: list[tuple[int, str, list[str]]]
    """Of each import statement: dots before the module, the module, and names from it."""

    @classmethod
    def parsed(cls, source: bytes) -> Self:
        """The code of a module's source."""
        with _PARSING:
            tree = _Plain().visit(ast.parse(source))
        imports = [
            (node.level, node.module or "", [alias.name for alias in node.names])
            if isinstance(node, ast.ImportFrom)
            else (0, "", [alias.name for alias in node.names])
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        return cls(content_hash(ast.dump(tree)), imports)

    def imports_in(self, package: str) -> Iterator[str]:
        """Each name that an import statement mentions."""
        for level, module, names in self.imports:
            above = package.split(".")[: package.count(".") + 2 - level] if level else []
            origin = ".".join([*above, *filter(None, [module])])
            yield from filter(None, [origin, *(f"{origin}.{name}".lstrip(".") for name in names)])


@lru_cache(maxsize=1024)
def _code(source: bytes) -> _Code:
    """A module's code as it was kept, or parsed: a hundred modules take 0.7 s."""
    kept = ContentCache("code")
    key = content_hash(_own_source(), sys.version_info[:2], source)
    found = kept.read(key, lambda value: _Code(str(value[0]), [tuple(one) for one in value[1]]))
    if found is None:
        found = _Code.parsed(source)
        kept.write(key, found)
    return found


@cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


class _Plain(ast.NodeTransformer):
    """A module as it runs."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Leave out a text that is nobody's value, as docstrings are."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out what type checkers alone see."""
        self.generic_visit(node)
        hidden = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return node.orelse if hidden else node


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: n + 1]) for n in range(len(parts)))


@cache
def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
