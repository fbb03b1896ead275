from __future__ import annotations

import dataclasses
import functools
import posixpath
from collections.abc import Mapping

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.display.formats import mark_blanks
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator

_CONFIG = "projector_config.pbtxt"
_DIRECTORY = "projector"


@dataclasses.dataclass(frozen=True)
class Projector(Evaluator):
    """The newest vectors of the first ids of a vocabulary, for TensorBoard's projector.

    Of an ensemble the first member's.

    Attributes:
      num_rows: number of ids; 0 for none.
    """

    num_rows: int = 0

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_rows")
        if self.num_rows and not self._tables:
            name = type(self.experiment.model).__name__
            raise InputError(
                f"{name} has no embedding of a vocabulary: set Projector.num_rows to 0"
            )

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        """Returns the files: vectors and the texts of their ids, separated by tabs."""
        if not self.num_rows or not context.is_shown:
            return EvaluationResult()
        config = ProjectorConfig()
        files: dict[str, str] = {}
        for path, vocabulary in self._tables.items():
            variable = self.experiment.model.named_variables()[path]
            *members, vocab, _ = variable.shape.dims  # members of an ensemble
            rows = min(self.num_rows, vocab.size, vocabulary.size)
            vectors = mtf.to_numpy(variable)[(0,) * len(members)][:rows].astype(np.float32)
            name = path.replace("/", "_")
            tensor, labels = (f"{_DIRECTORY}/{name}_{part}.tsv" for part in ("vectors", "tokens"))
            files[tensor] = "".join("\t".join(f"{x:.5g}" for x in row) + "\n" for row in vectors)
            files[labels] = "token\tid\n" + "".join(
                f"{mark_blanks(vocabulary.token_text(i))}\t{i}\n" for i in range(len(vectors))
            )
            config.embeddings.add(tensor_name=path, tensor_path=tensor, metadata_path=labels)
        return EvaluationResult(files={**files, _CONFIG: text_format.MessageToString(config)})

    @functools.cached_property
    def _tables(self) -> Mapping[str, Vocabulary]:
        vocabularies = self.experiment.data.vocabularies
        tables = {}
        for path in self.experiment.model.vocabulary_sizes:
            name = INPUTS if posixpath.dirname(path) == "inputs_embedding" else TARGETS
            if posixpath.basename(path) == "table" and name in vocabularies:
                tables[path] = vocabularies[name]
        return tables
