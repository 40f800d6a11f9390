"""From a delivery to stored wafers: ingest, quarantine and its release, conflicts, statistics for the reviewers' page.

Not here: what a file may look like (`wafer.contract`), and how wafers are kept (`wafer.store`).
"""
