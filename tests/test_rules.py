"""The rules that keep the structure readable, held by reading the source; each failure quotes its rule."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("cli", "cpu_runtime", "quant")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Imports point this way only: cli -> cpu_runtime -> quant.
MAY_IMPORT = {
    "quant": {"quant", "numpy", "numba", "safetensors", "llvmlite"},
    "cpu_runtime": {"cpu_runtime", "quant", "numpy", "numba", "llvmlite", "tokenizers", "jinja2", "psutil"},
    "cli": {
        "cli",
        "cpu_runtime",
        "quant",
        "numpy",
        "typer",
        "rich",
        "huggingface_hub",
        "prompt_toolkit",
        "platformdirs",
    },
}
VECTOR_OPERATIONS = ("vectors", "integers", "reductions", "row_lanes", "share", "stack")
# Each third-party package has one door, so that it can be replaced and its cost can be seen.
DOORS = {
    "numba": {
        "quant/jit.py",
        "quant/kernel_cache.py",
        *(f"cpu_runtime/kernels/{name}.py" for name in VECTOR_OPERATIONS),
    },
    "llvmlite": {"quant/jit.py", "quant/kernel_cache.py", "cpu_runtime/kernels/"},
    "rich": {"cli/output.py"},
    "huggingface_hub": {"cli/hub"},
    "prompt_toolkit": {"cli/repl.py"},
    "jinja2": {"cpu_runtime/text/sandbox.py"},
    "tokenizers": {"cpu_runtime/text/tokenizer.py", "cpu_runtime/text/tiktoken_file.py"},
    "psutil": {"cpu_runtime/threads.py", "cpu_runtime/memory.py"},
    "platformdirs": {"cli/"},
}
LONGEST_FILE = 400


def imports(path: Path) -> Iterator[str]:
    """Top-level package names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_follow_the_table(path: Path) -> None:
    package = relative(path).split("/")[0]
    for name in set(imports(path)) - set(sys.stdlib_module_names):
        assert name in MAY_IMPORT[package], f"{relative(path)} imports {name}: not in MAY_IMPORT[{package!r}]"
        doors = DOORS.get(name)
        assert doors is None or relative(path).startswith(tuple(doors)), f"{name} has one door: {doors}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE, "one file, one noun: split it"


@pytest.mark.parametrize("path", [p for p in SOURCES if not relative(p).startswith("cli/")], ids=relative)
def test_libraries_do_not_print(path: Path) -> None:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not any(isinstance(f, ast.Name) and f.id == "print" for f in calls), "quant and cpu_runtime never print"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"}
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not (broad and silent), f"{relative(path)}:{node.lineno} hides every error"


def test_only_the_door_decorates_kernels() -> None:
    for path in SOURCES:
        if relative(path) != "quant/jit.py":
            assert "njit" not in path.read_text(), f"{relative(path)}: kernels are declared through quant.jit"


def test_kernels_call_inner_functions_only() -> None:
    """A kernel loaded from disk can't be inlined into its caller, which then rounds differently: see `jit.inner`."""
    declared = {
        node.name: ({name.id for name in node.decorator_list if isinstance(name, ast.Name)}, node, path)
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    kept = {name for name, (decorators, _, _) in declared.items() if decorators & {"kernel", "parallel_kernel"}}
    for decorators, node, path in declared.values():
        if decorators & {"kernel", "parallel_kernel", "inner"}:
            called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            assert not called & kept, f"{relative(path)}: {node.name} calls {called & kept}, which must be inner"


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys, cli.app; heavy = {'numpy', 'numba', 'huggingface_hub', 'tokenizers', 'jinja2', 'prompt_toolkit'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    import cpu_runtime
    import quant

    for package in (cpu_runtime, quant):
        assert sorted(package.__all__) == list(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is not None


def test_no_file_names_a_machine_or_a_registry() -> None:
    own = Path(__file__).resolve()
    here = str(ROOT)
    for path in [*SOURCES, *ROOT.glob("*.md"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        if path.resolve() != own:
            assert here not in path.read_text(), f"{relative(path)} holds a path of this machine"
