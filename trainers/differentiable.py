"""Differentiable search: all options of a choice run in one forward pass, and their weights are learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from torch import nn

from manynet import references
from manynet.data import Batch
from manynet.elastic.count import Count, Expectation
from manynet.latency.table import LatencyTable
from manynet.learning.strategy import Step, Strategy, TrainingError
from manynet.space.evaluation import fit
from manynet.space.search_space import Architecture, SearchSpace

Cost = Literal["macs", "parameters", "latency"]
Term = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]


@final
class Differentiable(Strategy):
    """Learns shared weights and, on held-out examples, the probabilities of each choice's options.

    Masks and Gumbel-softmax as in FBNetV2 (Wan et al., arXiv 2004.05565). As the temperature falls, the weights of
    options depend less on noise and more on the logits. Cost is the expectation over the learnt probabilities, which
    sharpen with the temperature too: at the end it is the cost of the likeliest architecture.

    Args:
        target: target cost, in the unit of ``cost``.
        cost: ``macs`` or ``parameters`` of one example, or ``latency`` in ms from a table.
        table: address of that table, an absolute path or a URI; see :class:`manynet.latency.table.LatencyTable`.
        term: ``module:name`` of the function that combines cost and loss; see :mod:`trainers.cost_terms`.
        strength: of that term.
        temperature: of the first step; it falls exponentially.
        final_temperature: of the last step. Lower values bring the result closer to the target.
        learning_rate: of Adam for the logits. With few updates it must be large; if entropy hardly falls, it is too
            small.
        every: weight updates for each update of the logits.
        held_out: share of the training examples that train the logits instead of the weights.
        warmup: share of the steps that train only the weights. With untrained weights, cost alone would decide.
        drawn: keys, separated by commas, of which every step draws one option instead of summing over all: less
            memory and time where options are separate paths. Their logits learn from the loss of each option in
            turn, without a backward pass. None is ``resolution``, if the space has several.
    """

    def __init__(
        self,
        target: float,
        cost: Cost = "macs",
        table: str | None = None,
        term: str = "trainers.cost_terms:absolute",
        strength: float = 1.0,
        temperature: float = 5.0,
        final_temperature: float = 0.05,
        learning_rate: float = 0.05,
        every: int = 2,
        held_out: float = 0.2,
        warmup: float = 0.3,
        drawn: str | None = None,
    ) -> None:
        if cost not in get_args(Cost):
            raise ValueError(f"cost must be one of ({', '.join(get_args(Cost))}), but got {cost!r}")
        if (table is None) == (cost == "latency"):
            raise ValueError(
                f"table must be an address where cost is 'latency', else None, but got {table!r}"
            )
        if table is not None and "://" not in table and not Path(table).is_absolute():
            # Workers read it too, and have other working directories.
            raise ValueError(f"table must be an absolute path or a URI, but got {table!r}")
        positive = {
            "target": target,
            "temperature": temperature,
            "final_temperature": final_temperature,
            "learning_rate": learning_rate,
            "every": every,
        }
        for name, value in positive.items():
            if isinstance(value, bool) or not value > 0:
                raise ValueError(f"{name} must be above 0, but got {value!r}")
        for name, value in (("held_out", held_out), ("warmup", warmup)):
            if not 0 <= value < 1 or (name == "held_out" and not value):
                raise ValueError(f"{name} must be a share below 1, but got {value!r}")
        self.target, self.cost, self.strength = target, cost, strength
        self.temperature, self.final_temperature = temperature, final_temperature
        self.learning_rate, self.every, self.warmup = learning_rate, every, warmup
        self.held_out = held_out
        self.table = None if table is None else LatencyTable.read(table)
        self.term: Term = references.load(term)
        self.drawn = drawn

    def start(self, space: SearchSpace, device: torch.device) -> None:
        if not space.soft:
            raise TrainingError(
                f"Differentiable trains spaces with choices that may stay undecided, but {space.name!r} has none"
            )
        self.space = space
        self._drawn = self._drawn_keys()
        self.logits = {
            key: torch.zeros(len(options), device=device, requires_grad=True)
            for key, options in space.soft.items()
        }
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=self.learning_rate, betas=(0.5, 0.999))
        cost = self._cost(space.soften(space.largest, self.logits))
        self._check_target(cost)
        self._expected = Expectation(cost).to(device)
        self._logged = self._state_of_search(self.temperature)

    def backward(self, network: nn.Module, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            arch = self._relaxed(step)
        loss = self._loss(network, batch, arch, step)
        torch.autograd.backward(loss)
        updates, ready = divmod(step.number + 1 - round(self.warmup * step.total), self.every)
        if updates > 0 and not ready:
            self._learn(network, step, updates - 1)
        temperature = torch.tensor(self._temperature(step))
        return {"loss": loss.detach(), "temperature": temperature, **self._logged}

    def found(self) -> Architecture:
        """The architecture with the likeliest option of each choice."""
        return self.space.canonical({**self.space.largest, **self._likeliest()})

    def watched(self, space: SearchSpace) -> Mapping[str, Architecture]:
        return {"found": self.found()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "logits": {key: logit.detach() for key, logit in self.logits.items()},
            "optimizer": self.optimizer.state_dict(),
            "told": self._logged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for key, logit in self.logits.items():
            logit.data.copy_(state["logits"][key])
        self.optimizer.load_state_dict(state["optimizer"])
        self._logged = state["told"]

    def _drawn_keys(self) -> list[str]:
        if self.drawn is None:
            keys = {"resolution"} & self.space.soft.keys()
        else:
            keys = set(filter(None, (key.strip() for key in self.drawn.split(","))))
        for key in keys - self.space.soft.keys():
            raise TrainingError(
                f"drawn must be of the choices that may stay undecided, ({', '.join(self.space.soft)}), but got {key!r}"
            )
        # A choice with one option has nothing to learn.
        return sorted(key for key in keys if len(self.space.soft[key]) > 1)

    def _check_target(self, cost: Count | int) -> None:
        least, most = (self._extreme(cost, pick) for pick in (min, max))
        if not least <= self.target <= most:
            raise TrainingError(
                f"target must be within the {least:,g} to {most:,g} {self.cost} of {self.space.name!r}, "
                f"but got {self.target:,g}"
            )

    def _extreme(self, cost: Count | int, pick: Callable[..., int]) -> float:
        """The least or the highest cost of an architecture, optimised one choice at a time."""
        if not isinstance(cost, Count):
            return cost
        options = dict.fromkeys(self.space.soft, 0)
        for key, values in self.space.soft.items():
            options[key] = pick(range(len(values)), key=lambda index: cost.at({**options, key: index}))
        return cost.at(options)

    def _cost(self, arch: Architecture) -> Count | int:
        """Cost of an undecided architecture, as a count over all combinations of options."""
        if self.table is not None:
            return self.table.count(self.space, arch)
        macs, parameters = self.space.count(arch)
        return macs if self.cost == "macs" else parameters

    def _learn(self, network: nn.Module, step: Step, update: int) -> None:
        """One update of the logits, on held-out examples."""
        batch = step.held(update)
        loss = self._loss(network, batch, self._relaxed(step), step)
        for key in self._drawn:
            loss = loss + self._expected_loss(network, batch, key, step)
        total = self.term(loss, self.expected_cost(step), self.target, self.strength)
        # Gradients of the logits alone: those of the weights are not changed.
        gradients = torch.autograd.grad(total, list(self.logits.values()), allow_unused=True)
        gradients = tuple(
            torch.zeros_like(logit) if gradient is None else gradient
            for logit, gradient in zip(self.logits.values(), gradients, strict=True)
        )
        step.average(gradients)
        for logit, gradient in zip(self.logits.values(), gradients, strict=True):
            logit.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._logged = self._state_of_search(self._temperature(step))

    def _expected_loss(self, network: nn.Module, batch: Batch, key: str, step: Step) -> torch.Tensor:
        """Expected loss over a drawn choice; differentiable in its probabilities, with value 0."""
        with torch.no_grad():
            arch = self._relaxed(step)
            losses = [
                self._loss(network, batch, {**arch, key: option}, step) for option in self.space.soft[key]
            ]
        expected = torch.stack(losses) @ self._sharpened(self._temperature(step))[key]
        # Subtract the value, which the loss contains already.
        return expected - expected.detach()

    def _loss(self, network: nn.Module, batch: Batch, arch: Architecture, step: Step) -> torch.Tensor:
        # Images have the drawn resolution, or the largest one if it is undecided.
        inputs = fit(batch.inputs, step.space, step.space.decided(arch))
        with step.autocast():
            outputs = network(*inputs, arch=arch)
            loss: torch.Tensor = step.space.task.loss(outputs, batch.targets, step.label_smoothing)
        return loss

    def _relaxed(self, step: Step) -> dict[str, Any]:
        """Gumbel-softmax weights of all options, with equal noise on every worker."""
        noise = np.random.default_rng(step.random.bit_generator.seed_seq.spawn(1)[0])  # type: ignore[attr-defined]
        weights, decided = {}, {}
        for key, logit in self.logits.items():
            gumbel = torch.from_numpy(noise.gumbel(size=len(logit))).to(logit)
            if key in self._drawn:
                decided[key] = self.space.soft[key][int((logit.detach() + gumbel).argmax())]
            else:
                weights[key] = ((logit + gumbel) / self._temperature(step)).softmax(0)
        return self.space.soften({**self.space.largest, **decided}, weights)

    def expected_cost(self, step: Step) -> torch.Tensor:
        """Expected cost under the option probabilities, sharpened when the temperature is below 1."""
        expected: torch.Tensor = self._expected(self._sharpened(self._temperature(step)))
        return expected

    def _sharpened(self, temperature: float) -> dict[str, torch.Tensor]:
        # Loss and cost use the same sharpening: gradients grow with it, and must stay in proportion.
        sharp = min(1.0, temperature)
        return {key: (logit / sharp).softmax(0) for key, logit in self.logits.items()}

    def _temperature(self, step: Step) -> float:
        progress = step.number / max(1, step.total - 1)
        return float(self.temperature * (self.final_temperature / self.temperature) ** progress)

    def _likeliest(self) -> dict[str, Any]:
        return {key: self.space.soft[key][int(logit.argmax())] for key, logit in self.logits.items()}

    @torch.no_grad()
    def _state_of_search(self, temperature: float) -> dict[str, torch.Tensor]:
        """Entropy of the probabilities, expected cost, and cost of the likeliest architecture."""
        probabilities = {key: logit.softmax(0) for key, logit in self.logits.items()}
        entropy = sum(-(p * p.clamp_min(1e-12).log()).sum() for p in probabilities.values())
        certain = {key: nn.functional.one_hot(p.argmax(), len(p)).to(p) for key, p in probabilities.items()}
        return {
            "entropy": torch.as_tensor(entropy),
            f"expected_{self.cost}": self._expected(self._sharpened(temperature)),
            f"found_{self.cost}": self._expected(certain),
        }
