"""Plans of training on any mesh, without its devices: `from mtfrun.tools import planning`."""
