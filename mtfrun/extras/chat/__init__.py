"""Chat templates, and conversations as data."""

from typing import TYPE_CHECKING

from mtfrun.configuration.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mtfrun.extras.chat.conversation_data import ConversationData as ConversationData
    from mtfrun.extras.chat.conversation_data import Conversations as Conversations
    from mtfrun.extras.chat.template import ChatTemplate as ChatTemplate

__all__, __getattr__ = lazy_exports(__file__)
