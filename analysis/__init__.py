"""From params.yaml to tables and figures, in sub-packages numbered in the order of the data flow.

study -> videos -> scoring, attention, tuning, bench -> report -> papers; playground on top. Each imports only those before it.
"""
