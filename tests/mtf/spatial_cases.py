"""Calls of convolutions, pooling and normalisation; see op_cases.py.

The layouts split the batch `a`, the channels `b` and `c`, spatial dimensions and blocks of them, so
that every form of these operations runs: fused, composed, with halos.
"""

from __future__ import annotations

from mtfrun import mtf
from tests.mtf.op_cases import DATA_MODEL, OpCase

IN_TO_OUT, OUT_TO_IN = "b:8;c:8", "c:8;b:8"
BLOCKS = "block:8"

CONVOLUTIONS = [
    OpCase(
        "conv1d",
        lambda x, f: mtf.conv1d(x, f),
        ("a:8;l:8;b:8", f"fl:3;{IN_TO_OUT}"),
        ("a:data", "a:data;b:model", "l:model"),
    ),
    OpCase(
        "conv2d",
        lambda x, f: mtf.conv2d(x, f, (1, 2)),
        ("a:8;h:8;w:4;b:8", f"fh:2;fw:2;{IN_TO_OUT}"),
        ("a:data", "a:data;c:model", "h:data"),
    ),
    OpCase(
        "conv2d_with_blocks",
        lambda x, f: mtf.conv2d_with_blocks(x, f, h_blocks_dim=BLOCKS),
        (f"a:8;{BLOCKS};h:2;w:2;b:8", f"fh:3;fw:1;{IN_TO_OUT}"),
        ("block:data", "a:data;block:model"),
    ),
    OpCase(
        "conv3d",
        lambda x, f: mtf.conv3d(x, f),
        ("a:8;d:2;h:2;w:2;b:8", f"fd:2;fh:1;fw:2;{IN_TO_OUT}"),
        ("a:data", "a:data;b:model"),
    ),
    OpCase(
        "conv3d_with_blocks",
        lambda x, f: mtf.conv3d_with_blocks(x, f, d_blocks_dim=BLOCKS),
        (f"a:8;{BLOCKS};d:2;h:1;w:2;b:8", f"fd:3;fh:1;fw:1;{IN_TO_OUT}"),
        ("block:data",),
    ),
    OpCase(
        "conv2d_transpose",
        lambda x, f: mtf.conv2d_transpose(x, f),
        ("a:8;h:2;w:2;b:8", f"fh:2;fw:2;{OUT_TO_IN}"),
        ("a:data", "a:data;b:model"),
    ),
    OpCase(
        "conv2d_transpose_with_blocks",
        lambda x, f: mtf.conv2d_transpose_with_blocks(x, f, h_blocks_dim=BLOCKS),
        (f"a:8;{BLOCKS};h:2;w:1;b:8", f"fh:3;fw:2;{OUT_TO_IN}"),
        ("block:data",),
    ),
    OpCase(
        "conv3d_transpose",
        lambda x, f: mtf.conv3d_transpose(x, f),
        ("a:8;d:2;h:1;w:1;b:8", f"fd:2;fh:2;fw:2;{OUT_TO_IN}"),
        ("a:data", "a:data;c:model"),
    ),
    OpCase(
        "conv3d_transpose_with_blocks",
        lambda x, f: mtf.conv3d_transpose_with_blocks(x, f, (2, 1, 1), d_blocks_dim=BLOCKS),
        (f"a:8;{BLOCKS};d:2;h:1;w:1;b:8", f"fd:3;fh:1;fw:1;{OUT_TO_IN}"),
        ("block:data",),
    ),
    OpCase(
        "depthwise_conv1d",
        lambda x, f: mtf.depthwise_conv1d(x, f, "l:8", -2),
        ("a:8;l:8;b:8", "fl:3;b:8"),
        (DATA_MODEL, "l:data;b:model"),
    ),
    OpCase(
        "depthwise_conv2d",
        lambda x, f: mtf.depthwise_conv2d(x, f),
        ("a:8;h:8;w:4;b:8", "fh:3;fw:2;b:8"),
        ("a:data", DATA_MODEL, "h:data", "a:data;h:model"),
    ),
    OpCase(
        "depthwise_conv2d_with_blocks",
        lambda x, f: mtf.depthwise_conv2d(x, f, h_blocks_dim=BLOCKS),
        (f"a:8;{BLOCKS};h:2;w:2;b:8", "fh:3;fw:1;b:8"),
        ("block:data", "a:data;block:model"),
    ),
]

POOLING = [
    OpCase(
        "pool_and_stride",
        lambda x: [
            mtf.pool_tensor_1d(x, "b:16"),
            mtf.pool_tensor_1d(x, "b:16", mtf.reduce_max),
            mtf.stride_tensor_1d(x, "b:16"),
        ],
        ("a:8;b:16",),
    ),
    OpCase(
        "average_pooling",
        lambda x: [mtf.avg_pool2d(x), mtf.avg_pool2d(x, (1, 3)), mtf.avg_pool3d(x, (2, 1, 3))],
        ("a:8;b:8;rows:4;columns:6;c:8",),
        (DATA_MODEL, "a:data;c:model"),
    ),
    OpCase(
        "max_pooling",
        lambda x: [mtf.max_pool2d(x), mtf.max_pool3d(x)],
        ("a:8;b:2;rows:16;columns:4;c:8",),
        ("a:data", "a:data;c:model", "rows:data"),
    ),
    OpCase(
        "max_pool2d_with_blocks",
        lambda x: mtf.max_pool2d_with_blocks(x, (3, 2), (1, 2), "SAME", BLOCKS),
        (f"a:8;{BLOCKS};h:2;w:4;b:8",),
        ("block:data", "a:data;block:model"),
    ),
]

NORMALIZATION = [
    OpCase(
        "batch_normalize",
        lambda x, scale, bias: list(mtf.batch_normalize(x, scale, bias)),
        ("a:8;l:2;b:8", "positive b:8", "b:8"),
    ),
    OpCase(
        "batch_normalize_with_the_features_first",
        lambda x, scale, bias: list(mtf.batch_normalize(x, scale, bias)),
        ("b:8;a:8", "positive b:8", "b:8"),
    ),
]

CASES = [*CONVOLUTIONS, *POOLING, *NORMALIZATION]
