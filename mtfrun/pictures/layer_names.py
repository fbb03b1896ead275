"""Short names of layers in pictures."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"(?:(?P<stack>\w+)_stack/)?blocks/(?P<number>\d+)(?:/|$)")


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
