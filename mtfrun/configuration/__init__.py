"""The configuration: the search for gin files, their parsing, checks, and error messages."""
