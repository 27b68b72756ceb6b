"""The readers of the benchmarks: one module per data set, each validated when it is opened.

This folder shares its name with a library. It has no `__version__`, exports nothing and imports nothing, so that code
which looks for that library finds none of its names here.
"""
