"""The teacher of a training: its run, and what the checkpoints of the student say about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

from mtfrun import mtf
from mtfrun.data.stored_logits import StoredLogits
from mtfrun.errors import InputError
from mtfrun.experiment.experiment import Experiment, check_features, check_rows
from mtfrun.experiment.records import require
from mtfrun.models.transformer import Distillation, TokenModel
from mtfrun.rundir import Manifest, RunDirectory, RunDirError, mirrors
from mtfrun.rundir.checkpoints.init_checkpoint import find_checkpoint
from mtfrun.untrusted import escape

ENTRY = "teacher"
"""The entry of a manifest with the teacher."""

# Where the last dimension of a variable is that of a model's vectors: of a factorised embedding the
# projection's, else the table's; of clusters of a vocabulary the first one's.
_OF_VECTORS = [
    f"model/embedding/{table}{name}"
    for table in ("", "clusters/0/")
    for name in ("projection/kernel", "table")
]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A checkpoint of a run, or its stored predictions in the directory `path`, and a hash."""

    path: str
    step: int
    sha256: str

    def metadata(self) -> dict[str, object]:
        """Returns the entry of a manifest."""
        path = mirrors.url_of(self.path)
        return {ENTRY: {"path": path, "step": self.step, "sha256": self.sha256}}

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.path)

    def describe(self) -> str:
        """Returns "step 1,500 of /tmp/teacher"."""
        return f"step {self.step:,} of {escape(mirrors.url_of(self.path))}"

    def check_unchanged(self, manifest: Manifest, *, accept_changes: bool) -> None:
        """Raises InputError if a checkpoint of the student had another teacher."""
        saved = manifest.metadata.get(ENTRY)
        if not isinstance(saved, dict) or accept_changes or saved.get("sha256") == self.sha256:
            return
        raise InputError(
            f"ckpt-{manifest.step} learned from step {escape(str(saved.get('step')))} of "
            f"{escape(str(saved.get('path')))}, and the teacher is step {self.step} of "
            f"{self.path}: name that checkpoint with Distillation.checkpoint, or resume with "
            "--accept_changes"
        )

    def teach(self, student: Experiment, teacher: Experiment) -> None:
        """Lets the student's model learn from the teacher's; InputError if it reads other rows."""
        model, data = require_tokens(teacher, "the teacher"), student.data
        try:
            check_features(type(model), data)
            check_rows(model, data)
        except InputError as error:
            raise InputError(f"the teacher {self.path}: {error}") from error
        for name, vocabulary in data.vocabularies.items():
            of_teacher = teacher.data.vocabularies.get(name)
            if of_teacher is None or of_teacher.fingerprint != vocabulary.fingerprint:
                raise InputError(
                    f"the teacher {self.path} reads {name} of {of_teacher}, and its student "
                    f"of {vocabulary}: they need the same vocabulary"
                )
        for variable in model.named_variables().values():
            variable.freeze()
        distiller = require_tokens(student, "Training.distillation").distiller
        assert distiller is not None
        distiller.teach(model.hidden, model.softmax)


def find_teacher(path: str, checkpoint: int | str | None) -> Teacher:
    """Returns a checkpoint of a run, see `Distillation`; RunDirError if there is none."""
    directory, step = find_checkpoint(path)
    if directory is None:
        remedy = "name a run directory, or one of its checkpoints"
        if pathlib.Path(path, "config.json").is_file():
            remedy = (
                f"make a run of this folder with `mtfrun import --from={path} "
                "--model_dir=/tmp/teacher`, and name that"
            )
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
    return Teacher(run.path, manifest.step, digest)


def add_distiller(experiment: Experiment, settings: Distillation | None) -> Teacher | None:
    """Makes the model a student, with a projection if it needs one; the teacher is read later."""
    if settings is None:
        return None
    remedy = "set Training.distillation = @transformer.Distillation()"
    require(settings, Distillation, "Training.distillation", remedy)
    model = require_tokens(experiment, "Training.distillation")
    if settings.logits_path:
        model.learn_from(settings)
        return _stored_teacher(experiment, settings.logits_path, settings.temperature)
    if not settings.teacher_path:
        raise RunDirError(
            "a student needs a teacher: name its run with --gin.TEACHER=\"'/tmp/teacher'\" "
            "(Distillation.teacher_path)"
        )
    teacher, width = find_teacher(settings.teacher_path, settings.checkpoint), None
    if settings.hidden_weight:
        manifest = teacher.run.checkpoints().manifest(teacher.step)
        variables = {} if manifest is None else manifest.variables
        tables = [variables[path] for path in _OF_VECTORS if path in variables]
        if not tables:
            raise RunDirError(
                f"the teacher {teacher.path} has no {_OF_VECTORS[1]}, whose width its vectors "
                "have: leave out Distillation.hidden_weight"
            )
        width = tables[0].shape[-1]
    model.learn_from(settings, width)
    mtf.assign_paths(model)
    return teacher


def _stored_teacher(experiment: Experiment, path: str, temperature: float) -> Teacher:
    """Lets the rows of training have stored logits; InputError for another temperature."""
    stored = StoredLogits.open(path, experiment.data)
    if stored.manifest["temperature"] != temperature:
        raise InputError(
            f"the logits in {path} have the temperature {stored.manifest['temperature']}, and "
            f"Distillation.temperature is {temperature}: set the same"
        )
    experiment.stored_logits = stored
    return Teacher(path, stored.manifest[ENTRY]["step"], stored.manifest["sha256"])


def require_tokens(experiment: Experiment, who: str) -> TokenModel:
    """Returns the model of an experiment, a model of tokens; InputError for others."""
    remedy = "distillation is for @transformer.DecoderOnly, EncoderDecoder and EncoderOnly"
    return require(experiment.model, TokenModel, who, remedy)
