"""From a frozen table of wafers to a judged model: features, clusters, models, calibration, threshold, evaluation."""
