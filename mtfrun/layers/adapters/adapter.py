"""The interface of adapters: few variables that are added to a trained model, and trained alone."""

from __future__ import annotations

import abc
import dataclasses

from mtfrun import mtf


@dataclasses.dataclass(frozen=True)
class Adapter(abc.ABC):
    """Adds variables to a model, which computes the same as before until these are trained.

    A subclass is a frozen dataclass. Its fields have defaults and are JSON: a checkpoint stores
    them, with the name of the class.
    """

    @abc.abstractmethod
    def attach(self, root: mtf.Module) -> None:
        """Adds the variables to a model, after its parts have their paths.

        Raises:
          InputError: a field is invalid for this model.
        """
