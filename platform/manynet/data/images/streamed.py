"""Images streamed from storage: read and decoded by Ray Data, in training order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manynet.data.base import Batch, Data, DataError, Images, Split, generator
from manynet.data.held_out import parts
from manynet.data.images.in_memory import Normalisation
from manynet.data.images.pixels import ImageShape
from manynet.data.order import Rows, check_batches, check_share, first, regroup, share
from manynet.data.splitting import Parts

SAMPLE = 1024
PREFETCH = 4
FEWEST_TASKS = 2
# Evaluators assumed to share the cluster: a split cannot know their number.
EVALUATORS = 4
# Pieces of one Ray Data pipeline: few enough to start fast, many enough to start rarely.
PIPELINE_PIECES = 128
DECODING = "turned as EXIF says"
"""What decoding does that it once did not: part of the identity of data."""

Columns = dict[str, NDArray[Any]]
Reader = Callable[[Columns], Iterator[Columns]]


class Source(ABC):
    """Images in storage, and orders that are cheap to read. Picklable.

    Attributes:
        shape: common shape of the decoded images.
        labels: int64 `(N,)` of all rows, of every split.
    """

    shape: ImageShape
    labels: NDArray[np.int64]

    @abstractmethod
    def order(self, rows: Rows, random: np.random.Generator | None = None) -> Iterator[Rows]:
        """A random order of `rows`, or a fixed one, in pieces of a size for one task."""

    @abstractmethod
    def places(self, rows: Rows) -> pa.Table:
        """Input of `reader` for `rows`."""

    @abstractmethod
    def reader(self) -> Reader:
        """A function that Ray Data runs on `places` and a column `label`.

        It yields columns `image`, uint8 `(n, C, H, W)`, and `label` in the order of `places`, and raises a
        DataError that names what it cannot read.
        """

    @abstractmethod
    def identity(self) -> bytes:
        """Fingerprint of the content, without reading all of it."""

    def pieces(self, rows: Rows) -> pa.Table:
        """Input of a task: `places` and a column `label`."""
        return self.places(rows).append_column("label", pa.array(self.labels[rows]))


@dataclass(frozen=True, eq=False)
class StreamedSplit(Split):
    """Images that Ray Data reads and decodes lazily.

    Attributes:
        source: of all splits.
        rows: this split's rows of the source.
        normalisation: of the training split.
    """

    source: Source
    rows: Rows
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        check_batches(size, limit)
        order = first(self.source.order(self.rows), limit or len(self))
        return self._read(order, size, EVALUATORS)

    def stream(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        check_share(size, start, rank, world)

        def epoch(number: int) -> Iterator[Rows]:
            return self.source.order(self.rows, generator("epoch", seed, number))

        own = share(epoch, len(self), size=size, start=start, rank=rank, world=world)
        return self._read(own, size // world, world)

    def divided(self, share: float, *, seed: int) -> tuple[Split, Split]:
        places = np.arange(len(self))
        drawn, rest = (replace(self, rows=self.rows[part.of(places)]) for part in parts(share, seed))
        return drawn, rest

    def _read(self, order: Iterator[Rows], size: int, readers: int) -> Iterator[Batch]:
        pieces = (piece for pipeline in _pipelines(order) for piece in _run(self.source, pipeline, readers))
        for images, labels in regroup(pieces, size):
            # Ray's arrays may be read-only, and regrouping yields views.
            yield self.normalisation.batch(images.copy(), labels.copy())


def _pipelines(order: Iterator[Rows]) -> Iterator[list[Rows]]:
    while pipeline := list(islice(order, PIPELINE_PIECES)):
        yield pipeline


def _run(source: Source, pipeline: list[Rows], readers: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Read pieces in order, as one of `readers` on the cluster.

    Raises:
        DataError: naming an unreadable image.
    """
    import ray

    data = ray.data.from_blocks([source.pieces(rows) for rows in pipeline])
    tasks = max(FEWEST_TASKS, int(ray.cluster_resources().get("CPU", 1)) // readers)
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    data = data.map_batches(
        source.reader(),
        batch_size=None,
        # Training workers may hold every CPU: a task that requests one would never start.
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=min(tasks, len(pipeline))),
    )
    try:
        for piece in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=PREFETCH):
            yield piece["image"], piece["label"]
    except DataError as error:
        # Without Ray's further lines about retries.
        raise DataError(str(getattr(error, "cause", error)).splitlines()[0]) from None


def streamed(name: str, source: Source, parts: Parts, seed: int) -> Data:
    """Make a streamed data set.

    The mean and deviation of its channels are those of a random sample of the training split.

    Args:
        name: as the user gave it.
        source: of the images.
        parts: rows of the three splits.
        seed: of the splits.

    Raises:
        DataError: if an image of the sample cannot be read.
    """
    sample = next(
        regroup(((rows,) for rows in source.order(parts.train, generator("sample", seed))), SAMPLE)
    )[0]
    pieces = source.pieces(sample).to_pydict()
    columns = {column: np.asarray(values) for column, values in pieces.items()}
    normalisation = Normalisation.of(np.concatenate([piece["image"] for piece in source.reader()(columns)]))
    content = hashlib.blake2b(repr((source.shape, seed, DECODING)).encode(), digest_size=8)
    content.update(source.identity())
    for part in (source.labels, *parts):
        content.update(part.data)
    train, validation, test = (StreamedSplit(source, rows, normalisation) for rows in parts)
    return Data(
        name=name,
        digest=content.hexdigest(),
        train=train,
        validation=validation,
        test=test,
        features=Images(
            int(source.labels.max()) + 1, source.shape.channels, normalisation.mean, normalisation.std
        ),
    )
