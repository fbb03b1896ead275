"""What is about runs and no part of running one: the other packages never import it."""

from mtfrun.tools.export_best import ExportBest as ExportBest
