from mtfrun.extras.constraints.constraints import JsonSchema as JsonSchema
from mtfrun.extras.constraints.constraints import Regex as Regex
from mtfrun.extras.constraints.constraints import stop_building as stop_building
