"""The operations on named tensors, grouped by kind.

`_fused_...` is a single TensorFlow kernel, usually on one device, `_composed_...` consists of
operations that DTensor can divide; `_..._for_xla` is for programs that XLA compiles.
"""
