"""Prints constraints.txt: the versions in this environment of all that Manynet with its extras depends on.

make constraints
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HEADER = """\
# The versions that were tested together, by `make test`. `make install` takes them; so do `pip install -c constraints.txt`
# and clusters/install.sh. Written by `make constraints`. The build of fbgemm depends on that of PyTorch, so it is not here.
"""
BUILDS = re.compile("manynet|fbgemm|nvidia-|cuda-|triton")
"""What differs with the build of PyTorch, and Manynet itself."""


def required(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Requirements of an installed distribution that hold in this environment."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def tested() -> dict[str, str]:
    """Versions by name, of Manynet's requirements, theirs, and so on."""
    extras = frozenset(distribution("manynet").metadata.get_all("Provides-Extra") or ())
    waiting, seen = [("manynet", extras), ("torchrec", frozenset[str]())], set()
    versions: dict[str, str] = {}
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            versions[name] = Version(distribution(name).version).public
        except PackageNotFoundError:
            continue  # TorchRec's other build of fbgemm
        waiting += [(canonicalize_name(one.name), frozenset(one.extras)) for one in required(name, wanted)]
    return {name: versions[name] for name in sorted(versions) if not BUILDS.match(name)}


if __name__ == "__main__":
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in tested().items()))
