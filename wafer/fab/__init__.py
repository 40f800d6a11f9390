"""Where batch files come from without a fab: simulated (`simulate`), or the public SECOM measurements (`fetch`)."""
