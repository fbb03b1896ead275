"""Models of other programs: runs made of them, and files for other programs made of runs.

An `Importer` reads a path and returns `Imported`, of which `import_run.write_run` makes a run
directory: `config.gin` (see `GinFile`), a checkpoint and `import.json`. An `Exporter` writes an
`ExportedRun`.
"""

from mtfrun.configuration.gin_writer import GinFile as GinFile
from mtfrun.experiment.conversion.exporter import ExportedRun as ExportedRun
from mtfrun.experiment.conversion.exporter import Exporter as Exporter
from mtfrun.experiment.conversion.exporter import RunValues as RunValues
from mtfrun.experiment.conversion.exporter import values_of_run as values_of_run
from mtfrun.experiment.conversion.importer import ConversionError as ConversionError
from mtfrun.experiment.conversion.importer import Imported as Imported
from mtfrun.experiment.conversion.importer import Importer as Importer
from mtfrun.experiment.conversion.importer import write_run as write_run
