"""TFDS builders of the datasets that are available without a download."""

from mtfrun.data.builders.digits import Digits as Digits
from mtfrun.data.builders.number_words import NumberWords as NumberWords
from mtfrun.data.builders.python_docs import PythonDocs as PythonDocs
from mtfrun.data.builders.python_source import PythonSource as PythonSource
