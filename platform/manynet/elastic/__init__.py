"""Weight-sharing layers: arguments of the call select a slice of the largest weights.

Terms of this package:
    elastic: a layer that runs at several sizes with slices of one set of weights.
    hard forward: all choices are decided; layers slice their weights.
    metered forward: on the ``meta`` device; layers report their cost and return empty tensors.
    soft forward: some choices are undecided, and their options have weights (:class:`Soft`).
"""

from manynet.elastic.angular_attention import LinearAngularAttention
from manynet.elastic.attention import Attention, attention_kinds, scaled_dot_product_attention
from manynet.elastic.attention_maps import attention_maps
from manynet.elastic.auxiliary import Auxiliary, auxiliary
from manynet.elastic.control import choose, repeat
from manynet.elastic.conv import Conv2d
from manynet.elastic.embedding import Parameter, PatchEmbedding, PositionEmbedding
from manynet.elastic.layer import ChoiceError, Elastic, Size
from manynet.elastic.linear import Linear
from manynet.elastic.norm import BatchNorm2d, LayerNorm
from manynet.elastic.resolution import at_resolution
from manynet.elastic.soft import Soft, combine, fitted, masked, soft
from manynet.elastic.tables import EmbeddingTables, Table

__all__ = [
    "Attention",
    "Auxiliary",
    "BatchNorm2d",
    "ChoiceError",
    "Conv2d",
    "Elastic",
    "EmbeddingTables",
    "LayerNorm",
    "Linear",
    "LinearAngularAttention",
    "Parameter",
    "PatchEmbedding",
    "PositionEmbedding",
    "Size",
    "Soft",
    "Table",
    "at_resolution",
    "attention_kinds",
    "attention_maps",
    "auxiliary",
    "choose",
    "combine",
    "fitted",
    "masked",
    "repeat",
    "scaled_dot_product_attention",
    "soft",
]
