"""The demo: scanner processes compete for job postings, and each posting is bid on exactly once.

Its processes: the one the user starts (`command`, `run`), which shows the run (`display`, `live_display`), a
model server on loopback (`proposals`), and the scanners (`scanner`). The bids are in a table of the demo's
own (`bids`).
"""
