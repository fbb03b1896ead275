"""Collection of the doctests of the benchmarks."""

# These import packages that are compared with only where somebody has installed them.
collect_ignore = ["ctranslate2_decode.py", "torch_resnet.py"]
