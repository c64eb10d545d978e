"""Packages of ``entrypoints`` import only the packages below them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "entrypoints"

# Each package with all packages that it may import; a job's own module may import any.
LAYERS: dict[str, set[str]] = {
    "runtime": set(),
    "cpu": set(),
    "upstream_patches": set(),
    "models": {"runtime"},
    "preparing": {"runtime"},
    "fetching": {"models", "preparing", "runtime"},
    "inference": {"models", "runtime"},
    "serving": {"inference", "models", "native", "runtime"},
    "training": {"cpu", "models", "runtime"},
    "finetuning": {"cpu", "models", "runtime", "training"},
    "pretraining": {"cpu", "models", "runtime", "training"},
    "quantizing": {"inference", "models", "runtime", "training"},
    "exporting": {"fetching", "inference", "models", "runtime", "training"},
    "native": {"inference", "models", "runtime"},
    "fused": {"inference", "models", "runtime", "upstream_patches"},
}


def imported_packages(source: str) -> set[str]:
    """Return the packages and modules directly below ``entrypoints`` that source code imports."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in modules if name.startswith("entrypoints.")}


def test_every_package_has_a_layer() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(LAYERS)


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        others = imported_packages(path.read_text(encoding="utf-8")) - {package}
        assert others <= LAYERS[package], path.name


def test_there_are_no_cycles() -> None:
    for package, allowed in LAYERS.items():
        assert not [other for other in allowed if package in LAYERS[other]]


@pytest.mark.parametrize(
    "source",
    [
        "import entrypoints.models.llama",
        "from entrypoints import models",
        "from entrypoints.models import llama",
        "def f():\n    from entrypoints.models.llama import weight_shapes",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    assert imported_packages(source) == {"models"}
