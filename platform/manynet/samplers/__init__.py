"""Samplers, which propose the next architecture; experiment files can use the names in ``__all__``."""

from manynet.samplers.regularised import evolution
from manynet.samplers.standard import nsga2, random, tpe

__all__ = ["evolution", "nsga2", "random", "tpe"]
