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
else:
    from manynet.lazy import lazily

    __getattr__ = lazily(
        __name__,
        {
            "DeviceError": "errors",
            "DeviceLostError": "errors",
            "DeviceName": "name",
            "DevicePool": "pool",
            "Lease": "lease",
            "Listing": "listing",
            "Measurement": "measurement",
            "MeasurementError": "errors",
            "list_devices": "listing",
            "resources": "placement",
            "running": "pool",
        },
    )

__all__ = [
    "DeviceError",
    "DeviceLostError",
    "DeviceName",
    "DevicePool",
    "Lease",
    "Listing",
    "Measurement",
    "MeasurementError",
    "list_devices",
    "resources",
    "running",
]
