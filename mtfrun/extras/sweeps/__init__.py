"""The command `sweep`, and the results that tables and reports read."""
