"""TFDS builders of the datasets that are available without a download."""

from mtfrun.data.builders.digits import Digits
from mtfrun.data.builders.number_words import NumberWords
from mtfrun.data.builders.python_docs import PythonDocs
from mtfrun.data.builders.python_source import PythonSource

__all__ = ["Digits", "NumberWords", "PythonDocs", "PythonSource"]
