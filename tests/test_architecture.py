"""The house: imports point one way, and core neither prints nor reads the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "apr"
CORE_FILES = sorted(
    path for path in SOURCE.rglob("*.py") if not {"cli", "__main__.py"} & set(path.relative_to(SOURCE).parts)
)
HEAVY = {"torch", "transformers", "tokenizers", "datasets", "numpy", "pydantic", "rich", "yaml", "gguf", "matplotlib"}
LAZILY_IMPORTED = {"contracts/model.py": {"pydantic"}, "library/trainer_callback.py": {"transformers"}}
"""Modules that are themselves imported inside functions only: a class cannot be derived any later than its base."""


def imports_at_load(tree: ast.Module) -> Iterator[str]:
    """Top-level packages that importing the module imports; those under `if TYPE_CHECKING` and in functions are not."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        pending.extend(ast.iter_child_nodes(node))


def test_imports_point_one_way() -> None:
    importlinter = pytest.importorskip("importlinter.cli")
    config = SOURCE.parents[1] / "pyproject.toml"
    assert importlinter.lint_imports(config_filename=str(config), no_cache=True) == 0


def test_the_import_check_sees_a_planted_import() -> None:
    planted = "import os\nif True:\n    import numpy as np\ndef f():\n    import torch\n"
    assert set(imports_at_load(ast.parse(planted))) == {"os", "numpy"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_imports_a_heavy_library_when_it_is_loaded(path: Path) -> None:
    heavy = HEAVY & set(imports_at_load(ast.parse(path.read_text())))
    assert heavy <= LAZILY_IMPORTED.get(str(path.relative_to(SOURCE)), set())


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_core_never_prints_exits_or_reads_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called.isdisjoint(
        {"print", "exit", "quit", "sys.exit", "os._exit", "input", "os.getenv", "sys.stdout.write"}
    )
    read = {ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    assert not any(value.endswith("os.environ") for value in read)
    assert not any(name.startswith("os.environ") for name in called)
