"""Where batch files come from without a fab: simulated (`simulate`), or the public SECOM measurements (`fetch`).

Not here: how a delivery is taken in (`wafer.intake`), and what its files may look like (`wafer.contract`).
"""
