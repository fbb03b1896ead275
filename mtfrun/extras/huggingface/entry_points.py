"""The importers and exporters of Hugging Face, which import TensorFlow only when used."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from mtfrun.display.formats import parse_size
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment.conversion.exporter import ExportedRun
    from mtfrun.experiment.conversion.importer import Imported
    from mtfrun.rundir import RunDirectory


class HuggingFaceImporter:
    description = "a folder of Hugging Face (config.json, safetensors, perhaps a tokenizer)"
    needs_base = False

    def recognises(self, path: pathlib.Path) -> bool:
        from mtfrun.extras.huggingface.importer import is_folder
        from mtfrun.extras.huggingface.peft import is_peft

        return is_folder(path) and not is_peft(path)

    def read(self, path: pathlib.Path, **_: Any) -> Imported:
        from mtfrun.extras.huggingface.importer import read_folder

        return read_folder(path)


class PeftImporter:
    description = "a LoRA of PEFT (adapter_config.json), for the model of --base"
    needs_base = True

    def recognises(self, path: pathlib.Path) -> bool:
        from mtfrun.extras.huggingface.peft import is_peft

        return is_peft(path)

    def read(self, path: pathlib.Path, *, base: RunDirectory | None = None, **_: Any) -> Imported:
        from mtfrun.extras.huggingface.peft import read_peft

        assert base is not None
        return read_peft(path, base)


class SafetensorsExporter:
    description = "model.safetensors, all variables by their path, for any model"

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--max_shard_size",
            help="the size of the largest file of weights, such as 5GB or 200MB; 50GB by default, "
            "or the files that were imported",
            metavar="SIZE",
        )

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        from mtfrun.extras.huggingface.safetensors_file import shards_by_size, write_shards

        step, values = run.values()
        shards = shards_by_size(values, self.shard_size(flags))
        write_shards(directory, shards, {"format": "np", "global_step": str(step)})

    def shard_size(self, flags: argparse.Namespace) -> int | None:
        return None if flags.max_shard_size is None else parse_size(flags.max_shard_size)


class HuggingFaceExporter(SafetensorsExporter):
    description = (
        "a folder that transformers loads, with its tokenizer: for imported models, and for models "
        "of models/t5.1.0.gin, t5.1.1.gin, gpt2.gin and llama.gin that were trained here"
    )

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        super().add_flags(parser)
        parser.add_argument(
            "--weights_only",
            action="store_true",
            help="only the configuration and the weights, without a tokenizer, for a vocabulary "
            "that transformers cannot express",
        )

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        from mtfrun.extras.huggingface.export import export_folder, origin_of_run

        allowed = run.settings.allowed_imports
        origin = origin_of_run(run.config_run, allowed, weights_only=flags.weights_only)
        export_folder(directory, run.values().values, origin, self.shard_size(flags))


class PeftExporter:
    description = (
        "the LoRA of a run of adapters, or of --adapter, as a folder that PEFT loads for the model "
        "of --format=huggingface"
    )

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """PEFT has no flags."""

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        from mtfrun.experiment.conversion.importer import ConversionError
        from mtfrun.extras.huggingface.export import origin_of_run
        from mtfrun.extras.huggingface.peft import export_peft

        if not run.has_adapters:
            raise InputError(
                f"--format=peft writes LoRA, and {run.run.path} has none: name the run of an "
                "adapter with --adapter"
            )
        try:
            origin = origin_of_run(run.config_run, run.settings.allowed_imports, weights_only=True)
        except ConversionError as error:
            raise ConversionError(f"PEFT adapts models of transformers: {error}") from error
        experiment, _ = run.restore()
        export_peft(directory, experiment.model, origin)
