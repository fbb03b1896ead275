"""Pictures, drawn by matplotlib, which is imported when the first one is drawn."""

from mtfrun.display.pictures.canvas import Canvas as Canvas
from mtfrun.display.pictures.canvas import layer_name as layer_name
from mtfrun.display.pictures.canvas import layer_names as layer_names
from mtfrun.display.pictures.evaluation import LabelledImage as LabelledImage
from mtfrun.display.pictures.evaluation import confusion_matrix as confusion_matrix
from mtfrun.display.pictures.evaluation import expert_loads as expert_loads
from mtfrun.display.pictures.evaluation import image_grid as image_grid
from mtfrun.display.pictures.mesh_devices import DeviceBar as DeviceBar
from mtfrun.display.pictures.mesh_devices import mesh_devices as mesh_devices
