from mtfrun.extras.t5.preprocessors.glue import Glue as Glue
from mtfrun.extras.t5.preprocessors.glue import Record as Record
from mtfrun.extras.t5.preprocessors.glue import Wsc as Wsc
from mtfrun.extras.t5.preprocessors.pairs_from_text import FillInTheBlank as FillInTheBlank
from mtfrun.extras.t5.preprocessors.pairs_from_text import (
    NextSentencePrediction as NextSentencePrediction,
)
from mtfrun.extras.t5.preprocessors.pronouns import (
    DefinitePronounResolution as DefinitePronounResolution,
)
from mtfrun.extras.t5.preprocessors.pronouns import WnliSimple as WnliSimple
from mtfrun.extras.t5.preprocessors.pronouns import WscSimple as WscSimple
from mtfrun.extras.t5.preprocessors.question_answering import Squad as Squad
from mtfrun.extras.t5.preprocessors.question_answering import SquadSpans as SquadSpans
from mtfrun.extras.t5.preprocessors.question_answering import TriviaQa as TriviaQa
from mtfrun.extras.t5.preprocessors.rank_classification import (
    RankClassification as RankClassification,
)
from mtfrun.extras.t5.preprocessors.translation import MultiTranslate as MultiTranslate
from mtfrun.extras.t5.preprocessors.translation import Summarize as Summarize
from mtfrun.extras.t5.preprocessors.translation import Translate as Translate
from mtfrun.extras.t5.references import Grouped as Grouped
from mtfrun.extras.t5.references import GroupedReference as GroupedReference
from mtfrun.extras.t5.references import PossibleReferent as PossibleReferent
from mtfrun.extras.t5.references import RankedClass as RankedClass
from mtfrun.extras.t5.references import Target as Target
from mtfrun.extras.t5.references import all_answers as all_answers
from mtfrun.extras.t5.references import possible_referent as possible_referent
from mtfrun.extras.t5.references import ranked_class as ranked_class
