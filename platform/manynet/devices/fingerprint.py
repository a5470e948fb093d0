"""Which machine a measurement was taken on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def fingerprint() -> str:
    """This machine in one line: processor model, cores, frequency policy, platform and torch version."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {os.cpu_count()} cores, {_frequency()}, {system}, torch {version('torch')}"


def _frequency() -> str:
    # A virtual machine or a system other than Linux does not tell, and then nobody can know.
    return f"frequency by {GOVERNOR.read_text().strip()}" if GOVERNOR.exists() else "frequency policy unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
