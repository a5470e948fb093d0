"""Any-connection click-through models (Zhang et al., NASRec, arXiv 2207.07187).

``full`` and ``small`` are the authors' spaces, ``tiny`` trains on a CPU in minutes. ``tiny_unbalanced`` is
``tiny`` without operator balancing. All adapt to the features of the data.
"""

from manynet.search_spaces.nasrec.encoding import from_published
from manynet.search_spaces.nasrec.presets import full, small, space, tiny, tiny_unbalanced

__all__ = ["from_published", "full", "small", "space", "tiny", "tiny_unbalanced"]
