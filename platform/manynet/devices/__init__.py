"""Measured latency: device actors, the lease of a host, and the tools a device deploys with."""

from manynet.devices.errors import DeviceError, DeviceLostError, MeasurementError
from manynet.devices.lease import Lease
from manynet.devices.listing import Listing, list_devices
from manynet.devices.measurement import Measurement
from manynet.devices.name import DeviceName
from manynet.devices.placement import resources
from manynet.devices.pool import DevicePool, running

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
