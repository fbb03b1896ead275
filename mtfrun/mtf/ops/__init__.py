"""The operations on named tensors, grouped by kind.

Of two forms `_fused_...` is one kernel of TensorFlow's, usually on one device, and `_composed_...`
has operations that DTensor can divide; `_..._for_xla` is for programs that XLA compiles.
"""
