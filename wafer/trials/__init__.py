"""Where a scientist tries a recipe: wafers chosen, models compared in the same folds, the better one given to the gate.

The notebook `study` shows all of it. Not here: how a model is trained and scored (`wafer.learning`), the steps that
make a version of it (`wafer.steps`), and their run apart from production (`wafer.study`).
"""
