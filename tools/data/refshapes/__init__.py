"""RefShapes: a generated referring video data set, deterministic by seed, with sentences checked to be true."""
