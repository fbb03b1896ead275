"""Pictures, drawn by matplotlib, which is imported when the first one is drawn."""

from mtfrun.display.pictures.attention_maps import attention_maps as attention_maps
from mtfrun.display.pictures.canvas import Canvas as Canvas
from mtfrun.display.pictures.canvas import layer_name as layer_name
from mtfrun.display.pictures.canvas import layer_names as layer_names
from mtfrun.display.pictures.classification import LabelledImage as LabelledImage
from mtfrun.display.pictures.classification import confusion_matrix as confusion_matrix
from mtfrun.display.pictures.classification import image_grid as image_grid
from mtfrun.display.pictures.experts import expert_loads as expert_loads
from mtfrun.display.pictures.experts import token_experts as token_experts
from mtfrun.display.pictures.mesh_devices import MOST_DEVICES as MOST_DEVICES
from mtfrun.display.pictures.mesh_devices import DeviceBar as DeviceBar
from mtfrun.display.pictures.mesh_devices import mesh_devices as mesh_devices
from mtfrun.display.pictures.segmentation import SegmentedImage as SegmentedImage
from mtfrun.display.pictures.segmentation import class_colours as class_colours
from mtfrun.display.pictures.segmentation import segmented_images as segmented_images
from mtfrun.display.pictures.sweeps import SettingCurve as SettingCurve
from mtfrun.display.pictures.sweeps import SizeCurve as SizeCurve
from mtfrun.display.pictures.sweeps import scaling_curves as scaling_curves
from mtfrun.display.pictures.sweeps import setting_curves as setting_curves
from mtfrun.display.pictures.tiles import tile_images as tile_images
