"""A device tool for tests in which a network must be measured and nobody looks at how well."""

from collections.abc import Callable

from torch import Tensor, nn

from manynet.devices import DeviceName
from manynet.devices.timing import Timing, hastily
from manynet.devices.tools.torch_eager import TorchEager

DEVICE = "host/hasty:Torch"


class Torch(TorchEager):
    """Eager torch, timed for a twentieth of the usual time: on a machine as busy as tests make it, that is 2 s."""

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        measure = super().prepare(subnet, example, name)

        def measure_hastily() -> Timing:
            with hastily(0.05):
                return measure()

        return measure_hastily
