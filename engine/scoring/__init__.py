"""Scores of predicted masks against ground truth, one file per benchmark; no model is needed."""
