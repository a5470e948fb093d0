"""A candidate's last layer learns on a copy, and nothing else moves."""

from __future__ import annotations

import copy

import torch

import manynet as mn
from manynet.data import Batch
from manynet.data.features import Categorical, Features
from manynet.learning.head_tuning import with_tuned_head
from manynet.learning.optimizers import ADAGRAD_EPS
from manynet.search_spaces import nasrec

FEATURES = Features(("a", "b"), tuple(Categorical(f"c{n}", 30) for n in range(4)))
space = nasrec.tiny.fitted(FEATURES)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 30, (128, 4), generator=generator) for _ in range(count)]
    return [Batch((torch.randn(128, 2, generator=generator), i), (i[:, 1] < 9).float()) for i in ids]


def loss(subnet: mn.Subnet, data: list[Batch]) -> float:
    with torch.no_grad():
        return sum(float(space.task.loss(subnet(*b.inputs), b.targets)) for b in data) / len(data)


def test_a_tuned_head_fits_better_and_the_supernet_stays_as_it_was() -> None:
    torch.manual_seed(0)
    network = space.build().eval()
    before = copy.deepcopy(network.state_dict())
    data, arch = batches(12), space.sample(1)
    subnet = mn.extract(network, arch, space.example(arch), share=True)
    kept = copy.deepcopy(subnet.state_dict())
    tuned = with_tuned_head(subnet, space, data, 0.04)
    assert loss(tuned, data) < loss(subnet, data) - 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in subnet.state_dict().items())
    moved = {n for n, t in tuned.state_dict().items() if not torch.equal(t, kept[n])}
    assert moved and all(name.startswith("network.head.") for name in moved)
    assert all(parameter.grad is None for parameter in [*network.parameters(), *subnet.parameters()])


def test_tuning_is_adagrad_on_the_head() -> None:
    torch.manual_seed(0)
    arch, data = space.sample(2), batches(5)
    subnet = mn.extract(space.build().eval(), arch, space.example(arch))
    expected = copy.deepcopy(subnet)
    optimizer = torch.optim.Adagrad(expected.network.head.parameters(), lr=0.1, eps=ADAGRAD_EPS)
    for batch in data:
        optimizer.zero_grad()
        space.task.loss(expected(*batch.inputs), batch.targets).backward()
        optimizer.step()
    tuned = with_tuned_head(subnet, space, data, 0.1)
    for name, tensor in tuned.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_shared_extraction_copies_no_table_and_runs_alike() -> None:
    network, arch = space.build().eval(), space.sample(3)
    example = space.example(arch, batch=4)
    shared = mn.extract(network, arch, example, share=True)
    own = mn.extract(network, arch, example)
    tables = network.get_submodule("tables")
    assert shared.network.tables.weight0 is tables.weight0
    assert own.network.tables.weight0 is not tables.weight0
    assert torch.equal(shared(*example), own(*example))
    # What is cut to size is a copy either way.
    pointers = {t.data_ptr() for t in network.parameters()}
    cut = [t for n, t in shared.named_parameters() if not n.startswith("network.tables")]
    assert any(t.data_ptr() not in pointers for t in cut)
