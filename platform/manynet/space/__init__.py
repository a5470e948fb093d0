"""Search spaces: choices, supernets, tasks, and the subnets taken out of them."""
