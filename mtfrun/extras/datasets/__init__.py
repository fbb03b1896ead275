from mtfrun.extras.datasets.debian_packages import LibreOfficeHelp as LibreOfficeHelp
from mtfrun.extras.datasets.debian_packages import WordNetGlosses as WordNetGlosses
from mtfrun.extras.datasets.debian_packages import wordnet_classes as wordnet_classes
