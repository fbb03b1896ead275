"""Dropout as a layer that draws by its own path."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.checks import SHARE_BELOW_1, check_range
from mtfrun.layers.call import Call


class Dropout(mtf.Module):
    """Sets a share of the elements to 0 in training; Srivastava et al. 2014.

    The noise depends on the step's key, the module's path and the element's index, so that no
    layout and no rematerialisation changes it.

    Raises:
      InputError: the rate is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        """Takes the share of elements that are dropped."""
        super().__init__()
        check_range("dropout_rate", rate, SHARE_BELOW_1)
        self.rate = rate

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x with dropped elements, the others scaled to keep the mean."""
        if not call.training or self.rate == 0.0:
            return x
        return mtf.dropout(x, training=True, rate=self.rate, key=call.key_of(self))
