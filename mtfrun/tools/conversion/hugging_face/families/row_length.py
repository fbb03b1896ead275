"""The length of the rows of an imported language model."""

from __future__ import annotations

from mtfrun.tools.conversion.gin_file import GinFile

# Longer rows are for those who have the memory for them.
_LONGEST = 1024


def write_row_length(max_positions: int, file: GinFile) -> None:
    """Adds the tokens of a row, of training, and of a prompt with its continuation.

    Args:
      max_positions: those that the model was made for.
      file: gets the macro.
    """
    comment = f"the model is made for up to {max_positions}" if max_positions > _LONGEST else ""
    file.macro("SEQUENCE_LENGTH", min(max_positions, _LONGEST), comment)
