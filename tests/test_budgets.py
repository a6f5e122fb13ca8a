"""The house's limits: sizes, names, documentation, and what the command line may import."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import calm_bench

MAX_FUNCTION_LINES = 40
MAX_MODULES_OF_HELP = 600

PACKAGE = Path(calm_bench.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Runs in a process of its own and imports what the package must not.
SCRIPTS = {"calm_bench.data.voice_worker"}
MODULES = sorted({m.name for m in pkgutil.walk_packages([str(PACKAGE)], "calm_bench.")} - SCRIPTS)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, *, head: bool = True) -> int:
    """Lines of a function without its docstring, which may be as long as it is useful."""
    docstring = ast.get_docstring(function) is not None
    body = function.body[docstring:]
    if not body:
        return 0
    inside = (function.end_lineno or 0) - body[0].lineno + 1
    return inside + (function.body[0].lineno - function.lineno if head else 0)


def test_functions_are_short() -> None:
    long = {}
    for path in SOURCES:
        for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            # The head of a command declares its options; only its body is a function.
            lines = code_lines(function, head=path.parent != PACKAGE / "cli")
            if lines > MAX_FUNCTION_LINES:
                long[f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name}"] = lines
    assert long == {}


def public(module: ModuleType) -> list[str]:
    """What a module hands on: what it lists, or the names of its own without an underscore."""
    own = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
    ]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


def test_listed_names_exist_and_are_sorted() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        # Constants, then classes, then functions: ruff's order (RUF022).
        rank = {n: (not n.isupper(), not n[0].isupper(), n) for n in exported}
        assert exported == sorted(exported, key=rank.__getitem__), name
        assert [n for n in exported if not hasattr(module, n)] == [], name


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public names and their public methods that neither have nor inherit a docstring."""
    for name in public(module):
        value = getattr(module, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        if not inspect.getdoc(value):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            methods = inspect.getmembers(
                value, lambda m: inspect.isfunction(m) or isinstance(m, property)
            )
            for method, member in methods:
                ours = (
                    inspect.unwrap(getattr(member, "fget", member)).__module__ or ""
                ).startswith("calm_bench")
                if ours and not method.startswith("_") and not documented(value, method):
                    yield f"{module.__name__}.{name}.{method}"


def documented(cls: type, method: str) -> bool:
    return any(inspect.getdoc(vars(base)[method]) for base in cls.__mro__ if method in vars(base))


def test_public_names_are_documented() -> None:
    assert [n for name in MODULES for n in undocumented(importlib.import_module(name))] == []


def imported_by(code: str) -> set[str]:
    """Names of all modules that a fresh Python has loaded after running `code`."""
    report = "import json, sys; sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"try:\n {code}\nexcept SystemExit:\n pass\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


HEAVY = {"torch", "scipy", "matplotlib", "pandas", "faster_whisper", "lightning_fabric", "jiwer"}
HEAVY |= {"numpy"}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_starts_light(words: list[str]) -> None:
    modules = imported_by(
        f"import sys; sys.argv = ['calm-bench', *{words}]; "
        "from calm_bench.cli.app import main; main()"
    )
    assert "calm_bench.cli.app" in modules
    assert modules & (HEAVY if words[1:] else HEAVY | {"pydantic"}) == set()
    assert len(modules) <= MAX_MODULES_OF_HELP


@pytest.mark.parametrize("module", ["report", "plan", "store", "config", "cli.doctor", "run"])
def test_never_reaches_torch(module: str) -> None:
    name = f"calm_bench.{module}"
    parts = [m for m in MODULES if m == name or m.startswith(f"{name}.")]
    modules = imported_by(f"import {', '.join(parts)}")
    assert modules & (HEAVY - {"numpy"} if module == "report" else {"torch"}) == set()
