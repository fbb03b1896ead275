"""The families of models, one a file, and the list of them."""

from mtfrun.extras.huggingface.families.registry import FAMILIES as FAMILIES
from mtfrun.extras.huggingface.families.registry import family_of as family_of
