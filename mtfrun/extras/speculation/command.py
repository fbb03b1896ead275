"""The flags --draft and --draft_tokens of `mtfrun decode` and `mtfrun chat`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mtfrun.cli.command import at_least, not_empty
from mtfrun.cli.commands.decode import InferenceFlags
from mtfrun.display import progress
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun import mtf

# The value of --draft=lookup, which is not a path.
_LOOKUP = True


class DraftFlags(InferenceFlags):
    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--draft",
            type=lambda text: _LOOKUP if text == "lookup" else not_empty(text),
            help="propose tokens, of which the model checks several in one step, with the run of a "
            "smaller model or, by looking up the last tokens, with lookup (./lookup is a run); "
            "outputs are the same as without it",
            metavar="DIR",
            path="directory",
        )
        parser.add_argument(
            "--draft_tokens",
            type=at_least(1),
            help="how many tokens a draft proposes; 5",
            metavar="N",
        )

    def check(self, flags: argparse.Namespace) -> None:
        if flags.draft_tokens is not None and flags.draft is None:
            raise InputError("--draft_tokens is about a draft: give --draft=DIR or --draft=lookup")

    def settings(self, flags: argparse.Namespace, mesh: mtf.Mesh) -> dict[str, Any]:
        from mtfrun.experiment.runs.opening import (
            Settings,
            build_run,
            find_trained_run,
            restore_model,
        )
        from mtfrun.extras.speculation.drafts import Lookup, SmallerModel

        if flags.draft is None:
            return {}
        tokens = {} if flags.draft_tokens is None else {"draft_tokens": flags.draft_tokens}
        if flags.draft is _LOOKUP:
            return {"draft": Lookup(), **tokens}
        run = find_trained_run(flags.draft)
        with progress.waiting("building the draft"):
            built = build_run(run, Settings(allowed_imports=flags.gin_allow_imports), mesh=mesh)
        restore_model(built, run, None)
        return {"draft": SmallerModel(built.experiment), **tokens}
