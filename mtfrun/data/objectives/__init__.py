"""Objectives for running text: denoising, prefix language modelling, deshuffling."""
