from mtfrun.extras.datasets.libreoffice_help import LibreOfficeHelp as LibreOfficeHelp
from mtfrun.extras.datasets.wordnet import WordNetGlosses as WordNetGlosses
from mtfrun.extras.datasets.wordnet import wordnet_classes as wordnet_classes
