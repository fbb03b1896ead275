"""Chat templates: of imported tokenizers, and four that have a name."""

from mtfrun.tools.chat.template import ChatTemplate as ChatTemplate
