"""The gin files and bindings of a command line."""

from __future__ import annotations

import argparse

from mtfrun.experiment.runs.settings import Settings


def settings_of(flags: argparse.Namespace) -> Settings:
    """Returns the gin files and bindings of the flags."""
    return Settings(
        flags.gin_file,
        flags.bindings,
        flags.gin_search_paths,
        # Who names a module on the command line trusts it.
        [*flags.gin_allow_imports, *flags.module_import],
        flags.module_import,
    )
