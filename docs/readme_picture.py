"""Draws docs/pictures/readme.png: a layout over a mesh, and the losses of a run.

mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run
python docs/readme_picture.py /tmp/run
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image

from mtfrun.display.pictures.canvas import (
    PALETTE,
    TEXT,
    as_pixels,
    draw_box,
    new_figure,
    pixel_axes,
    points,
)
from mtfrun.rundir.tensorboard.curves import read_curves

# The dimensions of the quickstart's model that the layout splits, with their sizes and axes.
SIZES = {"batch": 8, "heads": 4, "d_ff": 512, "vocab": 384}
LAYOUT = {"batch": "data", "heads": "model", "d_ff": "model", "vocab": "model"}
WIDTH, HEIGHT = 420, 260


def draw_layout() -> np.ndarray:
    """Returns what each device of the mesh data:2,model:2 holds as uint8 [height, width, 3]."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = pixel_axes(figure)

    def write(x: float, y: float, text: str, colour: str = TEXT, size: int = 12) -> None:
        axes.text(x, y, text, fontsize=points(size), color=colour)

    write(10, 22, "mesh    data:2,model:2")
    write(10, 42, "layout  batch:data;heads:model;d_ff:model;vocab:model")
    for row in range(2):
        write(10, 118 + 96 * row, f"data {row}")
        for column in range(2):
            if row == 0:
                write(128 + 178 * column, 64, f"model {column}")
            left, top = 70 + 178 * column, 72 + 96 * row
            draw_box(axes, (left, top, 164, 86), "#f3f6fa")
            for line, (dimension, axis) in enumerate(LAYOUT.items()):
                part = row if axis == "data" else column
                half = SIZES[dimension] // 2
                held = f"{dimension} {part * half} to {(part + 1) * half - 1}"
                colour = PALETTE[6] if axis == "data" else PALETTE[5]
                write(left + 10, top + 20 + 19 * line, held, colour, 13)
    return as_pixels(figure)


def draw_losses(run: pathlib.Path) -> np.ndarray:
    """Returns the losses of training and evaluation as uint8 [height, width, 3]."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.12, 0.17, 0.84, 0.7))
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
    return as_pixels(figure)


def main() -> None:
    """Writes the picture."""
    both = np.concatenate([draw_layout(), draw_losses(pathlib.Path(sys.argv[1]))], axis=1)
    target = pathlib.Path(__file__).parent / "pictures" / "readme.png"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(both).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
