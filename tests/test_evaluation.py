"""Scores of one subnet: resized inputs, renewed statistics, no trace on anything else."""

import copy

import pytest
import torch
from ray import tune

import manynet as mn
from manynet import data
from manynet.search_spaces import vit
from manynet.space.evaluation import InputError, fit, recalibrated, score


class Net(mn.Supernet):
    def __init__(self) -> None:
        super().__init__()
        self.stem = mn.elastic.Conv2d(1, 16, 3, padding=1)
        self.norm = mn.elastic.BatchNorm2d(16)
        self.head = mn.elastic.Linear(16, 10)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        x = self.norm(self.stem(x, out_channels=arch["width"])).relu()
        return self.head(x.mean((2, 3)))


space = mn.SearchSpace("bn", {"width": tune.choice([4, 8, 16])}, Net, mn.tasks.Classification(10), (1, 8, 8))


@pytest.fixture(scope="module")
def digits() -> data.Data:
    return data.load("digits")


def _batches(digits: data.Data, count: int) -> list[tuple[torch.Tensor, ...]]:
    return [batch.inputs for batch, _ in zip(digits.train.batches(64), range(count), strict=False)]


def test_images_are_resized_to_the_architectures_resolution() -> None:
    images = torch.rand(2, 1, 8, 8)
    (resized,) = fit((images,), vit.tiny, vit.tiny.largest)
    assert resized.shape == (2, 1, 32, 32)
    (same,) = fit((images,), space, {"width": 4})
    assert same is images


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.zeros(2, 3, 8, 8),), r"input must have shape \(1, 8, 8\), but got \(3, 8, 8\)"),
        ((torch.zeros(2, 64),), r"input must have shape \(1, 8, 8\), but got \(64,\)"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(2)), "the space takes 1 inputs"),
    ],
)
def test_inputs_that_cannot_be_fitted_are_one_clear_line(
    inputs: tuple[torch.Tensor, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(inputs, space, {"width": 4})


def test_recalibration_gives_the_mean_statistics_of_the_batches(digits: data.Data) -> None:
    subnet = mn.extract(Net(), {"width": 8}, space.example({"width": 8}))
    batches = _batches(digits, 3)
    fresh = recalibrated(subnet, batches)
    with torch.no_grad():
        features = [subnet.network.stem(x) for (x,) in batches]
    expected = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(fresh.network.norm.running_mean, expected)
    assert torch.equal(subnet.network.norm.running_mean, torch.zeros(8))
    assert fresh.network.norm.momentum == 0.1


def test_the_statistics_of_training_leave_no_trace_in_a_score(digits: data.Data) -> None:
    subnet = mn.extract(Net(), {"width": 8}, space.example({"width": 8}))
    trained = copy.deepcopy(subnet)
    norm = trained.network.norm
    norm.running_mean.fill_(3)
    norm.running_var.fill_(9)
    norm.num_batches_tracked.fill_(100)

    def loss(one: mn.Subnet, batches: list[tuple[torch.Tensor, ...]]) -> float:
        return score(one, space, digits.validation, batch_size=64, calibration=batches)["loss"]

    batches = _batches(digits, 2)
    assert loss(trained, batches) == loss(subnet, batches) != loss(trained, [])


def test_the_order_of_evaluation_changes_no_score(digits: data.Data) -> None:
    net = Net().train()
    with torch.no_grad():
        net(next(iter(digits.train.batches(64))).inputs[0], arch={"width": 16})
    state = copy.deepcopy(net.state_dict())
    archs = [{"width": width} for width in (4, 8, 16)]

    def scores(order: list[dict[str, int]]) -> dict[int, dict[str, float]]:
        found = {}
        for arch in order:
            subnet = mn.extract(net, arch, space.example(arch))
            found[arch["width"]] = score(
                subnet, space, digits.validation, batch_size=64, calibration=_batches(digits, 2)
            )
        return found

    assert scores(archs) == scores(archs[::-1])
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


def test_a_score_does_not_depend_on_the_batch_size(digits: data.Data) -> None:
    subnet = mn.extract(vit.tiny.build(), vit.tiny.smallest, vit.tiny.example(vit.tiny.smallest)).eval()
    one = score(subnet, vit.tiny, digits.validation, batch_size=7)
    other = score(subnet, vit.tiny, digits.validation, batch_size=len(digits.validation))
    assert one["accuracy"] == other["accuracy"]
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    (images,), labels = next(iter(digits.validation.batches(len(digits.validation))))
    with torch.no_grad():
        outputs = subnet(*fit((images,), vit.tiny, vit.tiny.smallest))
    assert one["accuracy"] == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))


def test_every_batch_is_scored_under_the_lease(digits: data.Data) -> None:
    held: list[str] = []

    class Lease:
        def __enter__(self) -> None:
            held.append("in")

        def __exit__(self, *_: object) -> None:
            held.append("out")

    subnet = mn.extract(Net(), {"width": 4}, space.example({"width": 4}))
    score(subnet, space, digits.validation, batch_size=50, limit=100, lease=Lease)
    assert held == ["in", "out"] * 2
