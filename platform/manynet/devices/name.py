"""The name of a device with its deployment tool and settings, as users spell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from manynet.devices.errors import DeviceError

RULE = "device must be spelled <device>/<tool>?batch=8&threads=2&precision=bf16&source=predicted"
PRECISIONS = ("float32", "bf16")
SOURCES = ("measured", "predicted", "table")
DEFAULTS = {"batch": 1, "threads": 1, "precision": "float32", "source": "measured"}

_BASE = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(:[A-Za-z_][A-Za-z0-9_]*)?")
_COUNT = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class DeviceName:
    """A device, the tool that deploys to it, and how a network is run there.

    ``str(name)`` is canonical: settings in the order batch, threads, precision, source, those at their default
    left out. The same string names the Ray resource ``device:<name>`` and the column ``latency@<name>``.

    Attributes:
        device: label of the hardware; ``host`` is the machine the study runs on, and labels of its GPUs start
            with ``cuda``.
        tool: deployment tool, such as ``torch`` or ``onnxruntime``, or ``module:name`` of a user's own.
        batch: examples in one run.
        threads: processor threads of one run.
        precision: ``float32`` or ``bf16``.
        source: where its latency may come from: ``measured``, ``predicted`` (and measured where the predictor is
            unsure) or ``table`` (summed from a table of operations).
    """

    device: str
    tool: str
    batch: int = 1
    threads: int = 1
    precision: str = "float32"
    source: str = "measured"

    @classmethod
    def parse(cls, text: str) -> DeviceName:
        """Read a name; settings may come in any order.

        Raises:
            DeviceError: if the spelling, a setting or a value is not allowed.
        """
        base, question, query = text.partition("?")
        if not _BASE.fullmatch(base) or (question and not query):
            raise DeviceError(f"{RULE}, but got {text!r}")
        device, _, tool = base.partition("/")
        settings = _settings(query, text)
        return cls(
            device,
            tool,
            _count(settings, "batch", text),
            _count(settings, "threads", text),
            _one_of(settings, "precision", PRECISIONS, text),
            _one_of(settings, "source", SOURCES, text),
        )

    @property
    def base(self) -> str:
        """Device and tool without settings: what one Ray resource may offer for all settings."""
        return f"{self.device}/{self.tool}"

    @classmethod
    def parse_canonical(cls, text: str) -> DeviceName:
        """Read a name that is spelled as columns are, where another spelling would be another column.

        Raises:
            DeviceError: as :meth:`parse`, or if its settings are in another order.
        """
        name = cls.parse(text)
        if str(name) != text:
            raise DeviceError(f"a device must be spelled {str(name)!r}, but got {text!r}")
        return name

    @property
    def measured(self) -> DeviceName:
        """The same device, measured."""
        return replace(self, source="measured")

    @property
    def column(self) -> str:
        """The metric that holds this device's latency in ms."""
        return f"latency@{self}"

    @property
    def has_own_tool(self) -> bool:
        """Whether its tool is a user's own, ``module:name``."""
        return ":" in self.tool

    @property
    def on_gpu(self) -> bool:
        """Whether the label is a GPU's, that is, starts with ``cuda`` or ``gpu``."""
        return self.device.startswith(("cuda", "gpu"))

    def __str__(self) -> str:
        settings = {key: getattr(self, key) for key in DEFAULTS}
        spelled = "&".join(f"{key}={value}" for key, value in settings.items() if value != DEFAULTS[key])
        return f"{self.base}?{spelled}" if spelled else self.base


def _settings(query: str, text: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, _, value = part.partition("=")
        if key not in DEFAULTS:
            raise DeviceError(
                f"device settings must be batch, threads, precision or source, but got {key!r} in {text!r}"
            )
        if key in settings:
            raise DeviceError(f"device settings must be given once, but got {key!r} twice in {text!r}")
        settings[key] = value
    return settings


def _count(settings: Mapping[str, str], key: str, text: str) -> int:
    value = settings.get(key, "1")
    if not _COUNT.fullmatch(value):
        raise DeviceError(f"{key} must be a positive whole number, but got {value!r} in {text!r}")
    return int(value)


def _one_of(settings: Mapping[str, str], key: str, allowed: tuple[str, ...], text: str) -> str:
    value = settings.get(key, allowed[0])
    if value not in allowed:
        raise DeviceError(f"{key} must be one of {', '.join(allowed)}, but got {value!r} in {text!r}")
    return value
