"""The service: an API for existing clients and the people at the line, and what may be shown of it in a browser.

A route maps a request to one function of the library and its result to an answer. Not here: what is judged, stored or
decided (`wafer.scoring`, `wafer.intake`, `wafer.registry`), the steps (`wafer.steps`) and their order (`flows`).
"""
