"""From bytes to a verdict: what a batch file may look like, and whether one does.

Here: form of names and headers, the line scan, facts, rules, suites, verdicts, the customer's agreement. Not here: what
becomes of a judged file (`wafer.intake`), and where wafers are kept (`wafer.store`).
"""
