"""The maximal update parametrization, muP: settings of a small model suit a wide one.

Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, table 3: the form without multipliers, but
for attention and tied embeddings, which have theirs in `layers`. Growing dimensions are known by
name, so that the rules are functions of a variable's `mtf.Growth`:

    n, m      growth of the dimensions that are summed over, and of the remaining dimensions
    input     only remaining grow: embeddings, scales, biases, the first convolution; n = 1
    hidden    both grow
    output    only those grow that are summed over: the softmax, routers; m = 1

                                          input    hidden       output
    initial values                        1        n^(-1/2)     1/n
    learning rate, Adam                   1        1/n          1/n
    learning rate, gradient descent       m        m/n          1/n
    relative step size, Adafactor         1        n^(-1/2)     1
    spectral norm of changes, Muon        sqrt(m)  sqrt(m/n)    n^(-1/2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.checks import COUNT, check_range


def initial_scale(growth: mtf.Growth) -> float:
    """Returns the factor of the initial values of the base size: 1, n^(-1/2), or n^(-1)."""
    return math.pow(growth.fan_in, -1.0 if growth.is_output else -0.5)


def adam_factor(growth: mtf.Growth) -> float:
    """Returns the factor of the learning rate where entries change by about it: 1/n.

    n changes that agree in sign add up, in a product with n inputs.
    """
    return 1.0 / growth.fan_in


def sgd_factor(growth: mtf.Growth) -> float:
    """Returns the factor of the learning rate where entries change by it times the gradient: m/n.

    Gradients fall as 1/m.
    """
    return growth.fan_out / growth.fan_in


def relative_factor(growth: mtf.Growth) -> float:
    """Returns the factor where entries change by the rate times their root mean square.

    It is `adam_factor` over the scale of the entries: 1, n^(-1/2), or 1; for Adafactor, see
    Everett et al. 2024, arXiv:2407.05872.
    """
    return adam_factor(growth) / initial_scale(growth)


def spectral_factor(growth: mtf.Growth) -> float:
    """Returns the factor of the spectral norm of a change: sqrt(m / n).

    Yang et al. 2023, "A spectral condition for feature learning", condition 1, arXiv:2310.17813.
    """
    return math.sqrt(growth.fan_out / growth.fan_in)


def set_base_sizes(root: mtf.Module, base_sizes: Mapping[str, int]) -> None:
    """Makes initial values, learning rates and logits follow from the widths by muP.

    To be called before the model has values, and before an optimizer gets its variables. A model of
    the base sizes stays as it is, to the bit.

        optim.set_base_sizes(model, {"d_model": 128, "d_ff": 512, "heads": 4})

    Args:
      base_sizes: sizes, by name, of the dimensions that grow with the width, in the model for which
        the learning rate and the initial scale were chosen; the smallest of several sizes of a
        name, such as the filters of a ResNet.

    Raises:
      InputError: no variable has a dimension of that name, or a size is not positive; or a variable
        grows and does not say which of its dimensions are summed over, see `mtf.Variable`.
    """
    mtf.assign_paths(root)
    variables = root.named_variables().values()
    sizes = mtf.smallest_sizes(variable.shape for variable in variables)
    growth: dict[str, float] = {}
    for name, base in base_sizes.items():
        if name not in sizes:
            raise InputError(
                f"base_sizes: no variable has a dimension {name!r}{did_you_mean(name, sizes)}"
            )
        check_range(f"base_sizes: {name!r}", base, COUNT)
        growth[name] = sizes[name] / base
    for variable in variables:
        variable.set_widths(mtf.Widths(growth), initial_scale)
