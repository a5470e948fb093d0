"""Measured latency: device actors, the lease of a host, and the tools a device deploys with."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manynet.devices.errors import DeviceError, DeviceLostError, MeasurementError
    from manynet.devices.lease import Lease
    from manynet.devices.listing import Listing, list_devices
    from manynet.devices.measurement import Measurement
    from manynet.devices.name import DeviceName
    from manynet.devices.placement import resources
    from manynet.devices.pool import DevicePool, running
    from manynet.devices.timing import Timing, time_run
    from manynet.devices.tools.base import Tool
    from manynet.devices.tools.in_process import InProcessTool
else:
    import lazy_loader

    __getattr__, _, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "errors": ["DeviceError", "DeviceLostError", "MeasurementError"],
            "lease": ["Lease"],
            "listing": ["Listing", "list_devices"],
            "measurement": ["Measurement"],
            "name": ["DeviceName"],
            "placement": ["resources"],
            "pool": ["DevicePool", "running"],
            "timing": ["Timing", "time_run"],
            "tools.base": ["Tool"],
            "tools.in_process": ["InProcessTool"],
        },
    )

__all__ = [
    "DeviceError",
    "DeviceLostError",
    "DeviceName",
    "DevicePool",
    "InProcessTool",
    "Lease",
    "Listing",
    "Measurement",
    "MeasurementError",
    "Timing",
    "Tool",
    "list_devices",
    "resources",
    "running",
    "time_run",
]
