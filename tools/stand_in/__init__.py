"""The parts of tools/train_stand_in.py: scenes of RefShapes in batches, and what is learned from them."""
