"""What gin files configure at the top: the experiment and what the commands do with it."""

from mtfrun.cli.tasks.classification import Classification
from mtfrun.cli.tasks.decoding import Decoding
from mtfrun.cli.tasks.evaluation import Evaluation
from mtfrun.cli.tasks.experiment import Experiment
from mtfrun.cli.tasks.scoring import Scoring
from mtfrun.cli.tasks.training import Training

__all__ = ["Classification", "Decoding", "Evaluation", "Experiment", "Scoring", "Training"]
