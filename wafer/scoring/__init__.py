"""From what was trained and wafers to judgements: the bundle and its formats, `judge`, and batches of results.

Not here: how a classifier is trained (`wafer.learning`), what is said of wafers besides a probability
(`wafer.diagnosis`), and which version is in use (`wafer.registry`).
"""
