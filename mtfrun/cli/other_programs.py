"""Answers to flags of other programs, unless mtfrun takes them too (command.py)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mtfrun.configuration.files import find_gin_file, shipped_files_with
from mtfrun.configuration.gin_syntax import gin_flag
from mtfrun.errors import did_you_mean, shorten

# The commands that do what T5's --mode and T5X's --run_mode say.
_RUN_MODES = {
    **{mode: mode for mode in ("train", "eval", "score", "export")},
    **dict.fromkeys(("perplexity_eval", "eval_mode", "evaluate"), "eval"),
    **dict.fromkeys(("infer", "inference", "predict", "decode"), "decode"),
    "score_eval": "score",
    "precompile": "train --dry_run",
    "cache": "data cache",
}

# Our flag for flags of other programs with the same meaning.
_SAME = {
    **dict.fromkeys(
        ("output_dir", "out_dir", "logdir", "log_dir", "save_dir", "run_dir", "checkpoint_dir"),
        "model_dir",
    ),
    **dict.fromkeys(("config", "config_file", "gin", "gin_config", "cfg", "preset"), "gin_file"),
    **dict.fromkeys(("checkpoint_steps", "checkpoint_step", "step", "ckpt"), "checkpoint"),
    **dict.fromkeys(("input_file", "prompts_file", "prompts", "inputs"), "input"),
    **dict.fromkeys(("output_file", "outputs"), "output"),
    "coordinator_address": "coordinator",
    "process_count": "num_processes",
    "process_index": "process_id",
}

# Our macro for flags of other programs with the same meaning.
_MACROS = {
    **dict.fromkeys(("steps", "max_steps", "num_steps", "num_train_steps"), "TRAIN_STEPS"),
    **dict.fromkeys(("epochs", "num_epochs"), "TRAIN_STEPS"),
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), "LEARNING_RATE"),
    **dict.fromkeys(("layers", "n_layer", "n_layers"), "NUM_LAYERS"),
    **dict.fromkeys(("heads", "n_head", "n_heads"), "NUM_HEADS"),
    **dict.fromkeys(("seq_len", "seq_length", "max_length", "block_size"), "SEQUENCE_LENGTH"),
    **dict.fromkeys(("mesh", "devices", "num_gpus", "gpus"), "MESH_SHAPE"),
    **dict.fromkeys(("dtype", "precision"), "ACTIVATION_DTYPE"),
    **dict.fromkeys(
        ("pretrained_model_dir", "initial_checkpoint_path", "finetune_from"), "INIT_CHECKPOINT"
    ),
    "dropout": "DROPOUT_RATE",
    "random_seed": "SEED",
    "split": "EVAL_SPLIT",
}

_DEVICES = (
    "leave it out: a run uses the devices of this machine, as many as its mesh has: "
    "--gin.MESH_SHAPE=\"'data:2,model:2'\""
)
_CACHES = "caches of data are in $MTFRUN_CACHE_DIR: set this variable"
_ANSWERS = {
    **dict.fromkeys(
        ("tpu", "tpu_zone", "tpu_job_name", "gcp_project", "use_model_api", "multiprocess_gpu"),
        _DEVICES,
    ),
    **dict.fromkeys(("seqio_additional_cache_dirs", "additional_task_cache_dirs"), _CACHES),
    **dict.fromkeys(
        ("resume", "resume_from_checkpoint", "continue"),
        "leave it out: train resumes from the newest checkpoint in --model_dir",
    ),
    "model": "a model is a gin file: --gin_file=models/lm_small.gin; see mtfrun config list",
    "optimizer": 'write --gin_param="Training.optimizer = @optim.Adam()"',
    **dict.fromkeys(
        ("dataset", "data", "task", "mixture", "mixture_or_task_name"),
        "data are a gin file: --gin_file=data/text_files.gin; see mtfrun config list",
    ),
    **dict.fromkeys(("overwrite", "overwrite_output_dir", "force"), "train has --restart"),
    **dict.fromkeys(("verbose", "v", "alsologtostderr", "logtostderr"), "write --debug"),
}


def run_mode_answer(arguments: Sequence[str], commands: Collection[str]) -> str | None:
    """Names the command that --run_mode=train means."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in ("--run_mode", "--mode"):
            continue
        rest = [*arguments[:position], *arguments[position + 1 :]]
        if not equals:
            value = rest.pop(position) if position < len(rest) else ""
        mode = value.strip("'\"").lower()
        command = _RUN_MODES.get(mode)
        if command is None:
            return f"{name}={value}: the command says what to do: {', '.join(commands)}"
        flags = shorten(shlex.join(rest[1:] if rest and rest[0] in commands else rest), 200)
        return f"{name}={value}: the command says so instead: mtfrun {command} {flags}".rstrip()
    return None


def word_answer(word: str) -> str | None:
    if word.endswith(".gin") or find_gin_file(word) is not None:
        return f"{word} is a gin file: write --gin_file={shlex.quote(word)}"
    name, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[A-Za-z_][\w./]*", name):
        return f"{word} is a setting: write {gin_flag(name, value) or f'--gin.{name}=...'}"
    if "/" in word or Path(word).is_dir():
        return f"{word} is a directory: write --model_dir={shlex.quote(word)}"
    return None


def unknown_answer(
    unknown: Sequence[str], command: str, flags_of: Mapping[str, Collection[str]]
) -> str:
    first = unknown[0]
    if not first.startswith("-"):
        if "--prompt" in flags_of[command] and not Path(first).exists():
            return f"{command} takes no words: write --prompt={shlex.quote(first)}"
        return word_answer(first) or f"{command} takes no words such as {first!r}, only flags"
    flag, equals, value = first.partition("=")
    if not equals and len(unknown) > 1 and not unknown[1].startswith("--"):
        value = unknown[1]
    return f"no flag {flag}{_remedy(flag, value, command, flags_of)}"


def _remedy(flag: str, value: str, command: str, flags_of: Mapping[str, Collection[str]]) -> str:
    name = flag.lstrip("-").replace("-", "_").lower()
    of_command = flags_of[command]
    if f"--{name}" in of_command:
        return f"; write --{name}"
    if name in _SAME and f"--{_SAME[name]}" in of_command:
        return f"; write --{_SAME[name]}={shlex.quote(value) or '...'}"
    is_configured = "--gin_file" in of_command
    macro = _MACROS.get(name, name.upper())
    if is_configured and shipped_files_with(macro):
        if name.endswith("epochs"):
            return f"; the length of a training is a number of steps: --gin.{macro}=1000"
        setting = gin_flag(macro, value) if value else None
        return f"; it is a macro of the configuration: {setting or f'--gin.{macro}=...'}"
    if name in _ANSWERS:
        return f"; {_ANSWERS[name]}"
    hint = did_you_mean(flag, of_command)
    having = [other for other, flags in flags_of.items() if flag in flags]
    if not hint and having:
        return f"; {', '.join(having)} {'has' if len(having) == 1 else 'have'} it"
    return hint or f"; mtfrun {command} --help lists its flags"
