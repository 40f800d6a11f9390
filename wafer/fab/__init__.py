"""Where batch files come from without a fab: simulated (`simulate`), or the public SECOM measurements (`fetch`).

`delivery` brings them, or copies of the files in a folder, into a run. Not here: how a delivery is taken in
(`wafer.intake`), and what its files may look like (`wafer.contract`).
"""
