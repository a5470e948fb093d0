"""The layout rules that tests can hold: which way imports point, and what must not exist."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTENT = {"search_spaces", "trainers", "clusters"}


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["platform", "tests"])
def test_the_standard_library_module_is_not_shadowed(folder: str) -> None:
    # A package named `platform` on sys.path replaces Python's own and breaks numpy, torch and Ray.
    assert not (ROOT / folder / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform" / "__init__.py").exists()


def test_manynet_imports_no_content_package() -> None:
    wrong = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in _files("platform")
        for name in _imports(file)
        if name.split(".")[0] in CONTENT
    }
    assert not wrong


@pytest.mark.parametrize("module", ["space.py", "domains.py", "subnet.py", "export.py", "elastic"])
def test_spaces_and_layers_know_nothing_of_rays_runtime(module: str) -> None:
    path = ROOT / "platform" / "manynet" / module
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    allowed = {"ray.tune.search.sample"}
    wrong = {
        name
        for file in files
        for name in _imports(file)
        if name.split(".")[0] == "ray" and name not in allowed
    }
    assert not wrong


def test_devices_training_and_search_know_nothing_of_each_other() -> None:
    package = ROOT / "platform" / "manynet"
    areas = {
        "devices": [*(package / "devices").rglob("*.py")],
        "training": [*package.glob("training*.py")],
        "search": [*package.glob("search*.py"), *package.glob("evaluator*.py"), package / "tune_run.py"],
    }
    for area, files in areas.items():
        assert files
        others = tuple(f"manynet.{other}" for other in areas if other != area)
        wrong = {
            f"{file.name}: {name}" for file in files for name in _imports(file) if name.startswith(others)
        }
        assert not wrong
