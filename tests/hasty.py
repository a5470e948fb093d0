"""Device tools for tests: one that measures in no time, and one whose times a busy machine does not change."""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manynet.devices import DeviceName
from manynet.devices.timing import Timing, hastily
from manynet.devices.tools.torch_eager import TorchEager

DEVICE, STEADY = "host/hasty:Torch", "host/hasty:Steady"


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


class Steady(TorchEager):
    """What a network multiplies, at 1e9 operations a second, within a hundredth: for tests of what such times lead to."""

    def prepare(
        self, subnet: nn.Module, example: tuple[Tensor, ...], name: DeviceName
    ) -> Callable[[], Timing]:
        with FlopCounterMode(display=False) as counter:
            subnet(*example)
        operations = counter.get_total_flops()
        milliseconds = operations / 1e6 * (1 + math.sin(operations) / 100)
        return lambda: Timing(milliseconds, spread=0.01, count=5, steady=True)
