"""What is said of wafers besides a probability: are they like any seen, which sensors speak against them, drift.

Each object here is fitted beside a classifier (`wafer.learning`), on the features that the classifier makes, and knows
nothing of how it was trained. Not here: the probability itself (`wafer.learning`), and how all of it is asked in one
pass (`wafer.scoring.judge`).
"""
