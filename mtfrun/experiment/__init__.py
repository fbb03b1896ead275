"""The objects that gin files configure at the top: an experiment, and what is done with it."""

from mtfrun.experiment.classification import Classification, Prediction
from mtfrun.experiment.decoding import Answer, Decoding, DecodingShape
from mtfrun.experiment.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.image_measurements import ConfusionMatrix, LabelledImages
from mtfrun.experiment.inference import Images, Inference, Progress, Record, Source, TrainingOnly
from mtfrun.experiment.layer_pictures import LayerPictures
from mtfrun.experiment.logits import Logits
from mtfrun.experiment.measurement import Evaluated, Measured, Measurement
from mtfrun.experiment.projector import Projector
from mtfrun.experiment.ranked_labels import RankedLabels
from mtfrun.experiment.scoring import Score, Scoring
from mtfrun.experiment.text_measurements import DecodedPairs, Entropies, Samples
from mtfrun.experiment.training import Training

__all__ = [
    "Answer",
    "Classification",
    "ConfusionMatrix",
    "DecodedPairs",
    "Decoding",
    "DecodingShape",
    "Entropies",
    "Evaluated",
    "Evaluation",
    "Experiment",
    "Images",
    "Inference",
    "LabelledImages",
    "LayerPictures",
    "Logits",
    "Measured",
    "Measurement",
    "Prediction",
    "Progress",
    "Projector",
    "RankedLabels",
    "Record",
    "Samples",
    "Score",
    "Scoring",
    "Source",
    "Training",
    "TrainingOnly",
]
