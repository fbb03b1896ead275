"""Comparison of training on a mesh with training on one device, number by number."""

from mtfrun.tools.verification.comparison import Comparison as Comparison
from mtfrun.tools.verification.comparison import Difference as Difference
from mtfrun.tools.verification.comparison import as_json as as_json
from mtfrun.tools.verification.comparison import as_lines as as_lines
from mtfrun.tools.verification.comparison import compare as compare
from mtfrun.tools.verification.comparison import reference_lines as reference_lines
from mtfrun.tools.verification.culprit import Fault as Fault
from mtfrun.tools.verification.observation import FirstRows as FirstRows
from mtfrun.tools.verification.observation import Observation as Observation
from mtfrun.tools.verification.observation import observe as observe
from mtfrun.tools.verification.probe import find_fault as find_fault
