"""Measurements: speed as ratios within one run on one machine, never as absolute limits."""
