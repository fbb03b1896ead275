"""Preprocessors that write texts as T5 does, so that T5's checkpoints recognise them."""

from mtfrun.data.preprocessors.fields import FilterByStringLength as FilterByStringLength
from mtfrun.data.preprocessors.fields import LabelNames as LabelNames
from mtfrun.data.preprocessors.fields import ParseTsv as ParseTsv
from mtfrun.data.preprocessors.fields import Rekey as Rekey
from mtfrun.data.preprocessors.glue import Glue as Glue
from mtfrun.data.preprocessors.glue import Record as Record
from mtfrun.data.preprocessors.glue import Wsc as Wsc
from mtfrun.data.preprocessors.made_of_text import FillInTheBlank as FillInTheBlank
from mtfrun.data.preprocessors.made_of_text import NextSentencePrediction as NextSentencePrediction
from mtfrun.data.preprocessors.preprocessor import Fields as Fields
from mtfrun.data.preprocessors.preprocessor import Preprocessor as Preprocessor
from mtfrun.data.preprocessors.preprocessor import StreamPreprocessor as StreamPreprocessor
from mtfrun.data.preprocessors.question_answering import Squad as Squad
from mtfrun.data.preprocessors.question_answering import TriviaQa as TriviaQa
from mtfrun.data.preprocessors.rank_classification import RankClassification as RankClassification
from mtfrun.data.preprocessors.translation import MultiTranslate as MultiTranslate
from mtfrun.data.preprocessors.translation import Summarize as Summarize
from mtfrun.data.preprocessors.translation import Translate as Translate
