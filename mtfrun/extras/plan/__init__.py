"""Plans of training on any mesh, without its devices."""
