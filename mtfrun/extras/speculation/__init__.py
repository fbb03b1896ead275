"""Drafts, which propose tokens that the model checks."""

from typing import TYPE_CHECKING

from mtfrun.configuration.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mtfrun.extras.speculation.drafts import Lookup as Lookup
    from mtfrun.extras.speculation.drafts import SmallerModel as SmallerModel

__all__, __getattr__ = lazy_exports(__file__)
