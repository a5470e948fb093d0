"""Training of embedding tables: TorchRec's fused kernels, sharded over several workers.

Autograd would give every table a gradient of its full size each step. TorchRec applies the optimizer to the
rows that were looked up, inside the backward pass. So these gradients are not clipped, each backward pass of a
step updates the tables, and a step that is skipped for its gradients has updated them already.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import distributed as dist
from torch import nn

from manynet.elastic import EmbeddingTables
from manynet.elastic.tables import PADDING, Table
from manynet.learning.gradients import alone
from manynet.learning.optimizers import ADAGRAD_EPS
from manynet.learning.torchrec_setup import check_installed


class FusedTables(nn.Module, ABC):
    """Trainable replacement of an :class:`EmbeddingTables`; trained by Adagrad (JMLR 12, 2011).

    Args:
        tables: initial tables; they keep their tensors, which :meth:`export` updates.
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        super().__init__()
        self.dim, self.device = tables.dim, tables.weights[0].device
        # TorchRec makes module names of table names, which must not contain a dot.
        self.tables = {f"table{number}": table for number, table in enumerate(tables.tables)}

    @abstractmethod
    def pooled(self, ids: Any) -> Any:
        """Map a KeyedJaggedTensor of ids to a KeyedTensor of summed embeddings."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the following backward passes."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[str, str, Sequence[tuple[Sequence[int], torch.Tensor]]]]:
        """This worker's shards of every table and of its Adagrad sums.

        Yields:
            The table's name, ``"weight"`` or ``"sum"``, and for each shard its first row and column and its values.
        """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids ``(B, ids)`` to embeddings ``(B, features, dim)``; see :class:`EmbeddingTables`."""
        pooled = self.pooled(jagged(ids, self.tables))
        # Sharding returns the tables in an order of its own.
        return torch.stack([pooled[name] for name in self.tables], dim=1)

    def whole(self, group: dist.ProcessGroup | None = None) -> dict[str, torch.Tensor]:
        """Gather all tables and sums to the CPU, as ``table0.weight``, ``table0.sum``...; every worker must call it."""
        gathered = {}
        shards = {(name, kind): parts for name, kind, parts in self.parts()}
        for name, table in self.tables.items():
            for kind in ("weight", "sum"):
                # On the tables' device, for the all-reduce.
                full = torch.zeros(table.rows, self.dim, device=self.device)
                for (row, column), values in shards.get((name, kind), ()):
                    full[row : row + len(values), column : column + values.shape[1]] = values
                if not alone(group):
                    # Shards do not overlap, so their sum is the whole table.
                    dist.all_reduce(full, group=group)
                gathered[f"{name}.{kind}"] = full.cpu()
        return gathered

    def load(self, whole: Mapping[str, torch.Tensor]) -> None:
        """Load the result of :meth:`whole`, for any number of workers; missing sums start at zero."""
        for name, kind, parts in self.parts():
            for (row, column), values in parts:
                full = whole.get(f"{name}.{kind}")
                if full is None:
                    values.zero_()
                else:
                    values.copy_(full[row : row + len(values), column : column + values.shape[1]])

    def export(self, tables: EmbeddingTables, group: dist.ProcessGroup | None = None) -> None:
        """Copy the trained weights to plain tables; every worker must call it."""
        whole = self.whole(group)
        with torch.no_grad():
            for name, weight in zip(self.tables, tables.weights, strict=True):
                weight.copy_(whole[f"{name}.weight"])


def fused(tables: EmbeddingTables, rate: float, group: dist.ProcessGroup | None = None) -> FusedTables:
    """Trainable tables: fused, and on several workers also sharded.

    Raises:
        TrainingError: when TorchRec is not installed, or does not load.
    """
    check_installed()
    kind = LocalTables if alone(group) else ShardedTables
    with _quiet():
        trainable = kind(tables, rate, group)
    weights = zip(trainable.tables, tables.weights, strict=True)
    trainable.load({f"{name}.weight": weight.detach() for name, weight in weights})
    return trainable


@final
class LocalTables(FusedTables):
    """All tables on this worker."""

    def __init__(self, tables: EmbeddingTables, rate: float, group: dist.ProcessGroup | None) -> None:
        from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

        super().__init__(tables)
        self._collection: Any = FusedEmbeddingBagCollection(
            tables=_configs(self.tables, self.dim),
            optimizer_type=torch.optim.Adagrad,
            optimizer_kwargs={"lr": rate, "eps": ADAGRAD_EPS},
            device=self.device,
        )
        self._optimizer = self._collection.fused_optimizer()

    def pooled(self, ids: Any) -> Any:
        return self._collection(ids)

    def set_learning_rate(self, rate: float) -> None:
        _set_rate(self._optimizer, rate)

    def parts(self) -> Iterator[tuple[str, str, Sequence[tuple[Sequence[int], torch.Tensor]]]]:
        weights = self._collection.state_dict()
        sums = {name: value for state in _states(self._optimizer) for name, value in state.items()}
        for name in self.tables:
            yield name, "weight", [((0, 0), weights[f"embedding_bags.{name}.weight"].detach())]
            yield name, "sum", [((0, 0), sums[f"{name}.weight.momentum_1"])]


@final
class ShardedTables(FusedTables):
    """Tables distributed over workers, whole or by rows, as TorchRec's planner decides."""

    def __init__(self, tables: EmbeddingTables, rate: float, group: dist.ProcessGroup | None) -> None:
        from torchrec.distributed import DistributedModelParallel
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
        from torchrec.distributed.types import ShardingEnv, ShardingType
        from torchrec.modules.embedding_modules import EmbeddingBagCollection
        from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

        super().__init__(tables)
        group = group or cast(dist.ProcessGroup, dist.group.WORLD)
        collection = EmbeddingBagCollection(
            tables=_configs(self.tables, self.dim), device=torch.device("meta")
        )
        optimizer = {"lr": rate, "eps": ADAGRAD_EPS}
        apply_optimizer_in_backward(torch.optim.Adagrad, collection.parameters(), optimizer)
        # Replicated tables would have ordinary, full-size gradients.
        kinds = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
        constraints = {name: ParameterConstraints(sharding_types=kinds) for name in self.tables}
        topology = Topology(world_size=dist.get_world_size(group), compute_device=self.device.type)
        planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
        sharders = [EmbeddingBagCollectionSharder()]
        self._model: Any = DistributedModelParallel(
            collection,
            env=ShardingEnv.from_process_group(group),
            device=self.device,
            plan=planner.collective_plan(collection, sharders, group),
            sharders=sharders,
            # It contains only tables: the dense part is averaged elsewhere.
            init_data_parallel=False,
        )

    def pooled(self, ids: Any) -> Any:
        return self._model(ids)

    def set_learning_rate(self, rate: float) -> None:
        _set_rate(self._model.fused_optimizer, rate)

    def parts(self) -> Iterator[tuple[str, str, Sequence[tuple[Sequence[int], torch.Tensor]]]]:
        weights = self._model.state_dict()
        sums = {
            name: value for state in _states(self._model.fused_optimizer) for name, value in state.items()
        }
        for name in self.tables:
            yield name, "weight", _shards(weights[f"embedding_bags.{name}.weight"])
            if f"{name}.momentum1" in sums:
                yield name, "sum", _shards(sums[f"{name}.momentum1"])


def jagged(ids: torch.Tensor, tables: Mapping[str, Table]) -> Any:
    """Ids ``(B, ids)`` as TorchRec's KeyedJaggedTensor, without the padding of -1."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys, widths = list(tables), [table.values for table in tables.values()]
    if max(widths) == 1:
        lengths = torch.ones(ids.numel(), dtype=torch.int32, device=ids.device)
        return KeyedJaggedTensor(keys=keys, values=ids.t().reshape(-1), lengths=lengths)
    columns = ids.split(widths, dim=1)
    masks = [column != PADDING for column in columns]
    values = torch.cat([column[mask] for column, mask in zip(columns, masks, strict=True)])
    lengths = torch.cat([mask.sum(1) for mask in masks]).to(torch.int32)
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths)


def _configs(tables: Mapping[str, Table], dim: int) -> list[Any]:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

    return [
        EmbeddingBagConfig(
            name=name,
            embedding_dim=dim,
            num_embeddings=table.rows,
            feature_names=[name],
            pooling=PoolingType.SUM,
        )
        for name, table in tables.items()
    ]


def _set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    # Not an update: this call passes the new rate to the kernels.
    optimizer.step()


def _states(optimizer: Any) -> Sequence[Mapping[str, Any]]:
    return list(optimizer.state_dict()["state"].values())


def _shards(tensor: Any) -> list[tuple[Sequence[int], torch.Tensor]]:
    return [(s.metadata.shard_offsets, s.tensor.detach()) for s in tensor.local_shards()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TorchRec from logging its plans."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
