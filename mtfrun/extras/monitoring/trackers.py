from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import re
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

from mtfrun.configuration.run_files import CONFIG
from mtfrun.display import progress
from mtfrun.errors import InputError, install_command, shorten
from mtfrun.errors.untrusted import escape, read_json
from mtfrun.errors.url_secrets import mask_parts
from mtfrun.files import Worker, atomic_write, reveal_url
from mtfrun.rundir import RunDirectory, Status
from mtfrun.rundir.run_record import numbers_as_json
from mtfrun.rundir.run_summary import summary_of
from mtfrun.training import Hook, ScalarRecord

# In a run directory: the id of the run at every service.
_IDS = "trackers.json"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ids_lock = threading.Lock()
_FILES = (CONFIG, "operative_config.gin", "train.log")

# MLflow's limits, https://mlflow.org/docs/latest/rest-api.html#request-limits.
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000
_OUTSIDE_NAMES = re.compile(r"[^\w\-. :/]")
_STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# Records that wait for a service. Later ones mean that it is slower than the training.
_MOST_WAITING = 10_000
_MOST_CHARACTERS = 200


class Tracker(Hook, abc.ABC):
    """Takes the curves of a training to an experiment tracker.

    `log` and `close` are called in a thread of the first process. Training never waits for the
    service before its end, and then `close_secs`. An error of either method ends the tracker with a
    warning; training goes on.
    """

    close_secs: float = 300.0
    _worker: Worker[ScalarRecord] | None = None
    _error = ""
    _is_over = False

    @abc.abstractmethod
    def log(self, record: ScalarRecord) -> None:
        """Takes the points of the curves at a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called at the end, also after an error of `log`; never without a call of `log`."""

    def after_scalars(self, record: ScalarRecord) -> None:
        if self._worker is None:
            self._error, self._is_over = "", False
            worker: Worker[ScalarRecord] = Worker(lambda: self._work(worker), "tracker")
            self._worker = worker
        if len(self._worker.waiting) >= _MOST_WAITING:
            self._error = self._error or f"{_MOST_WAITING:,} records are waiting for it"
        self._warn()
        if not self._is_over:
            self._worker.put(record)

    def end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            if not worker.stop(self.close_secs) and not self._error:
                self._error = f"it has not taken everything in {self.close_secs:.0f} seconds"
            self._warn()

    def _warn(self) -> None:
        """Prints the error in the thread of the training, so that lines do not mix."""
        if self._error and not self._is_over:
            self._is_over = True
            line = f"{type(self).__name__} gets no more records of this training"
            progress.note(progress.warning(f"{line}: {self._error}"))

    def _work(self, worker: Worker[ScalarRecord]) -> None:
        def log_all() -> None:
            while (record := worker.take()) is not None and not self._is_over:
                self.log(record)

        for work in (log_all, self.close):
            try:
                work()
            except Exception as error:
                line = escape(" ".join(f"{type(error).__name__}: {error}".split()))
                self._error = self._error or shorten(line, _MOST_CHARACTERS)


@dataclasses.dataclass(eq=False)
class MLflow(Tracker):
    """Takes a training to MLflow: its curves, settings, files, a table and its report.

    A resumed run continues its run there. Settings are parameters, which MLflow never changes: a
    later value is a tag. The table has the evaluations. The extra "report" adds the report.

        training.TrainOptions.hooks = [@trackers.MLflow()]
        trackers.MLflow.uri = "http://127.0.0.1:5000"

    Attributes:
      uri: URI of the server, or of a database such as "sqlite:////tmp/mlflow.db", which needs no
        server; None for the variable MLFLOW_TRACKING_URI, or MLflow's default.
      experiment: the experiment's name at MLflow.
      name: the run's name; None for the name of its directory.
    """

    uri: str | None = None
    experiment: str = "mtfrun"
    name: str | None = None

    def __post_init__(self) -> None:
        _require("mlflow", "mlflow-skinny", "MLflow")
        self._client: Any = None
        self._run: RunDirectory
        self._id: str

    def log(self, record: ScalarRecord) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - takes seconds

        with _masked_errors(self.uri):
            if self._client is None:
                self._open(record)
            now = int(1000 * time.time())
            values = record.values.items()
            metrics = [Metric(_name(n), value, now, record.step) for n, value in values]
            for start in range(0, len(metrics), _MOST_METRICS):
                self._client.log_batch(self._id, metrics=metrics[start : start + _MOST_METRICS])

    def close(self) -> None:
        if self._client is None:
            return
        columns, rows = _evaluations(self._run)
        with _masked_errors(self.uri):
            self._client.log_dict(self._id, {"columns": columns, "data": rows}, "evaluations.json")
            if report := _report(self._run):
                self._client.log_text(self._id, report, "report.html")
            self._log_files()
            status = self._run.record().status()
            state = _STATES.get(status.state if status else "", "FAILED")
            self._client.set_terminated(self._id, state)

    def _open(self, record: ScalarRecord) -> None:
        import mlflow  # noqa: PLC0415 - an extra

        self._run = record.run
        client = mlflow.MlflowClient(tracking_uri=self.uri and reveal_url(self.uri))
        service = f"mlflow {self.experiment}"
        self._id = _saved_id(record, service) or ""
        try:
            client.update_run(self._id, status="RUNNING") if self._id else None
        except mlflow.MlflowException:  # it was deleted, or the server is another one
            self._id = ""
        if not self._id:
            name = self.name or pathlib.Path(self._run.path).name
            with contextlib.suppress(mlflow.MlflowException):  # it exists
                client.create_experiment(self.experiment)
            experiment: Any = client.get_experiment_by_name(self.experiment)
            self._id = client.create_run(experiment.experiment_id, run_name=name).info.run_id
            _save_id(self._run, service, self._id)
        self._client = client
        self._log_settings()
        self._log_files()

    def _log_settings(self) -> None:
        from mlflow.entities import Param, RunTag  # noqa: PLC0415 - an extra

        known = self._client.get_run(self._id).data.params
        settings = {_name(n): shorten(v, _LONGEST_VALUE) for n, v in _settings(self._run).items()}
        new = [Param(name, value) for name, value in settings.items() if name not in known]
        tags = [RunTag(n, v) for n, v in settings.items() if known.get(n, v) != v]
        for start in range(0, max(len(new), len(tags)), _MOST_PARAMETERS):
            end = start + _MOST_PARAMETERS
            self._client.log_batch(self._id, params=new[start:end], tags=tags[start:end])

    def _log_files(self) -> None:
        for path in _files(self._run):
            self._client.log_artifact(self._id, str(path))


@dataclasses.dataclass(eq=False)
class WeightsAndBiases(Tracker):
    """Takes a training to Weights & Biases: its curves, settings, files, a table and its report.

    A resumed run continues its run there. `step` is the axis of the charts. W&B's files are in the
    directory `wandb` of the run.

        training.TrainOptions.hooks = [@trackers.WeightsAndBiases()]
        trackers.WeightsAndBiases.project = "translation"

    Attributes:
      project, entity: names at W&B; the entity is a user or a team.
      name: the run's name; None for the name of its directory.
      mode: "online" or "offline", for `wandb sync` later; None for the variable WANDB_MODE.
    """

    project: str = "mtfrun"
    entity: str | None = None
    name: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _require("wandb", "wandb", "WeightsAndBiases")
        self._wandb_run: Any = None
        self._run: RunDirectory

    def log(self, record: ScalarRecord) -> None:
        if self._wandb_run is None:
            self._open(record)
        self._wandb_run.log({**record.values, "step": record.step})

    def close(self) -> None:
        if self._wandb_run is None:
            return
        import wandb  # noqa: PLC0415 - an extra

        columns, rows = _evaluations(self._run)
        self._wandb_run.log({"evaluations": wandb.Table(columns=columns, data=rows)})
        if report := _report(self._run):
            self._wandb_run.log({"report": wandb.Html(report, inject=False)})
        self._save_files()
        status = self._run.record().status()
        is_failed = status is None or status.state == "failed"
        self._wandb_run.finish(exit_code=int(is_failed))

    def _open(self, record: ScalarRecord) -> None:
        import wandb  # noqa: PLC0415 - an extra, takes seconds

        self._run = record.run
        # Its lines would cut the progress; git runs programs that its configuration names.
        settings = wandb.Settings(console="off", silent=True, disable_git=True)
        wandb.setup(settings)
        service = f"wandb {self.entity or ''}/{self.project}"
        run_id = _saved_id(record, service) or secrets.token_hex(8)
        self._wandb_run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or pathlib.Path(self._run.path).name,
            mode=cast(Any, self.mode),
            id=run_id,
            resume="allow",
            reinit="create_new",  # of each training of a program in Python
            dir=self._run.path,
            settings=settings,
        )
        _save_id(self._run, service, run_id)
        self._wandb_run.config.update(_settings(self._run), allow_val_change=True)
        # W&B drops steps below the newest, which a resumed run repeats: hence another axis.
        self._wandb_run.define_metric("step")
        self._wandb_run.define_metric("*", step_metric="step")
        self._save_files()

    def _save_files(self) -> None:
        for path in _files(self._run):
            self._wandb_run.save(str(path), base_path=self._run.path, policy="now")


@contextlib.contextmanager
def _masked_errors(uri: str | None) -> Iterator[None]:
    """Masks the password of a server in its answers, which may repeat what they refuse."""
    import mlflow  # noqa: PLC0415 - an extra

    try:
        yield
    except mlflow.MlflowException as error:
        url = reveal_url(uri) if uri else mlflow.get_tracking_uri()
        raise mlflow.MlflowException(mask_parts(str(error), url)) from None


def _require(module: str, package: str, user: str) -> None:
    """Looks for an extra without importing it, before anything is trained."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{user} needs the package {package}: {install_command(package)}")


def _name(name: str) -> str:
    """Returns a name that MLflow takes for a metric or a parameter.

    >>> _name("eval/tasks/50% off/loss")
    'eval/tasks/50_ off/loss'
    """
    parts = _OUTSIDE_NAMES.sub("_", name).split("/")
    return shorten("/".join(p for p in parts if p not in ("", ".", "..")), _LONGEST_NAME)


def _saved_id(record: ScalarRecord, service: str) -> str | None:
    """Returns the id of a resumed run at a service, if it has one."""
    identity = _read_ids(record.run).get(service) if record.resumed_step else None
    return identity if isinstance(identity, str) and _ID.fullmatch(identity) else None


def _save_id(run: RunDirectory, service: str, identity: str) -> None:
    with _ids_lock:  # every tracker has a thread
        text = json.dumps({**_read_ids(run), service: identity}, indent=1)
        atomic_write(pathlib.Path(run.path, _IDS), f"{text}\n")


def _read_ids(run: RunDirectory) -> dict[str, Any]:
    try:
        ids = read_json(pathlib.Path(run.path, _IDS))
    except (OSError, ValueError):
        return {}
    return ids if isinstance(ids, dict) else {}


def _settings(run: RunDirectory) -> dict[str, str]:
    return dict(summary_of(pathlib.Path(run.path), "").config)


def _files(run: RunDirectory) -> list[pathlib.Path]:
    return [path for name in _FILES if (path := pathlib.Path(run.path, name)).is_file()]


def _evaluations(run: RunDirectory) -> tuple[list[str], list[list[float | None]]]:
    """Returns the columns and rows of a table, null where a metric is missing or not finite."""
    evaluations = run.record().evaluations()
    names = list(dict.fromkeys(name for e in evaluations for name in e.metrics))
    rows: list[list[float | None]] = []
    for step, metrics in evaluations:
        values = numbers_as_json(metrics)
        rows.append([step, *(values.get(name) for name in names)])
    return ["step", *names], rows


def _report(run: RunDirectory) -> str | None:
    """Returns the page of `mtfrun report`, without examples of the data; None without Bokeh."""
    if importlib.util.find_spec("bokeh") is None:
        return None
    from mtfrun.extras.report.page import render  # noqa: PLC0415 - an extra
    from mtfrun.extras.report.run_page import report_of  # noqa: PLC0415 - for a report alone

    report = report_of([pathlib.Path(run.path)], 0)
    (facts,) = report.runs
    # The lock of the run is still held, so that it looks as if it was running.
    status: Status | None = run.record().status()
    state = "killed" if status is None or status.state == "running" else status.state
    summary = dataclasses.replace(facts.summary, state=state)
    return render(dataclasses.replace(report, runs=[dataclasses.replace(facts, summary=summary)]))
