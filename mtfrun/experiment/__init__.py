"""What gin files configure at the top: the experiment and what the commands do with it."""

from mtfrun.experiment.classification import Classification
from mtfrun.experiment.decoding import Decoding
from mtfrun.experiment.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.scoring import Scoring
from mtfrun.experiment.training import Training

__all__ = ["Classification", "Decoding", "Evaluation", "Experiment", "Scoring", "Training"]
