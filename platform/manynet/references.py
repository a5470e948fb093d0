"""References to Python objects: ``module:name``, or ``path/to/script.py:name``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from manynet.errors import ManynetError, located_line

T = TypeVar("T")
CONTENT = ("search_spaces", "trainers")
"""Packages of Manynet whose modules need no ``manynet.`` in front."""
_reading_script: ContextVar[bool] = ContextVar("reading_script", default=False)


class UnknownNameError(ManynetError, LookupError):
    """A reference names nothing that can be imported."""


class ScriptReadEnough(BaseException):
    """Ends a script that is read only for the spaces it defines, before it starts a study."""


def stop_if_reading_script() -> None:
    """Called where a study begins: a script that is only being read ends here."""
    if _reading_script.get():
        raise ScriptReadEnough


def canonical(reference: str) -> str:
    """The one spelling of a reference: ``trainers.sandwich:Sandwich`` gets ``manynet.`` in front.

    A module in the user's own folder of that name comes before Manynet's, and keeps its name. Nothing is
    imported.
    """
    module, colon, name = reference.rpartition(":")
    return f"{_canonical_module(module)}{colon}{name}" if not module.endswith(".py") else reference


def is_ours(reference: str) -> bool:
    """Whether a reference names something of Manynet's own search spaces. Nothing is imported."""
    return canonical(reference).startswith("manynet.search_spaces.")


def load(reference: str) -> Any:
    """Import what ``reference`` names.

    Raises:
        UnknownNameError: when it is not of the form ``module:name``, its module fails, or nothing is there; in one line.
    """
    place, _, name = reference.rpartition(":")
    script = place.endswith(".py")
    if not place or not name or place.startswith(".") and not script:
        raise UnknownNameError(f"a reference must be module:name or script.py:name, but got {reference!r}")
    try:
        module = _script(Path(place)) if script else _module(place, reference)
    except ManynetError:
        raise
    except (Exception, SystemExit) as error:
        raise UnknownNameError(
            f"{reference!r} cannot be imported: {located_line(error, __file__)}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        names = ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))) or "nothing"
        raise UnknownNameError(f"{reference!r} names nothing: {module.__name__} has {names}") from None


def load_one(kind: type[T], reference: str) -> T:
    """Import what ``reference`` names, which must be a ``kind``.

    Raises:
        UnknownNameError: when it names nothing, or something else.
    """
    found = load(reference)
    if not isinstance(found, kind):
        raise UnknownNameError(f"{reference!r} must name a {kind.__name__}, but names {found!r}")
    return found


def make(kind: type[T], reference: str) -> T:
    """Import what ``reference`` names: a ``kind``, or a function or class that gives one without arguments.

    Raises:
        UnknownNameError: when it names nothing or something else, or what it names fails; in one line.
    """
    found = load(reference)
    if isinstance(found, kind):
        return found
    if not callable(found):
        rule = f"must name a {kind.__name__}, or a function or class that gives one"
        raise UnknownNameError(f"{reference!r} {rule}, but names {found!r:.80}")
    try:
        made = found()
    except ManynetError:
        raise
    except (Exception, SystemExit) as error:
        rule = f"must give a {kind.__name__} when called without arguments"
        raise UnknownNameError(f"{reference!r} {rule}, but raised {located_line(error, __file__)}") from error
    if not isinstance(made, kind):
        raise UnknownNameError(f"{reference!r} must give a {kind.__name__}, but gave {made!r:.80}")
    return made


def find(value: object) -> str | None:
    """The reference under which ``value`` can be loaded again, or None when no module holds it.

    Of several modules that hold it, the one that assigns it is taken, not those that import it from there, whichever
    was loaded first.
    """
    held = sorted(
        f"{module_name}:{name}"
        for module_name, module in list(sys.modules.items())
        if module_name != "__main__"
        and isinstance(module, ModuleType)
        and getattr(module, "__spec__", None) is not None
        and (name := _name_in(module, value)) is not None
    )
    if len(held) > 1:
        held = [reference for reference in held if _is_assigned(*reference.split(":"))] or held
    if held:
        return held[0]
    main = sys.modules["__main__"]
    name, file = _name_in(main, value), getattr(main, "__file__", None)
    if name is None or file is None:
        return None
    spec = getattr(main, "__spec__", None)
    return f"{spec.name}:{name}" if spec is not None else f"{Path(file).resolve()}:{name}"


def _is_assigned(module: str, name: str) -> bool:
    """Whether the source of a module assigns ``name``, rather than importing it."""
    try:
        tree = ast.parse(Path(str(sys.modules[module].__file__)).read_bytes())
    except (AttributeError, OSError, SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Store)
        and node.id == name
        or isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.name == name
        for node in ast.walk(tree)
    )


def _name_in(module: ModuleType, value: object) -> str | None:
    return next((name for name, held in list(vars(module).items()) if held is value), None)


def _canonical_module(name: str) -> str:
    package, _, rest = name.partition(".")
    if package not in CONTENT or _is_users_own(package, rest.partition(".")[0]):
        return name
    return f"manynet.{name}"


def _is_users_own(package: str, module: str) -> bool:
    """Whether a package on the path, other than Manynet's, holds the module."""
    spec = importlib.util.find_spec(package)
    folders: Sequence[str] = list(spec.submodule_search_locations or []) if spec else []
    if not folders or is_manynets(package, Path(folders[0])):
        return False
    return not module or PathFinder.find_spec(f"{package}.{module}", folders) is not None


def is_manynets(package: str, folder: Path) -> bool:
    """Whether a folder is Manynet's, or a copy of it: a job's working directory holds one."""
    ours = Path(__file__).parent / package / "__init__.py"
    its = folder / "__init__.py"
    return its.is_file() and its.read_bytes() == ours.read_bytes()


def _module(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(_canonical_module(name))
    except ModuleNotFoundError as error:
        missing = (error.name or "").removeprefix("manynet.")
        if missing and (name.removeprefix("manynet.") + ".").startswith(missing + "."):
            raise UnknownNameError(f"{reference!r} names no module: there is no {error.name}") from None
        raise


def _script(path: Path) -> ModuleType:
    """A script as a module, run once in this process, whatever it is called by."""
    main = sys.modules["__main__"]
    if _is_file(getattr(main, "__file__", None), path):
        return main
    name = f"manynet_script_{path.stem}_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UnknownNameError(f"a script's path must lead to a Python file, but got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    folder = path.resolve().parent
    if str(folder) not in sys.path:
        # Modules beside it are found as when it is run. Last, so that they hide nothing.
        sys.path.append(str(folder))
    before = set(sys.modules)
    # Dataclasses and pickle look the module up by its name.
    sys.modules[name] = module
    token = _reading_script.set(True)
    try:
        spec.loader.exec_module(module)
    except ScriptReadEnough:
        pass
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _reading_script.reset(token)
    _send_by_value([module, *(new for new in modules_beside(folder) if new.__name__ not in before)])
    return module


def modules_beside(folder: Path) -> list[ModuleType]:
    """Loaded modules that lie in a script's folder, or below it, and are not installed there."""
    return [
        module
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        and (file := getattr(module, "__file__", None)) is not None
        and folder in Path(file).resolve().parents
        and "site-packages" not in file
        and module.__name__ != "__main__"
    ]


def _send_by_value(modules: Sequence[ModuleType]) -> None:
    """Let workers get the code of modules, which they could not import, with the objects that need it."""
    # Ray takes half a second to import, and only scripts need it here.
    from ray import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)


def _is_file(file: str | None, path: Path) -> bool:
    return file is not None and path.is_file() and Path(file).is_file() and path.samefile(file)
