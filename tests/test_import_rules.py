"""Who may import whom (CONTRIBUTING.md's map of the package), read from the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dirnet"
BASE = {"errors", "files", "config", "options", "progress", "provenance"}
ALLOWED = {
    "factorization": set(),
    "nn": {"factorization"},
    "compression": {"nn", "factorization"},
    "asr": set(),
    "espnet": {"compression", "nn", "asr"},
    "deploy": {"nn", "factorization"},
}
OWNERS = {"espnet": "espnet", "espnet2": "espnet", "executorch": "deploy"}


def imports(path: Path) -> set[str]:
    """Full dotted names that the module at `path` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = path.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
                module = ".".join([*parts, module]).rstrip(".")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_map(path):
    parts = path.relative_to(PACKAGE).parts
    folder = parts[0] if len(parts) > 1 else None
    for name in imports(path):
        top, *rest = name.split(".")
        if top in OWNERS:
            assert folder == OWNERS[top], f"{path} imports {name}; only dirnet/{OWNERS[top]} may"
        if top != "dirnet" or not rest:
            continue
        target = rest[0]
        if folder in ALLOWED and (PACKAGE / target).is_dir():
            assert target == folder or target in ALLOWED[folder], f"{path} imports {name}"
        if folder in ALLOWED and not (PACKAGE / target).is_dir():
            assert target in BASE, f"{path} imports {name}, which is above it"
        if folder is None and path.stem in BASE:
            assert target in BASE, f"{path} imports {name}; the base modules stand alone"


def test_there_is_no_circle_between_modules():
    dotted = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES}
    names = {name.removesuffix(".__init__"): path for path, name in dotted.items()}
    top_level = {name: set() for name in names}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # imports inside functions are late on purpose
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dirnet"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    top_level[name].add(full if full in names else node.module)
    done, stack = set(), []

    def visit(name: str) -> None:
        assert name not in stack, " -> ".join([*stack[stack.index(name):], name])
        if name in done or name not in top_level:
            return
        stack.append(name)
        for target in sorted(top_level[name] - {name, "dirnet"}):
            visit(target)
        stack.pop()
        done.add(name)

    for name in names:
        visit(name)


def test_importing_the_package_loads_neither_espnet_nor_executorch():
    heavy = ("espnet2", "executorch", "torchaudio", "matplotlib")
    code = f"import sys, dirnet; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
