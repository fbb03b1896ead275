"""Draws docs/pictures/readme.png: a layout over a mesh, and the losses of a run.

mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run
python docs/readme_picture.py /tmp/run
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image

from mtfrun.display.pictures.canvas import PALETTE, TEXT, as_pixels, new_figure, points
from mtfrun.display.pictures.mesh_devices import mesh_devices
from mtfrun.rundir.written_curves import read_curves

MESH = {"data": 2, "model": 2}
LAYOUT = {"batch": "data", "heads": "model", "d_ff": "model", "vocab": "model"}
WIDTH, HEIGHT = 420, 260


def draw_losses(run: pathlib.Path) -> np.ndarray:
    """Returns the losses of training and evaluation as uint8 [height, width, 3]."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.12, 0.17, 0.84, 0.7))
    for colour, (folder, label) in zip(
        (PALETTE[1], PALETTE[6]), (("train", "training"), ("eval", "held-out text")), strict=True
    ):
        curve = read_curves(run / folder)["loss"]
        marker = "o" if folder == "eval" else ""
        axes.plot(list(curve), list(curve.values()), color=colour, label=label, marker=marker, ms=4)
    axes.set_title("bin/quickstart: loss, nats per byte", fontsize=points(13), color=TEXT)
    axes.set_xlabel("steps", fontsize=points(12), color=TEXT)
    axes.set_ylim(1.0, 3.5)
    axes.tick_params(labelsize=points(11), colors=TEXT)
    axes.legend(fontsize=points(12), frameon=False)
    return as_pixels(figure)


def main() -> None:
    """Writes the picture."""
    title = "batch:data;heads:model;d_ff:model;vocab:model"
    mesh = as_pixels(mesh_devices(MESH, LAYOUT, title=title, width=WIDTH))
    losses = draw_losses(pathlib.Path(sys.argv[1]))
    height = max(len(mesh), len(losses))
    both = [
        np.pad(half, ((0, height - len(half)), (0, 0), (0, 0)), constant_values=255)
        for half in (mesh, losses)
    ]
    target = pathlib.Path(__file__).parent / "pictures" / "readme.png"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(both, axis=1)).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
