"""Inference on the benchmarks: masks of a whole split, on disk, resumable, over any number of processes."""
