"""Pictures for TensorBoard, drawn by matplotlib, which is imported when the first one is drawn."""

from mtfrun.pictures.attention_maps import attention_maps
from mtfrun.pictures.canvas import as_pixels, as_svg
from mtfrun.pictures.confusion_matrix import confusion_matrix
from mtfrun.pictures.expert_loads import expert_loads
from mtfrun.pictures.labelled_images import LabelledImage, image_grid
from mtfrun.pictures.layer_names import layer_name, layer_names
from mtfrun.pictures.mesh_devices import MOST_DEVICES, DeviceBar, mesh_devices
from mtfrun.pictures.token_experts import token_experts
from mtfrun.pictures.tokens import visible

__all__ = [
    "MOST_DEVICES",
    "DeviceBar",
    "LabelledImage",
    "as_pixels",
    "as_svg",
    "attention_maps",
    "confusion_matrix",
    "expert_loads",
    "image_grid",
    "layer_name",
    "layer_names",
    "mesh_devices",
    "token_experts",
    "visible",
]
