"""What proposes the next architecture: every name in ``__all__`` is one an experiment file can use."""

from manynet.samplers.regularised import evolution
from manynet.samplers.standard import nsga2, random, tpe

__all__ = ["evolution", "nsga2", "random", "tpe"]
