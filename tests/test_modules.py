"""Products of few rows against `torch.nn.Linear`."""

import pytest
import torch
from torch import nn

from edlm.modules import WIDE, apply_output_layer, apply_to_few


def layer_of(out_features, bias):
    torch.manual_seed(0)
    return nn.Linear(6, out_features, bias=bias).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out_features", [3, WIDE])
@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (3,), (4,), (5,), (16,), (17,), (1, 1), (2, 1, 2), (3, 0)])
@pytest.mark.parametrize("apply", [apply_to_few, apply_output_layer])
def test_values_and_gradients_are_those_of_the_layer(apply, shape, out_features, bias):
    layer, x = layer_of(out_features, bias), torch.randn(*shape, 6, dtype=torch.float64, requires_grad=True)
    found, expected = apply(layer, x), layer(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    direction, inputs = torch.randn_like(expected), (x, *layer.parameters())
    for grads in zip(*(torch.autograd.grad((y * direction).sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(*grads)


def test_layers_that_are_changed_or_watched_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x, seen = torch.randn(1, 6), []
    doubled = Doubled(6, WIDE)
    torch.testing.assert_close(apply_output_layer(doubled, x), doubled(x))
    hooked, pre_hooked, replaced = nn.Linear(6, WIDE), nn.Linear(6, WIDE), nn.Linear(6, WIDE)
    hooked.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    pre_hooked.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    apply_output_layer(hooked, x)
    apply_output_layer(pre_hooked, x)
    assert seen == [1, 1]
    replaced.forward = lambda x: x + 1
    assert torch.equal(apply_output_layer(replaced, x), x + 1)
    assert torch.equal(apply_to_few(replaced, torch.cat([x, x])), torch.cat([x, x]) + 1)
