from __future__ import annotations

import re
from collections.abc import Sequence

_BLOCK = re.compile(r"(?:(?P<stack>\w+)_stack/)?blocks/(?P<number>\d+)(?:/|$)")


def layer_names(paths: Sequence[str]) -> list[str]:
    """Returns the names of the layers that paths lead to, without their common part.

    >>> layer_names(["decoder_stack/blocks/0/moe_1d", "decoder_stack/blocks/2/moe_1d"])
    ['layer 0', 'layer 2']
    """
    names = [layer_name(path) for path in paths]
    stacks = {name.partition(" layer ")[0] for name in names if " layer " in name}
    if len(stacks) == 1:
        names = [name.removeprefix(f"{next(iter(stacks))} ") for name in names]
    return names


def layer_name(path: str) -> str:
    """Returns the name of the layer that a module's path leads to.

    >>> layer_name("decoder_stack/blocks/3/moe_2d/layer")
    'decoder layer 3'
    >>> layer_name("blocks/0/moe_1d"), layer_name("head/moe_1d")
    ('layer 0', 'head/moe_1d')
    """
    match = _BLOCK.search(path)
    if match is None:
        return path
    return " ".join(part for part in (match["stack"], "layer", match["number"]) if part)
