"""What lasts of wafers: their documents and the ledger of batches in MongoDB, the embedded server, snapshots.

The only importer of `pymongo`. Not here: what a file may look like (`wafer.contract`), and how files are taken in
(`wafer.intake`).
"""
