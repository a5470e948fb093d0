"""Embedding tables in training: TorchRec's kernels give what plain tables and PyTorch's Adagrad give."""

from __future__ import annotations

import sys

import pytest
import ray
import torch

from manynet.config.experiment import Experiment
from manynet.config.settings import TrainSettings
from manynet.elastic import ChoiceError, EmbeddingTables, Table
from manynet.learning.fused_tables import fused
from manynet.learning.optimizers import ADAGRAD_EPS
from manynet.learning.strategy import TrainingError
from manynet.learning.torchrec_setup import VERSION
from manynet.search_spaces import nasrec
from manynet.space.fitting import fit_together
from manynet.studies.study import Study
from manynet.training.runs import train_supernet

TABLES = [Table("user.id", 40), Table("user", 7), Table("tags", 30, values=3)]


def examples(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack(
        [torch.randint(0, rows, (count,), generator=generator) for rows in (40, 7, 30, 30, 30)], 1
    )
    ids[::2, 4] = -1
    ids[::3, 2:] = -1
    return ids


def loss(tables: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return (tables(ids) * torch.linspace(-1, 2, 4)).square().sum((1, 2)).mean()


def plain_after(ids: torch.Tensor, rates: list[float]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tables = EmbeddingTables(TABLES, 4)
    optimizer = torch.optim.Adagrad(tables.parameters(), lr=0.1, eps=ADAGRAD_EPS)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(tables, ids).backward()
        optimizer.step()
    return [weight.detach() for weight in tables.weights]


def test_padding_adds_nothing_and_ids_are_summed():
    tables = EmbeddingTables(TABLES, 4)
    ids = torch.tensor([[3, 2, 5, 6, -1], [1, 0, -1, -1, -1]])
    found = tables(ids)
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found[0, 2], tables.weights[2][5] + tables.weights[2][6])
    torch.testing.assert_close(found[1, 0], tables.weights[0][1])
    assert torch.equal(found[1, 2], torch.zeros(4))
    with pytest.raises(ChoiceError, match="must have 5 ids, but got 4"):
        tables(ids[:, :4])


def test_fused_tables_answer_and_learn_as_plain_ones():
    ids, rates = examples(16), [0.1, 0.05, 0.2]
    torch.manual_seed(0)
    tables = EmbeddingTables(TABLES, 4)
    trained = fused(tables, 0.1)
    torch.testing.assert_close(trained(ids), tables(ids))
    for rate in rates:
        trained.set_learning_rate(rate)
        loss(trained, ids).backward()
    before = [weight.clone() for weight in tables.weights]
    trained.export(tables)
    for mine, expected, old in zip(tables.weights, plain_after(ids, rates), before, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
        assert not torch.equal(mine, old)


def test_fused_tables_go_on_exactly_from_their_state():
    ids = examples(16)
    straight, second = (fused(EmbeddingTables(TABLES, 4), 0.1) for _ in range(2))
    loss(straight, ids).backward()
    second.load({name: tensor.clone() for name, tensor in straight.whole().items()})
    for tables in (straight, second):
        loss(tables, ids).backward()
    for name, tensor in straight.whole().items():
        assert torch.equal(tensor, second.whole()[name]), name


def test_two_workers_with_sharded_tables_learn_as_one(ray_cluster, tmp_path):
    def train(rank: int, world: int, meeting: str) -> dict[str, torch.Tensor]:
        import torch.distributed as dist

        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
        torch.manual_seed(0)
        tables = EmbeddingTables(TABLES, 4)
        trained = fused(tables, 0.1)
        own = examples(16).chunk(world)[rank]
        torch.testing.assert_close(trained(own), tables(own))
        for rate in (0.1, 0.05, 0.2):
            trained.set_learning_rate(rate)
            loss(trained, own).backward()
        whole = trained.whole()
        again = fused(tables, 0.1)
        again.load(whole)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in again.whole().items())
        mine = sum(
            values.numel() for _, kind, parts in trained.parts() for _, values in parts if kind == "weight"
        )
        dist.destroy_process_group()
        return {**whole, "mine": torch.tensor(mine)}

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    task = ray.remote(num_cpus=1)(train)
    meeting = str(tmp_path / "meeting")
    first, second = ray.get([task.remote(rank, 2, meeting) for rank in range(2)])
    total = sum(table.rows * 4 for table in TABLES)
    assert 0 < first.pop("mine") < total
    assert 0 < second.pop("mine") < total
    expected = plain_after(examples(16), [0.1, 0.05, 0.2])
    for number, weight in enumerate(expected):
        torch.testing.assert_close(first[f"table{number}.weight"], weight, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[f"table{number}.sum"], second[f"table{number}.sum"])


def without(name, monkeypatch):
    """Make a package look as if it were not installed."""
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)


INSTALL = f"pip install --no-deps torchrec=={VERSION} fbgemm-gpu(-cpu)?=={VERSION}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("torchrec", f": {INSTALL}"),
        ("fbgemm_gpu", f": {INSTALL}"),
        ("tensordict", f": pip install 'manynet\\[recsys\\]' && {INSTALL}"),
    ],
)
def test_what_is_missing_is_one_line_that_ends_in_its_command(name, command, monkeypatch):
    without(name, monkeypatch)
    with pytest.raises(TrainingError, match=rf"needs TorchRec, but there is no {name}{command}$") as raised:
        fused(EmbeddingTables(TABLES, 4), 0.1)
    assert "\n" not in str(raised.value)


def test_an_fbgemm_that_does_not_load_beside_this_pytorch_is_one_line(monkeypatch, tmp_path, caplog):
    (tmp_path / "fbgemm_gpu.py").write_text(
        "import logging\nlogging.error('several lines')\nraise OSError('libcudart.so.13: no such file\\nmore')"
    )
    monkeypatch.delitem(sys.modules, "fbgemm_gpu", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrainingError, match=rf"libcudart.so.13: no such file: .*{INSTALL}$") as raised:
        fused(EmbeddingTables(TABLES, 4), 0.1)
    assert f"beside PyTorch {torch.__version__}" in str(raised.value)
    assert "\n" not in str(raised.value) and not caplog.records


def test_a_run_is_refused_before_it_begins(monkeypatch, tmp_path):
    without("torchrec", monkeypatch)
    experiment = Experiment(study=str(tmp_path / "s"), space="search_spaces.nasrec:tiny", data="flights")
    with pytest.raises(TrainingError, match="there is no torchrec"):
        Study.begin(experiment)
    settings = TrainSettings(strategy="trainers.any_connection:AnyConnection")
    with pytest.raises(TrainingError, match="there is no torchrec"):
        train_supernet(*fit_together(nasrec.tiny, "flights"), settings, tmp_path)
    assert not list(tmp_path.iterdir())
