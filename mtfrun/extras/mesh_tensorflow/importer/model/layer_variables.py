from __future__ import annotations

_SEPARABLE = "separable_conv1d"
_NORM = [
    (rf"norm/{part}", f"layer_prepostprocess/layer_norm/layer_norm_{part}")
    for part in ("scale", "bias")
]


def _separable(ours: str, theirs: str) -> list[tuple[str, str]]:
    depthwise = f"{theirs}/{_SEPARABLE}/depthwise_conv_hack/depthwise_dense_0"
    return [
        (rf"{ours}/filters/taps/\d+", f"{depthwise}/kernel"),
        (f"{ours}/bias", f"{depthwise}/bias"),
        *(
            (f"{ours}/pointwise/{part}", f"{theirs}/{_SEPARABLE}/pointwise_dense/{part}")
            for part in ("kernel", "bias")
        ),
    ]


OF_LAYERS = [
    *(
        (
            rf"/product_key_memory\w*/layer/{ours}$",
            f"ProductKeyValueMemory/{theirs}",
            "zoo.ProductKeyMemory",
        )
        for ours, theirs in (
            *((name, name) for name in ("keys", "values", "query/kernel", "query/bias")),
            *_NORM,
        )
    ),
    ("mixture_of_outputs$", "TransparentEncDecAttention/w", "zoo.TransparentDecoder"),
    (r"/convolution\w*/layer/kernel$", "Conv1DLayer/conv2d/kernel", "zoo.Convolution"),
    (
        r"filters/taps/\d+$",
        f"SeparableConv1DLayer/{_SEPARABLE}/depthwise_conv_hack/depthwise_dense_0/kernel",
        "zoo.TrainedFilters",
    ),
    (
        r"filters/taps/\d+$",
        "LightweightConv1DLocalAttn/lightwt_depthwise_dense_0/kernel",
        "zoo.LightweightFilters",
    ),
    *(
        (
            rf"filters/taps/\d+/{part}$",
            f"DynamicConv1DLocalAttn/dyn_conv_depthwise_dense_0/{part}",
            "zoo.DynamicFilters",
        )
        for part in ("kernel", "bias")
    ),
    (
        r"convolution\w*/(layer/)?bias$",
        f"SeparableConv1DLayer/{_SEPARABLE}/depthwise_conv_hack/depthwise_dense_0/bias",
        "zoo.DepthwiseConvolution",
    ),
    *(
        (rf"{ours}/{part}$", f"{theirs}/{part}", cls)
        for part in ("kernel", "bias")
        for ours, theirs, cls in (
            (
                "/pointwise",
                f"SeparableConv1DLayer/{_SEPARABLE}/pointwise_dense",
                "zoo.DepthwiseConvolution",
            ),
            (r"/input/factors/\d", "LocalConvAttnBlock/local_conv_inp_0", "zoo.GatedConvolution"),
            (
                r"/gated_convolution\w*/layer/output",
                "LocalConvAttnBlock/local_conv_attn_op_projection",
                "zoo.GatedConvolution",
            ),
        )
    ),
    *(
        (
            rf"/gated_linear_unit\w*/layer/.*{part}$",
            f"GatedLinearUnitLayer/glu_0/{part}",
            "zoo.GatedLinearUnit",
        )
        for part in ("kernel", "bias")
    ),
    *(
        (rf"/{ours}\w*/layer/{path}$", f"{theirs}/{name}", cls)
        for ours, theirs, cls, pairs in (
            (
                "encoder_convolutions",
                "EncoderConvolutionalLayer",
                "zoo.EncoderConvolutions",
                [
                    ("left/kernel", "conv1x1/dense/kernel"),
                    ("right/kernel", "conv3x1/conv2d/kernel"),
                    *_separable("output", "sep_conv9x1"),
                ],
            ),
            (
                "decoder_convolutions",
                "DecoderConvolutionalLayer",
                "zoo.DecoderConvolutions",
                [
                    *_separable("left", "sep_conv11x1"),
                    *_separable("right", "sep_conv7x1_1"),
                    *_separable("output", "sep_conv7x1_2"),
                ],
            ),
        )
        for path, name in [*pairs, *_NORM]
    ),
]
"""Of layers: the end of our path, the class and name of the original, and the class of ours."""
