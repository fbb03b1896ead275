"""The families of models, one a file, and the list of them."""

from mtfrun.tools.conversion.hugging_face.families.registry import FAMILIES as FAMILIES
from mtfrun.tools.conversion.hugging_face.families.registry import family_of as family_of
