"""The page for the people at the line, rendered here; it changes things only through the routes of the API.

Its one script sends what a button says, and shows the answer. Not here: what plots
and tables show (`wafer.reporting`), and what a button does (`wafer.service.routes_…`).
"""
