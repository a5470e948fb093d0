"""Search spaces: choices, supernets, tasks, and the subnets taken out of them."""

import lazy_loader

__getattr__, _, _ = lazy_loader.attach(__name__, submodules=["tasks"])
