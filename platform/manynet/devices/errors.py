"""What can go wrong with a device: the device itself, or one network on it."""

from manynet.errors import ManynetError, OutOfService


class DeviceError(ManynetError):
    """A device name is wrong, or no node serves it."""


class DeviceLostError(DeviceError, OutOfService):
    """No device of a name is left."""


class MeasurementError(DeviceError):
    """One network could not be measured on one device; other networks may still be."""
