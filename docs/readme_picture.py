"""Draws docs/pictures/readme.png: a layout over a mesh, and the losses of a run.

mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run
python docs/readme_picture.py /tmp/run
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image

from mtfrun.display.pictures.canvas import PALETTE, TEXT, Canvas, points
from mtfrun.metrics.curves import read_curves

# The dimensions of the quickstart's model that the layout splits, with their sizes and axes.
SIZES = {"batch": 16, "heads": 4, "d_ff": 304, "vocab": 384}
LAYOUT = {"batch": "data", "heads": "model", "d_ff": "model", "vocab": "model"}
WIDTH, HEIGHT = 420, 260


def draw_layout() -> np.ndarray:
    """Returns what each device of the mesh data:2,model:2 holds as uint8 [height, width, 3]."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(10, 22, "mesh    data:2,model:2")
    canvas.text(10, 42, "layout  batch:data;heads:model;d_ff:model;vocab:model")
    for row in range(2):
        canvas.text(10, 118 + 96 * row, f"data {row}")
        for column in range(2):
            if row == 0:
                canvas.text(128 + 178 * column, 64, f"model {column}")
            left, top = 70 + 178 * column, 72 + 96 * row
            canvas.box(left, top, 164, 86, "#f3f6fa")
            for line, (dimension, axis) in enumerate(LAYOUT.items()):
                part = row if axis == "data" else column
                half = SIZES[dimension] // 2
                held = f"{dimension} {part * half} to {(part + 1) * half - 1}"
                colour = PALETTE[6] if axis == "data" else PALETTE[5]
                canvas.text(left + 10, top + 20 + 19 * line, held, 13, colour=colour)
    return canvas.pixels()


def draw_losses(run: pathlib.Path) -> np.ndarray:
    """Returns the losses of training and evaluation as uint8 [height, width, 3]."""
    canvas = Canvas(WIDTH, HEIGHT)
    axes = canvas.figure.add_axes((0.12, 0.17, 0.84, 0.7))
    for colour, (folder, label) in zip(
        (PALETTE[1], PALETTE[6]), (("train", "training"), ("eval", "held-out text")), strict=True
    ):
        curve = read_curves(run / folder)["loss"]
        steps = [step for step in curve if step > 0]
        values = [curve[step] for step in steps]
        style = "o" if folder == "eval" else "-"
        axes.plot(steps, values, style, color=colour, label=label)
    axes.set_title("runs/quickstart.gin: loss, nats per byte", fontsize=points(13), color=TEXT)
    axes.set_xlabel("steps", fontsize=points(12), color=TEXT)
    axes.set_ylim(1.0, 3.5)
    axes.tick_params(labelsize=points(11), colors=TEXT)
    axes.legend(fontsize=points(12), frameon=False)
    return canvas.pixels()


def main() -> None:
    """Writes the picture."""
    both = np.concatenate([draw_layout(), draw_losses(pathlib.Path(sys.argv[1]))], axis=1)
    target = pathlib.Path(__file__).parent / "pictures" / "readme.png"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(both).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
