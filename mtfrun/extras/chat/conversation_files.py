"""Files of conversations, one a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mtfrun.data.features import TARGETS
from mtfrun.data.sources.records import BadRecordError, LineRecordFiles, json_value
from mtfrun.data.sources.streams import LONGEST_PART
from mtfrun.extras.chat.conversations import conversation_json, conversation_of


@dataclasses.dataclass(frozen=True)
class Conversations(LineRecordFiles):
    """One JSON object per line: {"messages": [{"role": ..., "content": ...}, ...]}, OpenAI's form.

    Or {"conversations": [{"from": ..., "value": ...}, ...]}, ShareGPT's form. The field "targets"
    is the conversation as JSON, in the first form. Blank lines are left out.
    """

    def _fields(self, record: bytes) -> Mapping[str, bytes] | None:
        if not record.strip():
            return None
        text = conversation_json(conversation_of(json_value(record)))
        if len(text) > LONGEST_PART:
            raise BadRecordError(f"it has {len(text):,} bytes, more than {LONGEST_PART:,}")
        return {TARGETS: text}
