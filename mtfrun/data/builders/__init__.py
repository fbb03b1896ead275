"""TFDS builders of the datasets that are available without a download."""

from mtfrun.data.builders.embedded import Digits as Digits
from mtfrun.data.builders.embedded import NumberWords as NumberWords
from mtfrun.data.builders.embedded import PythonDocs as PythonDocs
from mtfrun.data.builders.embedded import PythonSource as PythonSource
