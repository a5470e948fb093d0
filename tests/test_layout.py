"""Layout rules: layers, circles, and names that must not exist."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "platform"

# Each package imports those of lower layers only; packages of one layer are strangers to one another.
LAYERS = (
    {"errors"},
    {"storage", "references", "elastic"},
    {"config", "records", "telemetry", "data"},
    {"space", "samplers", "devices", "report"},
    {"learning", "latency", "runtime"},
    {"training", "search"},
    {"studies", "testing"},
    {"cli"},
    {"__init__", "__main__"},
)
# Content stands on the platform, which names it only in strings.
CONTENT = {"search_spaces", "trainers"}
# Packages that need no Ray session. Ray Tune's domains are plain values.
NO_RAY = {"elastic", "config", "records", "space", "samplers", "learning"}


def _modules() -> dict[str, Path]:
    """Every module of the package by name; the content's links are followed."""
    modules: dict[str, Path] = {}
    for top in (SOURCE / "manynet", *(SOURCE / "manynet" / name for name in CONTENT)):
        for file in top.rglob("*.py"):
            parts = file.relative_to(SOURCE).with_suffix("").parts
            modules[".".join(parts).removesuffix(".__init__") if len(parts) > 2 else ".".join(parts)] = file
    return modules


MODULES = _modules()


def _imports(file: Path) -> set[str]:
    """Dotted names that a file imports: ``from a import b`` counts as ``a.b`` where that is a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = node.module.split(".")[0] == "manynet"
            names.update(name if name in MODULES or not ours else node.module for name in inner)
    return names


IMPORTS = {module: _imports(file) for module, file in MODULES.items()}


def _package(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def _layer(package: str) -> int:
    return next(at for at, packages in enumerate(LAYERS) if package in packages)


def test_every_module_stands_in_a_layer() -> None:
    packages = {_package(module) for module in MODULES}
    assert packages - CONTENT <= set().union(*LAYERS)


def test_packages_import_lower_layers_only() -> None:
    wrong = {
        f"{module}: {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] == "manynet" and _package(module) not in CONTENT
        if _package(name) in CONTENT
        or (_package(name) != _package(module) and _layer(_package(name)) >= _layer(_package(module)))
    }
    assert not wrong


def _assert_no_circle(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_no_circle_of_files() -> None:
    # A package's face hands on names of its own modules, so it is no stop on the way.
    faces = {module for module, file in MODULES.items() if file.name == "__init__.py"}
    _assert_no_circle(
        {module: (names & MODULES.keys()) - faces for module, names in IMPORTS.items() if module not in faces}
    )


def test_no_circle_of_packages() -> None:
    # Within a package, a folder and the files beside it may use one another; folders may not.
    def packages(modules: Iterable[str]) -> set[str]:
        return {name.rpartition(".")[0] for name in modules if name in MODULES}

    arrows: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        own = module.rpartition(".")[0]
        others = {p for p in packages(names) if not p.startswith(own) and not own.startswith(p)}
        arrows.setdefault(own, set()).update(others)
    _assert_no_circle(arrows)


def test_packages_without_ray() -> None:
    wrong = {
        f"{module}: {name}"
        for module, names in IMPORTS.items()
        if _package(module) in NO_RAY | CONTENT
        for name in names
        if name.split(".")[0] == "ray"
        and not (name == "ray.tune" or name.startswith("ray.tune.search.sample"))
    }
    assert not wrong


@pytest.mark.parametrize("folder", ["platform", "tests"])
def test_the_standard_library_module_is_not_shadowed(folder: str) -> None:
    # A package named `platform` on sys.path replaces Python's own and breaks numpy, torch and Ray.
    assert not (ROOT / folder / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform" / "__init__.py").exists()


STARTS = """
import sys

def without(*names):
    found = [name for name in names if name in sys.modules]
    assert not found, found

import manynet.search.monitor, manynet.devices.service, manynet.search.gate
without("torch", "ray.tune")
import manynet.studies.study, manynet.search.evaluator
from manynet.search_spaces.vit import tiny
tiny.read(tiny.smallest)
without("torch._dynamo", "scipy", "sklearn", "tensorboard", "onnx", "timm")
"""


def test_processes_import_only_what_they_use() -> None:
    # Each module here took longer to import than all of Manynet, in every process of a search.
    subprocess.run([sys.executable, "-c", STARTS], check=True)
