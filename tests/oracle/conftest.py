"""What pytest collects of the oracle: not the programs that make its values."""

# These import packages that the tests do not need.
collect_ignore_glob = ["make_*.py"]
