"""From a frozen table of wafers to a judged model: features, clusters, models, calibration, threshold, evaluation.

Everything here works on frames and arrays, and needs no more than the core that is installed without extras. Not here:
where tables and models are kept (`wafer.store`, `wafer.registry`), and what is scored with them (`wafer.scoring`).
"""
