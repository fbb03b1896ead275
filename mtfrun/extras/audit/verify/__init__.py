"""Comparison of training on a mesh with training on one device, number by number."""

from mtfrun.extras.audit.verify.comparison import Comparison as Comparison
from mtfrun.extras.audit.verify.comparison import Difference as Difference
from mtfrun.extras.audit.verify.comparison import as_json as as_json
from mtfrun.extras.audit.verify.comparison import as_lines as as_lines
from mtfrun.extras.audit.verify.comparison import compare as compare
from mtfrun.extras.audit.verify.comparison import reference_lines as reference_lines
from mtfrun.extras.audit.verify.first_difference import Fault as Fault
from mtfrun.extras.audit.verify.observation import FirstRows as FirstRows
from mtfrun.extras.audit.verify.observation import Observation as Observation
from mtfrun.extras.audit.verify.observation import observe as observe
from mtfrun.extras.audit.verify.probe import find_fault as find_fault
