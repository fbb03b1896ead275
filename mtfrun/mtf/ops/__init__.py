"""The operations on named tensors, grouped by kind.

Where an operation has two forms they are named alike: `_fused_...` is one kernel of TensorFlow's,
usually on one device, and `_composed_...` is made of operations that DTensor can divide over
devices. A form for programs that XLA compiles is called `_..._for_xla`.
"""
