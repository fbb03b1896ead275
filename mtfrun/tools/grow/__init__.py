"""Larger models from a run's checkpoint, by a rule for each dimension."""

from mtfrun.tools.grow.growth import GrownRun as GrownRun
from mtfrun.tools.grow.growth import GrowOptions as GrowOptions
from mtfrun.tools.grow.growth import grow as grow
