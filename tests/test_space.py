"""Search spaces: domains, canonical architectures, sampling, largest and smallest."""

import math
import pickle
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from ray import tune
from torch import nn

import manynet as mn
from manynet.search.distributions import distributions
from manynet.space import domains
from manynet.space.domains import ArchitectureError, SpaceError


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(mn.elastic.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = mn.elastic.Linear(8, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.stem(x, out_channels=arch["width"])
        for i in range(arch["depth"]):
            y = self.blocks[i](x, out_channels=x.shape[1])
            x = x + y * arch[f"block{i}.scale"] if arch[f"block{i}.scaled"] else x + y
        return self.head(x.mean((2, 3)))


DOMAINS: dict[str, Any] = {
    "width": tune.qrandint(2, 8, 2),
    "depth": tune.randint(1, 4),
    "resolution": tune.choice([8, 16]),
    **{f"block{i}.scaled": tune.choice([True, False]) for i in range(3)},
    **{f"block{i}.scale": tune.uniform(0.5, 2.0) for i in range(3)},
}


def make(**changes: Any) -> mn.SearchSpace:
    arguments: dict[str, Any] = {
        "name": "net",
        "domains": DOMAINS,
        "supernet": Net,
        "task": mn.tasks.Classification(10),
        "input_shape": lambda arch: (1, arch["resolution"], arch["resolution"]),
    }
    return mn.SearchSpace(**(arguments | changes))


FULL = {
    "width": 4,
    "depth": 2,
    "resolution": 8,
    **{f"block{i}.scaled": i == 0 for i in range(3)},
    **{f"block{i}.scale": 1.5 for i in range(3)},
}


def test_canonical_drops_what_cannot_matter() -> None:
    assert make().canonical(FULL) == {
        "width": 4,
        "depth": 2,
        "resolution": 8,
        "block0.scaled": True,
        "block0.scale": 1.5,
        "block1.scaled": False,
    }


def test_canonical_is_idempotent_and_equal_forms_mean_equal_outputs() -> None:
    space, net, rng = make(), Net(), np.random.default_rng(0)
    for _ in range(30):
        raw = space.draw(rng)
        arch = space.canonical(raw)
        assert space.canonical(arch) == arch
        other = {**space.draw(rng), **arch}
        assert space.canonical(other) == arch
        (x,) = space.example(arch)
        assert torch.equal(net(x, arch=raw), net(x, arch=other))
        assert space.key(raw) == space.key(other)


def test_values_are_spelled_as_the_domain_spells_them() -> None:
    space = make()
    arch = space.canonical(
        FULL | {"width": np.float64(4.0), "depth": np.int64(2), "block0.scaled": np.True_.item()}
    )
    assert [type(v) for v in arch.values()] == [int, int, int, bool, bool, float]
    assert space.key(FULL) == space.key(FULL | {"width": 4.0})


@pytest.mark.parametrize(
    ("domain", "listed", "spellings"),
    [
        (tune.choice(np.arange(4, 17, 4)), [4, 8, 12, 16], {8: [8, 8.0, np.int64(8), np.float32(8)]}),
        (
            tune.choice([np.float64(0.5), np.str_("a"), np.bool_(True)]),
            [0.5, True, "a"],
            {"a": [np.str_("a")]},
        ),
        (tune.choice(["b", "a", 1]), [1, "a", "b"], {}),
        (tune.quniform(0.1, 0.9, 0.1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], {0.6: [6 * 0.1, 0.6]}),
        (tune.quniform(-0.6, 0, np.float64(0.3)), [-0.6, -0.3, 0.0], {-0.3: [-3 * 0.1]}),
        (tune.quniform(1, 3, 1), [1.0, 2.0, 3.0], {2.0: [2, np.int32(2)]}),
        (tune.qrandint(3, 13, 4), [4, 8, 12], {8: [8.0]}),
        (tune.qrandint(3, 6, 1), [3, 4, 5], {}),
        (tune.qlograndint(3, 13, 4), [4, 8, 12], {}),
        (tune.randint(-1, 2), [-1, 0, 1], {}),
    ],
)
def test_one_place_says_which_options_a_domain_has(
    domain: Any, listed: list[Any], spellings: dict[Any, list[Any]]
) -> None:
    made = domains.declared("key", domain)
    found = domains.listed(made)
    assert [(type(option), option) for option in found] == [(type(option), option) for option in listed]
    assert domains.size(made) == len(listed)
    assert set(domains.extremes(made)) <= set(listed)
    assert {min(listed, key=str), max(listed, key=str)} <= set(listed)
    drawn = [
        domains.admitted("key", made, made.sample(random_state=np.random.default_rng(n))) for n in range(60)
    ]
    assert set(drawn) == set(listed) and {type(option) for option in drawn} <= set(map(type, listed))
    for option, others in spellings.items():
        assert [domains.admitted("key", made, other) for other in others] == [option] * len(others)
    optuna = distributions({"key": made})["key"]
    if not isinstance(optuna, CategoricalDistribution):
        assert (optuna.low, optuna.high) == (listed[0], listed[-1])
    for value in ("no", None, math.nan, math.inf, [1], 999, 0.123456):
        with pytest.raises(ArchitectureError, match="key must be"):
            domains.admitted("key", made, value)


def test_real_numbers_cannot_be_listed() -> None:
    with pytest.raises(ValueError, match=r"must be countable, but got a number from 0.5 to 2.0"):
        domains.listed(tune.uniform(0.5, 2.0))


def test_more_combinations_than_floats_can_be_told() -> None:
    many = {f"k{n}": tune.choice([1, 2, 3]) for n in range(700)}
    assert make(domains=many).size == math.inf
    assert domains.combinations(many) == "10^334 combinations"
    assert domains.combinations({"a": tune.uniform(0, 1)}) == "infinitely many combinations"
    assert domains.combinations({"a": tune.choice([1, 2, 3])}) == "3 combinations"


class Chain(mn.Supernet):
    """Layers in a row, each with a width; the operator of one in four costs more the narrower its input is."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(mn.elastic.Linear(32, 32) for _ in range(count))
        self.calls = 0

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        for n, layer in enumerate(self.layers):
            width = arch[f"layer{n}.width"]
            if n % 4 == 0 and arch[f"layer{n}.operator"] == ("outer" if n % 8 else "slice"):
                x = x[:, :1]
            x = layer(x, out_features=33 - width if n == 5 else width)
        return x


@pytest.mark.parametrize("count", [3, 40])
def test_largest_and_smallest_are_no_worse_than_any_single_change(count: int) -> None:
    widths = {f"layer{n}.width": tune.choice([1, 8, 20, 32]) for n in range(count)}
    operators = {f"layer{n}.operator": tune.choice(["outer", "slice"]) for n in range(0, count, 4)}
    space = make(domains=widths | operators, supernet=lambda: Chain(count), input_shape=(32,))
    for arch, sign in ((space.largest, 1), (space.smallest, -1)):
        cost = space.read(arch).macs
        for key, domain in space.domains.items():
            for option in domain.categories:
                other = space.valid({**arch, key: option})
                assert sign * space.read(other).macs <= sign * cost, (key, option)


def test_the_largest_of_many_choices_takes_few_readings() -> None:
    readings = []

    class Counted(Chain):
        def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
            readings.append(1)
            return super().forward(x, arch)

    widths = {f"layer{n}.width": tune.choice([1, 8, 20, 32]) for n in range(200)}
    operators = {f"layer{n}.operator": tune.choice(["outer", "slice"]) for n in range(0, 200, 4)}
    space = make(domains=widths | operators, supernet=lambda: Counted(200), input_shape=(32,))
    assert space.largest["layer7.width"] == 32
    assert len(readings) < 200  # one for each option of each key would be 900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 7}, "depth must be an integer from 1 to 3, but got 7"),
        ({"depth": 1.5}, "depth must be an integer from 1 to 3, but got 1.5"),
        ({"depth": True}, "depth must be an integer from 1 to 3, but got True"),
        ({"width": 5}, "width must be an integer from 2 to 8 in steps of 2, but got 5"),
        ({"resolution": 9}, r"resolution must be one of \(8, 16\), but got 9"),
        ({"block0.scaled": 1}, r"block0.scaled must be one of \(True, False\), but got 1"),
        ({"block0.scale": float("nan")}, "block0.scale must be a number from 0.5 to 2.0, but got nan"),
        ({"colour": "red"}, "a choice must be one of .*, but got 'colour'"),
    ],
)
def test_a_choice_outside_its_domain_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        make().canonical(FULL | change)


def test_a_missing_choice_is_named() -> None:
    with pytest.raises(ArchitectureError, match="must say 'block1.scaled'"):
        make().canonical({key: value for key, value in FULL.items() if key != "block1.scaled"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": {}}, "domains must hold at least one choice"),
        ({"domains": {"a": [1, 2]}}, "a must be a Ray Tune domain"),
        ({"domains": {"a": tune.grid_search([1, 2])}}, "a must be a Ray Tune domain"),
        ({"domains": {"a": tune.sample_from(lambda spec: 1)}}, "a must be a Ray Tune domain"),
        ({"domains": {3: tune.choice([1])}}, "a domain's key must be a string, but got 3"),
        ({"domains": {"a": tune.choice([(1, 2)])}}, "a: options must be finite numbers or strings"),
        ({"domains": {"a": tune.choice([1.0, math.nan])}}, "a: options must be finite .*, but got nan"),
        ({"domains": {"a": tune.randint(3, 3)}}, "a must have a value, but there is none from 3 to 3"),
        ({"domains": {"a": tune.qrandint(9, 14, 8)}}, "a must have a value"),
        (
            {"domains": {"a": tune.qrandint(0, 10, 2.5)}},
            "a: the step must be a whole number above 0, but got 2.5",
        ),
        ({"domains": {"a": tune.choice([])}}, "a: options must be finite numbers or strings, but got none"),
        ({"domains": {"a": tune.randn()}}, "a: bounds must be finite"),
        ({"supernet": Net()}, "supernet must be a class or function"),
    ],
)
def test_a_space_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make(**changes)


def test_sampling_is_reproducible_and_canonical() -> None:
    space = make()
    assert [space.sample(seed) for seed in range(5)] == [make().sample(seed) for seed in range(5)]
    assert len({space.key(space.sample(seed)) for seed in range(20)}) > 10
    assert all(space.canonical(space.sample(seed)) == space.sample(seed) for seed in range(20))


def test_a_space_may_repair_and_draw_for_itself() -> None:
    space = make(
        repair=lambda arch: arch | {"depth": 1} if arch.get("width") == 2 else arch,
        sample=lambda rng: FULL | {"width": 2, "depth": 3},
    )
    assert space.sample(0) == {
        "width": 2,
        "depth": 1,
        "resolution": 8,
        "block0.scaled": True,
        "block0.scale": 1.5,
    }


def test_largest_and_smallest_bound_the_cost_of_every_sample() -> None:
    space = make()
    assert (space.largest["width"], space.largest["depth"], space.largest["resolution"]) == (8, 3, 16)
    assert (space.smallest["width"], space.smallest["depth"], space.smallest["resolution"]) == (2, 1, 8)
    costs = [space.read(space.sample(seed)).macs for seed in range(30)]
    assert space.read(space.smallest).macs <= min(costs) <= max(costs) <= space.read(space.largest).macs


def test_examples_follow_the_architecture() -> None:
    space = make()
    (x,) = space.example(FULL | {"resolution": 16}, batch=3)
    assert x.shape == (3, 1, 16, 16)
    named = make(input_shape={"dense": (13,), "ids": ((26,), torch.int64)})
    dense, ids = named.example(FULL, batch=2)
    assert (dense.shape, ids.shape, ids.dtype) == ((2, 13), (2, 26), torch.int64)


def test_the_digest_changes_with_what_the_space_means() -> None:
    same, narrower = make(), make(domains=DOMAINS | {"width": tune.qrandint(2, 6, 2)})
    digests = {
        make().digest,
        narrower.digest,
        make(version="2").digest,
        make(name="x").digest,
        make(task=mn.tasks.Classification(9)).digest,
    }
    assert same.digest in digests
    assert len(digests) == 5


def test_a_space_travels_to_other_processes() -> None:
    space = make()
    largest = space.largest
    other = pickle.loads(cloudpickle.dumps(space))
    assert (other.digest, other.largest, other.sample(3)) == (space.digest, largest, space.sample(3))


def test_a_constructor_that_reads_a_value_back_can_be_metered() -> None:
    class Scheduled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.rates = [value.item() for value in torch.linspace(0, 1, 3)]

    assert make(supernet=Scheduled).read(FULL) == make().read(FULL)


def test_the_size_of_a_space_is_the_number_of_combinations() -> None:
    domains = {
        "a": tune.choice([1, 2, 3]),
        "b": tune.randint(2, 6),
        "c": tune.qrandint(8, 32, 8),
        "d": tune.quniform(0.0, 1.0, 0.25),
    }
    made = mn.SearchSpace("sized", domains, nn.Identity, mn.tasks.Classification(2), (1,))
    assert made.size == 3 * 4 * 4 * 5
    unbounded = mn.SearchSpace(
        "sized", {"a": tune.uniform(0, 1)}, nn.Identity, mn.tasks.Classification(2), (1,)
    )
    assert unbounded.size == math.inf
