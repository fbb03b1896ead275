from mtfrun.extras.text_tasks.given_beginnings import GivenBeginningsData as GivenBeginningsData
from mtfrun.extras.text_tasks.given_beginnings import MoveBeginning as MoveBeginning
from mtfrun.extras.text_tasks.joined_texts import TextPairs as TextPairs
from mtfrun.extras.text_tasks.models import MultiLabelClassifier as MultiLabelClassifier
from mtfrun.extras.text_tasks.models import SpanLabeler as SpanLabeler
from mtfrun.extras.text_tasks.models import TextRegressor as TextRegressor
from mtfrun.extras.text_tasks.span_data import SpanData as SpanData
from mtfrun.extras.text_tasks.text_classification_data import (
    LabelSetVocabulary as LabelSetVocabulary,
)
from mtfrun.extras.text_tasks.text_classification_data import LabelVocabulary as LabelVocabulary
from mtfrun.extras.text_tasks.text_classification_data import NumberVocabulary as NumberVocabulary
from mtfrun.extras.text_tasks.text_classification_data import (
    TextClassificationData as TextClassificationData,
)
from mtfrun.extras.text_tasks.token_classification_data import (
    TokenClassificationData as TokenClassificationData,
)
from mtfrun.extras.text_tasks.token_classification_data import WordLabels as WordLabels
