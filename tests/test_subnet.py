"""Cost, extraction and export, as properties of random architectures of every preset's space."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manynet as mn
from manynet.data.features import Categorical, Features
from manynet.search_spaces import dmasking, nasrec, pit, vit
from manynet.space.export import export, write_weights
from manynet.space.subnet import ExportError

PRESETS = {"tiny": 12, "autoformer_t": 1, "autoformer_s": 1, "autoformer_b": 1, "deit_scaling": 4}


class Mixed(mn.Supernet):
    """What a user may write: plain and elastic modules, depthwise, reuse, bare products, dead branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.widen = mn.elastic.Conv2d(4, 8, 1)
        self.norm = mn.elastic.BatchNorm2d(8)
        self.depthwise = mn.elastic.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.branches = nn.ModuleDict(
            {"linear": nn.Linear(8, 8), "wide": nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8))}
        )
        self.pad = mn.elastic.Linear(8, 8)
        self.shared = mn.elastic.Linear(8, 8)
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.scale = mn.elastic.Parameter(torch.ones(8))
        self.head = mn.elastic.Linear(8, 10)
        self.register_buffer("offset", torch.randn(10))

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        width = arch["width"]
        x = self.norm(self.widen(self.stem(x), out_channels=width), width).relu()
        x = self.depthwise(x).mean((2, 3)) * self.scale(width)
        x = self.branches[arch["branch"]](self.pad(x, out_features=8))
        x = self.shared(self.shared(x[:, :4], out_features=6), out_features=5)
        if arch["mixed"]:
            x = x @ self.mix[:5, :7]
        return self.head(x) + self.offset


mixed = mn.SearchSpace(
    name="mixed",
    domains={
        "width": tune.choice([3, 5, 8]),
        "branch": tune.choice(["linear", "wide"]),
        "mixed": tune.choice([False, True]),
    },
    supernet=Mixed,
    task=mn.tasks.Classification(10),
    input_shape=(1, 6, 6),
)
CASES = [(getattr(vit, name), seed) for name, count in PRESETS.items() for seed in range(count)]
CASES += [(mixed, seed) for seed in range(12)]
_FEATURES = Features(("a", "b"), tuple(Categorical(f"c{n}", 20, values=1 + n % 2) for n in range(5)))
NASREC = {"tiny": 8, "tiny_unbalanced": 4, "small": 2, "full": 3}
CASES += [
    (getattr(nasrec, name).fitted(_FEATURES), seed) for name, count in NASREC.items() for seed in range(count)
]
CASES += [(dmasking.tiny, seed) for seed in range(10)] + [(dmasking.fbnetv2, seed) for seed in range(2)]
CASES += [(pit.tiny, seed) for seed in range(10)] + [(pit.imagenet, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def supernets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].name}-{case[1]}")
def case(
    request: pytest.FixtureRequest, supernets: dict[str, nn.Module]
) -> tuple[mn.SearchSpace, nn.Module, dict[str, Any]]:
    space, seed = request.param
    if space.name not in supernets:
        supernets.clear()
        supernets[space.name] = space.build().eval()
    return space, supernets[space.name], space.sample(seed)


def test_an_extracted_subnet_is_the_supernets_own_path(
    case: tuple[mn.SearchSpace, nn.Module, dict[str, Any]],
) -> None:
    space, net, arch = case
    inputs = space.example(arch, batch=2)
    subnet = mn.extract(net, arch, space.example(arch, batch=1))
    with torch.no_grad():
        torch.testing.assert_close(subnet(*inputs), net(*inputs, arch=arch), atol=1e-5, rtol=1e-5)
    cost = mn.cost(space, arch)
    assert sum(p.numel() for p in subnet.parameters()) == cost.parameters
    with FlopCounterMode(display=False) as counter:
        subnet.to("meta")(*space.example(arch, batch=1, device="meta"))
    assert counter.get_total_flops() == 2 * cost.macs


def test_deit_tiny_costs_what_it_costs() -> None:
    cost = mn.cost(vit.deit_scaling, vit.DEIT_TINY)
    assert (cost.parameters, cost.macs) == (5_717_416, 1_253_683_200)
    subnet = mn.extract(vit.deit_scaling.build(), vit.DEIT_TINY, vit.deit_scaling.example(vit.DEIT_TINY, 1))
    assert sum(p.numel() for p in subnet.parameters()) == 5_717_416


@pytest.mark.parametrize(
    ("preset", "domains"),
    [
        (
            "autoformer_t",
            {
                "width": {192, 216, 240},
                "block0.heads": {3, 4},
                "block0.mlp_ratio": {3.5, 4},
                "depth": {12, 13, 14},
            },
        ),
        (
            "autoformer_s",
            {
                "width": {320, 384, 448},
                "block0.heads": {5, 6, 7},
                "block0.mlp_ratio": {3, 3.5, 4},
                "depth": {12, 13, 14},
            },
        ),
        (
            "autoformer_b",
            {
                "width": {528, 576, 624},
                "block0.heads": {9, 10},
                "block0.mlp_ratio": {3, 3.5, 4},
                "depth": {14, 15, 16},
            },
        ),
    ],
)
def test_autoformer_ranges_are_the_published_ones(preset: str, domains: dict[str, set[float]]) -> None:
    space = getattr(vit, preset)
    assert {key: set(space.domains[key].categories) for key in domains} == domains
    assert max(domains["depth"]) == sum(key.endswith(".heads") for key in space.domains)


def test_extraction_leaves_the_supernet_as_it_was() -> None:
    net = Mixed().train()
    state, hooks = copy.deepcopy(net.state_dict()), sum(len(m._forward_pre_hooks) for m in net.modules())
    subnet = mn.extract(net, mixed.sample(0), mixed.example(mixed.sample(0)))
    assert subnet.training and net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert sum(len(m._forward_pre_hooks) for m in net.modules()) == hooks
    with torch.no_grad():
        for tensor in [*subnet.parameters(), *subnet.buffers()]:
            tensor.add_(1)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_what_did_not_run_is_dropped_and_a_layer_used_twice_keeps_the_union() -> None:
    arch = {"width": 3, "branch": "linear", "mixed": False}
    subnet = mn.extract(Mixed(), arch, mixed.example(arch))
    names = dict(subnet.named_parameters())
    assert not any("branches.wide" in name for name in names)
    assert names["network.widen.weight"].shape == (3, 4, 1, 1)
    assert names["network.shared.weight"].shape == (6, 6)


def test_tied_tensors_stay_tied() -> None:
    class Tied(mn.Supernet):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.out = mn.elastic.Linear(4, 3)

        def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
            return self.out(self.second(self.first(x)), out_features=arch["classes"])

    space = mn.SearchSpace("tied", {"classes": tune.choice([2, 3])}, Tied, mn.tasks.Classification(3), (4,))
    subnet = mn.extract(space.build(), {"classes": 2}, space.example({"classes": 2}))
    assert subnet.network.first.weight is subnet.network.second.weight
    assert sum(p.numel() for p in subnet.parameters()) == mn.cost(space, {"classes": 2}).parameters


def test_resolution_choices_move_the_baked_embeddings() -> None:
    arch = vit.tiny.canonical(vit.tiny.largest | {"resolution": 24, "patch_size": 8})
    subnet = mn.extract(vit.tiny.build(), arch, vit.tiny.example(arch))
    assert subnet.network.patches.patch_size == 8
    assert subnet.network.positions.grid == 3


def test_costing_draws_nothing_from_the_global_random_state() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    mn.cost(vit.tiny, vit.tiny.sample(0))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, mn.Subnet, torch.Tensor]:
    folder = tmp_path_factory.mktemp("export") / "subnet"
    arch = vit.tiny.canonical(vit.tiny.smallest | {"resolution": 16, "patch_size": 4})
    subnet = mn.extract(vit.tiny.build(), arch, vit.tiny.example(arch)).eval()
    (images,) = vit.tiny.example(arch, batch=9)
    export(subnet, folder, vit.tiny, "search_spaces.vit:tiny", (images,), {"metrics": {"accuracy": 0.5}})
    return folder, subnet, images


def test_an_export_loads_three_ways(exported: tuple[Path, mn.Subnet, torch.Tensor], tmp_path: Path) -> None:
    folder, subnet, images = exported
    import onnxruntime

    with torch.no_grad():
        expected = subnet(images)
        loaded = mn.Subnet.load(folder)
        torch.testing.assert_close(loaded(images), expected, atol=1e-4, rtol=0)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), expected, atol=1e-4, rtol=0)
    torch.save({"images": images, "expected": expected}, tmp_path / "case.pt")
    script = (
        "import sys; sys.modules['manynet'] = None\nimport torch\n"
        f"case = torch.load({str(tmp_path / 'case.pt')!r})\n"
        f"program = torch.export.load({str(folder / 'model.pt2')!r}).module()\n"
        "torch.testing.assert_close(program(case['images']), case['expected'], atol=1e-4, rtol=0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env={"PATH": ""})
    assert json.loads((folder / "arch.json").read_text())["metrics"] == {"accuracy": 0.5}


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "arch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-99]),
            "weights.safetensors must hold",
        ),
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors must hold"),
        (lambda f: (f / "arch.json").write_text("{"), "arch.json must describe a subnet"),
        (
            lambda f: (f / "arch.json").write_text("{}"),
            "arch.json must say architecture, space, space_digest",
        ),
        (lambda f: (f / "arch.json").write_bytes(b"\xff"), "arch.json must describe a subnet"),
        (
            lambda f: (f / "arch.json").write_text("[1, 2]"),
            "arch.json must describe a subnet: input should be",
        ),
        (
            lambda f: rewrite(f, architecture=[1, 2]),
            r"arch.json must describe a subnet: architecture: .*, but got \[1, 2\]",
        ),
        (
            lambda f: rewrite(f, architecture={"depth": 999}),
            "arch.json must describe a subnet: .*depth must be one",
        ),
        (lambda f: rewrite(f, architecture={"no": 1}), "a choice must be one of .*, but got 'no'"),
        (lambda f: rewrite(f, architecture={}), "arch.json must describe a subnet: .*must say"),
        (lambda f: rewrite(f, space=7), "arch.json must describe a subnet: space: .*, but got 7"),
        (lambda f: rewrite(f, features={"dense": 3}), "arch.json must describe a subnet: features"),
        (
            lambda f: rewrite(f, space="os:getcwd"),
            "names code that is not Manynet's, 'os:getcwd': load it with space=",
        ),
        (lambda f: rewrite(f, space="manynet.cli:app"), "names code that is not Manynet's"),
        (lambda f: rewrite(f, space="/tmp/any.py:space"), "names code that is not Manynet's"),
        (
            lambda f: (f / "arch.json").write_text(
                (f / "arch.json").read_text().replace(vit.tiny.digest, "0" * 16)
            ),
            "another version",
        ),
    ],
)
def test_a_damaged_export_is_one_clear_line(
    exported: tuple[Path, mn.Subnet, torch.Tensor], tmp_path: Path, damage: Any, message: str
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("arch.json", "weights.safetensors"):
        (folder / name).write_bytes((exported[0] / name).read_bytes())
    damage(folder)
    with pytest.raises(ExportError, match=message) as caught:
        mn.Subnet.load(folder)
    assert "\n" not in str(caught.value)


def test_code_that_an_export_names_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    source = (
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\nfrom test_subnet import mixed as space\n"
    )
    (tmp_path / "mine.py").write_text(source)
    arch = mixed.sample(3)
    subnet = mn.extract(Mixed(), arch, mixed.example(arch)).eval()
    write_weights(subnet, tmp_path, mixed, f"{tmp_path / 'mine.py'}:space", any_batch=True)
    x = mixed.example(arch)
    with pytest.raises(ExportError, match=r"names code that is not Manynet's, .*mine.py:space"):
        mn.Subnet.load(tmp_path)
    torch.testing.assert_close(mn.Subnet.load(tmp_path, mixed)(*x), subnet(*x))
    assert not marker.exists()
    torch.testing.assert_close(mn.Subnet.load(tmp_path, trust=True)(*x), subnet(*x))
    assert marker.exists()


class Drifting(mn.Supernet):
    """Gives other outputs at every call, so no export can agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = mn.elastic.Linear(4, 3)

    def forward(self, x: torch.Tensor, arch: mn.Architecture) -> torch.Tensor:
        return self.head(x, out_features=arch["classes"]) + torch.rand(1)


drifting = mn.SearchSpace(
    "drifting", {"classes": tune.choice([2, 3])}, Drifting, mn.tasks.Classification(3), (4,)
)


def test_an_export_that_differs_is_refused(tmp_path: Path) -> None:
    subnet = mn.extract(drifting.build(), {"classes": 2}, drifting.example({"classes": 2}))
    with pytest.raises(ExportError, match="must give the subnet's outputs"):
        export(subnet, tmp_path / "x", drifting, f"{__file__}:drifting", drifting.example({"classes": 2}, 4))
