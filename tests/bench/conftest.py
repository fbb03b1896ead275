"""What pytest collects of the benchmarks: doctests."""

# These import optional packages, which may not be installed.
collect_ignore = ["ctranslate2_decode.py", "torch_attention.py", "torch_resnet.py"]
