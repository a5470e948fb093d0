"""Feature grids of both families of vision transformers: values, extraction, shared weights and export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.search_spaces import pit, vit
from manynet.search_spaces.vit import TokenGrids

VIT = vit.tiny.canonical(vit.tiny.largest | {"resolution": 16, "patch_size": 4, "width": 48, "depth": 3})
PIT = pit.tiny.canonical(
    pit.tiny.largest | {"resolution": 32, "stride": 4, "width": 24, "stage0.depth": 1, "stage1.depth": 2}
)
# The grid of 7 by 7 patches is pooled twice in PiT; its third stage begins at the fourth block.
FAMILIES = {
    "vit": (vit.tiny, VIT, {1: (48, 4, 4), 3: (48, 4, 4)}),
    "pit": (pit.tiny, PIT, {1: (24, 7, 7), 3: (48, 4, 4), 4: (96, 2, 2)}),
}


@pytest.fixture(params=FAMILIES)
def family(
    request: pytest.FixtureRequest,
) -> tuple[mn.SearchSpace, dict[str, Any], dict[int, Any], nn.Module]:
    torch.manual_seed(0)
    space, arch, shapes = FAMILIES[request.param]
    return space, arch, shapes, space.build().eval()


def inside(network: nn.Module, arch: dict[str, Any], images: torch.Tensor) -> list[torch.Tensor]:
    """What each block gives in an ordinary forward pass, as grids without the class token."""
    outputs: list[torch.Tensor] = []
    blocks = [m for m in network.modules() if isinstance(m, vit.Block | pit.Block)]
    handles = [block.register_forward_hook(lambda m, i, output: outputs.append(output)) for block in blocks]
    with torch.no_grad():
        network(images, arch=arch)
    for handle in handles:
        handle.remove()
    sides = [round((x.shape[1] - 1) ** 0.5) for x in outputs]
    return [x[:, 1:].permute(0, 2, 1).reshape(len(x), -1, s, s) for x, s in zip(outputs, sides, strict=True)]


def test_grids_are_the_values_inside_an_ordinary_forward_pass(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, shapes, network = family
    (images,) = space.example(arch, batch=3)
    expected = inside(network, arch, images)
    depths = [*reversed(shapes), 1]
    with torch.no_grad():
        grids = TokenGrids(network, depths)(images, arch=arch)
    assert [tuple(grid.shape) for grid in grids] == [(3, *shapes[depth]) for depth in depths]
    assert all(torch.equal(grid, expected[depth - 1]) for grid, depth in zip(grids, depths, strict=True))


def test_extraction_keeps_only_what_the_grids_need(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, _, network = family
    (images,) = space.example(arch, batch=3)
    subnet = mn.extract(TokenGrids(network, [1]), arch, (images[:1],))
    with torch.no_grad():
        torch.testing.assert_close(subnet(images)[0], inside(network, arch, images)[0], atol=1e-5, rtol=1e-5)
    kept = [m for m in subnet.modules() if isinstance(m, vit.Block | pit.Block)]
    names = {name.removeprefix("network.network.") for name, _ in subnet.named_parameters()}
    assert len(kept) == 1 and not any(name.startswith(("head.", "norm.", "pools.")) for name in names)
    # What is kept is what the whole subnet has of it, cut alike.
    whole = {name: p.shape for name, p in mn.extract(network, arch, (images[:1],)).network.named_parameters()}
    assert {n: p.shape for n, p in subnet.network.network.named_parameters()} == {n: whole[n] for n in names}


def test_the_network_and_its_grids_train_the_same_weights(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, shapes, network = family
    (images,) = space.example(arch, batch=2)
    grids = TokenGrids(network, list(shapes))
    assert {id(p) for p in grids.parameters()} == {id(p) for p in network.parameters()}
    before = network(images, arch=arch).detach()
    torch.stack([grid.square().mean() for grid in grids(images, arch=arch)]).sum().backward()
    assert network.head.weight.grad is None
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert not torch.allclose(network(images, arch=arch), before)


def test_a_trained_subnet_gives_grids_without_its_supernet(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, shapes, network = family
    (images,) = space.example(arch, batch=2)
    trained = mn.extract(network, arch, (images,))
    subnet = mn.extract(TokenGrids(trained.network, list(shapes)), trained.arch, (images,))
    expected = inside(network, arch, images)
    with torch.no_grad():
        for depth, grid in zip(shapes, subnet(images), strict=True):
            torch.testing.assert_close(grid, expected[depth - 1], atol=1e-5, rtol=1e-5)


def test_grids_cost_what_their_subnet_has(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, _, network = family
    grids = mn.SearchSpace(
        "grids", space.domains, lambda: TokenGrids(space.build(), [1]), space.task, space.inputs(arch)
    )
    subnet = mn.extract(TokenGrids(network, [1]), arch, space.example(arch))
    cost = mn.cost(grids, arch)
    assert cost.parameters == sum(p.numel() for p in subnet.parameters())
    assert 0 < cost.macs < mn.cost(space, arch).macs
    assert not {"block1.heads", "stage1.heads"} & set(grids.canonical(arch))


def test_exported_grids_are_the_same(family, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import onnxruntime

    space, arch, shapes, network = family
    (images,) = space.example(arch, batch=5)
    subnet = mn.extract(TokenGrids(network, list(shapes)), arch, (images,))
    with torch.no_grad():
        expected = subnet(images)
    batch = torch.export.Dim("batch")
    program = torch.export.export(subnet, (images[:2],), dynamic_shapes=(({0: batch},),))
    torch.export.save(program, tmp_path / "grids.pt2")
    torch.onnx.export(program, (), tmp_path / "grids.onnx", dynamo=True, external_data=False, verbose=False)
    loaded = torch.export.load(tmp_path / "grids.pt2").module()(images)
    session = onnxruntime.InferenceSession(tmp_path / "grids.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert len(loaded) == len(outputs) == len(shapes)
    for grid, one, other in zip(expected, loaded, outputs, strict=True):
        torch.testing.assert_close(one, grid, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.from_numpy(other), grid, atol=1e-4, rtol=0)


@pytest.mark.parametrize("depths", [[], [0, 1], [-1]])
def test_depths_that_no_network_has_are_refused(depths: list[int]) -> None:
    with pytest.raises(mn.elastic.ChoiceError, match="depths must be one or more integers of at least 1"):
        TokenGrids(nn.Identity(), depths)


def test_a_depth_that_the_architecture_lacks_is_one_clear_line(family) -> None:  # type: ignore[no-untyped-def]
    space, arch, _, network = family
    blocks = 3 if space is vit.tiny else 5
    with pytest.raises(
        mn.elastic.ChoiceError, match=f"depths must be at most the blocks, {blocks}, but got 9"
    ):
        TokenGrids(network, [1, 9])(*space.example(arch), arch=arch)
