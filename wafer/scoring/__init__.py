"""From a model and wafers to predictions, and what else the model says of them.

Not here: how a model is trained (`wafer.learning`), and which one is in use (`wafer.registry`).
"""
