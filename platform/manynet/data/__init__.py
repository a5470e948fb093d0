"""Data sets: named ones, and readers of idx files, image folders and Parquet of images or click-through data."""

from manynet.data.base import Batch as Batch
from manynet.data.base import Data as Data
from manynet.data.base import DataError as DataError
from manynet.data.base import Images as Images
from manynet.data.base import Split as Split
from manynet.data.bundled import digits as digits
from manynet.data.features import Categorical as Categorical
from manynet.data.features import Features as Features
from manynet.data.images.augment import augment as augment
from manynet.data.images.in_memory import from_arrays as from_arrays
from manynet.data.load import load as load
from manynet.data.row_access import RandomAccessSplit as RandomAccessSplit
