"""The teacher of a training: its run, its record in checkpoints, its stored predictions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from mtfrun import mtf
from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.mirror import registry
from mtfrun.data import Data
from mtfrun.data.rows.batches import Batch
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, Range, check_range
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.experiment import Experiment, check_features, check_rows
from mtfrun.experiment.loss_terms import LossTerm, PreparedTerm
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.opening import Settings, build_run, restore_model
from mtfrun.extras.distillation.loss import DistillationLoss, Distiller
from mtfrun.extras.distillation.stored_logits import PARTS_OF_1, StoredLogits, store_logits
from mtfrun.files import RunDirError
from mtfrun.models.transformer import TokenModel
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.init_checkpoint import find_checkpoint

_ENTRY = "teacher"  # of a manifest

# Variables with a last dimension of d_model: the projection of a factorised embedding, else the
# table; the first of clusters of a vocabulary.
_EMBEDDINGS = [
    f"model/embedding/{table}{name}"
    for table in ("", "clusters/0/")
    for name in ("projection/kernel", "table")
]


@dataclasses.dataclass(frozen=True)
class TeacherCheckpoint(PreparedTerm):
    """A checkpoint of a run, or its stored predictions in the directory `path`, and a hash.

    `width` is the size of a run's vectors; `distiller` the part of the student that it teaches.
    """

    path: str
    step: int
    sha256: str
    width: int | None = None
    distiller: Distiller | None = None

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.path)

    def metadata(self) -> dict[str, object]:
        path = registry.url_of(self.path)
        return {_ENTRY: {"path": path, "step": self.step, "sha256": self.sha256}}

    def describe(self) -> dict[str, str]:
        """Returns {"teacher": "step 1,500 of /tmp/teacher"}."""
        return {"teacher": f"step {self.step:,} of {escape(registry.url_of(self.path))}"}

    def check_unchanged(self, manifest: Manifest, *, accept_changes: bool) -> None:
        saved = manifest.metadata.get(_ENTRY)
        if not isinstance(saved, dict) or accept_changes or saved.get("sha256") == self.sha256:
            return
        raise InputError(
            f"ckpt-{manifest.step} learned from step {escape(str(saved.get('step')))} of "
            f"{escape(str(saved.get('path')))}, and the teacher is step {self.step} of "
            f"{self.path}: name that checkpoint with Teacher.checkpoint, or resume with "
            "--accept_changes"
        )

    def read(self, experiment: Experiment, *, planned: bool) -> None:
        """Builds the teacher's model on the student's mesh, and restores it unless `planned`."""
        if self.distiller is None:
            return
        with progress.waiting(f"reading the teacher {self.path}"):
            objects = build_run(self.run, Settings(), mesh=experiment.mesh)
            self.distiller.teach(self._model(objects.experiment, experiment.data))
            if planned:
                mtf.initialize(objects.experiment.model)
            else:
                restore_model(objects, self.run, self.step)

    def _model(self, teacher: Experiment, data: Data) -> TokenModel:
        """Returns the frozen model; InputError if it reads other rows than the student."""
        model = require_tokens(teacher, "the teacher")
        try:
            check_features(type(model), data)
            check_rows(model, data)
        except InputError as error:
            raise InputError(f"the teacher {self.path}: {error}") from error
        for name, vocabulary in data.vocabularies.items():
            other = teacher.data.vocabularies.get(name)
            if other is None or other.fingerprint != vocabulary.fingerprint:
                raise InputError(
                    f"the teacher {self.path} reads {name} of {other}, and its student of "
                    f"{vocabulary}: they need the same vocabulary"
                )
        for variable in model.named_variables().values():
            variable.freeze()
        return model


@dataclasses.dataclass(frozen=True)
class Teacher(DistillationLoss, LossTerm):
    """Makes the model of a training the student of a trained one.

    Attributes:
      path: the run directory of the teacher, or one of its checkpoints, or their URL.
      checkpoint: a step of that run, or "best"; None for the newest.
      logits_path: predictions that replace these, which `mtfrun data logits` has stored with the
        same temperature.
    """

    path: str | None = None
    checkpoint: int | str | None = None
    logits_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits_path and (self.path or self.hidden_weight):
            raise InputError(
                "Teacher.logits_path replaces path and has no vectors: leave out path and "
                "hidden_weight, or logits_path"
            )

    def prepare(self, experiment: Experiment) -> TeacherCheckpoint:
        """Makes the model a student, with a projection if it needs one."""
        model = require_tokens(experiment, "distillation.Teacher")
        stored = self.features(experiment.data)
        if stored is not None:
            manifest = stored.manifest
            path, sha256 = str(self.logits_path), manifest["sha256"]
            teacher = TeacherCheckpoint(path, manifest[_ENTRY]["step"], sha256)
            experiment.row_features.append(stored)
        elif self.path:
            teacher = find_teacher(self.path, self.checkpoint)
        else:
            raise RunDirError(
                "a student needs a teacher: name its run with --gin.TEACHER=\"'/tmp/teacher'\""
            )
        if self.hidden_weight and teacher.width is None:
            raise RunDirError(
                f"the teacher {teacher.path} has no {_EMBEDDINGS[1]}, whose width its vectors "
                "have: leave out Teacher.hidden_weight"
            )
        distiller = Distiller(model, self, teacher.width, is_stored=stored is not None)
        model.add_loss_term(distiller)
        return teacher if stored is not None else dataclasses.replace(teacher, distiller=distiller)

    def features(self, data: Data) -> StoredLogits | None:
        """Returns the stored predictions; InputError for another temperature."""
        if not self.logits_path:
            return None
        stored = StoredLogits.open(self.logits_path, data)
        if stored.manifest["temperature"] != self.temperature:
            raise InputError(
                f"Teacher.temperature is {self.temperature}, and the logits in {self.logits_path} "
                f"have the temperature {stored.manifest['temperature']}: set the same"
            )
        return stored


def find_teacher(path: str, checkpoint: int | str | None) -> TeacherCheckpoint:
    """Returns a checkpoint of a run, see `Teacher`; RunDirError if there is none."""
    directory, step = find_checkpoint(path)
    if directory is None:
        remedy = "name a run directory, or one of its checkpoints"
        if pathlib.Path(path, "config.json").is_file():
            remedy = f"make it a run: `mtfrun import --from={path} --model_dir=/tmp/teacher`"
        raise RunDirError(f"no run of a teacher with checkpoints in {path}: {remedy}")
    run = RunDirectory(str(directory.parent))
    checkpoints = run.checkpoints()
    if step is None:
        step = checkpoints.named_step(checkpoint)
    manifest = checkpoints.manifest(step)
    if manifest is None:
        raise RunDirError(f"the teacher {path} has no checkpoint of step {step}")
    files = {name: file.sha256 for name, file in manifest.files.items()}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    widths = [
        int(manifest.variables[path].shape[-1])
        for path in _EMBEDDINGS
        if path in manifest.variables
    ]
    return TeacherCheckpoint(run.path, manifest.step, digest, widths[0] if widths else None)


def require_tokens(experiment: Experiment, who: str) -> TokenModel:
    """Returns the model of an experiment, a model of tokens; InputError for others."""
    remedy = "distillation is for @transformer.DecoderOnly, EncoderDecoder and EncoderOnly"
    return require(experiment.model, TokenModel, who, remedy)


def store_teacher_logits(
    experiment: Experiment,
    teacher: TeacherCheckpoint,
    path: str,
    *,
    top_k: int,
    temperature: float,
    batch: int,
) -> int:
    """Writes the likeliest ids of all training rows, see `StoredLogits`; returns their number.

    The probabilities are the softmax of the logits divided by the temperature. `teacher` is the
    restored checkpoint.
    """
    model = require_tokens(experiment, "data logits")
    check_range("--top_k", top_k, Range(1, model.num_classes, whole=True))
    check_range("--temperature", temperature, POSITIVE)
    experiment.check_batch(batch)
    if len(experiment.feature_shapes(batch)) != len(experiment.data.shapes(batch)):
        raise InputError("the run's training reads stored logits itself")
    mesh, shapes = experiment.mesh, experiment.data.shapes(batch)
    dtype = np.uint16 if model.num_classes <= 1 << 16 else np.int32

    @mtf.function
    def likeliest(features: dict[str, mtf.Tensor]) -> tuple[mtf.Tensor, mtf.Tensor]:
        logits = model.logits(features) * (1.0 / temperature)
        values, ids = mtf.top_k(logits, model.vocab, mtf.Dimension("top_k", top_k))
        return ids, mtf.exp(values - mtf.reduce_logsumexp(logits, model.vocab))

    def predict(rows: Batch) -> tuple[np.ndarray, np.ndarray]:
        features = {
            name: mtf.import_tf_tensor(mesh, np.asarray(x), shapes[name])
            for name, x in rows.items()
        }
        ids, probabilities = mtf.to_numpy(likeliest(features))
        return ids.astype(dtype), np.floor(probabilities * PARTS_OF_1).astype(np.uint16)

    about = {"temperature": temperature, **teacher.metadata()}
    return store_logits(path, experiment.data, predict, batch=batch, about=about)
