"""Head tuning: trains a copy of a candidate's last layer before the candidate is scored."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from manynet.data import Batch
from manynet.learning.optimizers import Adagrad
from manynet.space.evaluation import fit
from manynet.space.search_space import SearchSpace
from manynet.space.subnet import Subnet

HEAD = "head"
"""Name of the trained module: a supernet's last layer."""


def with_tuned_head(subnet: Subnet, space: SearchSpace, batches: Iterable[Batch], rate: float) -> Subnet:
    """A subnet with its own head, trained on ``batches``; it shares all other tensors with ``subnet``.

    Of shared weights, the last layer fits a single subnet worst: NASRec (arXiv 2207.07187) trains it alone
    for some steps before it ranks candidates.

    Args:
        subnet: is not changed.
        space: the subnet's search space.
        batches: one a step, on any device.
        rate: constant learning rate of Adagrad.
    """
    tuned = _with_own_head(subnet).eval()
    head = list(tuned.network.get_submodule(HEAD).parameters())
    optimizer = Adagrad(head)
    device = head[0].device
    for batch in batches:
        inputs = tuple(x.to(device) for x in fit(batch.inputs, space, subnet.arch))
        with torch.enable_grad():
            loss = space.task.loss(tuned(*inputs), batch.targets.to(device))
            # Gradients of the head alone, not written to .grad: the other weights are shared.
            gradients = torch.autograd.grad(loss, head)
        optimizer.step(dict(zip(head, gradients, strict=True)), rate)
    return tuned


def _with_own_head(subnet: Subnet) -> Subnet:
    owned = {id(tensor) for tensor in subnet.network.get_submodule(HEAD).parameters()}
    shared: dict[int, torch.Tensor] = {
        id(tensor): tensor for tensor in [*subnet.parameters(), *subnet.buffers()] if id(tensor) not in owned
    }
    copied = copy.deepcopy(subnet, shared)
    for parameter in copied.network.get_submodule(HEAD).parameters():
        assert isinstance(parameter, nn.Parameter)
        parameter.requires_grad_()
    return copied
