"""The shape of the code: imports point one way, and files, functions and constructors stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "datasets", "util", "tools", "configs", "engine")
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
) + sorted(ROOT.glob("*.py"))  # fmt: skip
# What each package may import of the others; configs.schema and configs.loading count as "configs".
ALLOWED = {
    "util": set(),
    "configs": {"util"},
    "models": {"configs.schema", "util"},
    "datasets": {"configs.schema", "util"},
    "engine": {"models", "datasets", "configs.schema", "util"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(tree: ast.Module) -> set[str]:
    """Full names of everything imported anywhere in a file."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    modules = imported_modules(ast.parse(path.read_text("utf-8")))
    assert not any(module.split(".")[0] == "tools" for module in modules) or package == "tools"
    if package not in ALLOWED:
        return
    for module in modules:
        if module.split(".")[0] in PACKAGES and module.split(".")[0] != package:
            assert module in ALLOWED[package] or module.split(".")[0] in ALLOWED[package], f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes(path: Path) -> None:
    """Files up to 400 lines, functions up to 60, constructors up to 12 parameters."""
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"
            if node.name == "__init__":
                count = len(node.args.args) + len(node.args.kwonlyargs) - 1
                assert count <= 12, "a constructor has too many parameters"


@pytest.mark.parametrize("script", sorted(ROOT.glob("inference_*.py")), ids=name_of)
def test_scripts_hold_no_logic(script: Path) -> None:
    assert len(script.read_text("utf-8").splitlines()) <= 40


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree)


def test_importing_has_no_side_effects() -> None:
    """Importing the network starts no thread, prints nothing and draws no random number."""
    code = (
        "import threading, torch; state = torch.random.get_rng_state();"
        "import engine.infer, models.build, hubconf;"
        "assert torch.equal(state, torch.random.get_rng_state());"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
