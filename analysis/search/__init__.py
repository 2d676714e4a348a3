"""Combinations of two or three methods: searched on tuning prompts, registered, and confirmed on held-out ones.

In: `search` of params.yaml, prompts that are drawn anew from seeds of their own. Out: results/full/search/<lineage>.journal, the
study of Optuna with every trial; papers/registered/<lineage>.yaml, what is to be confirmed and by which rule, written before it
is; and results/full/search/<lineage>-confirmed.csv and -shrinkage.csv.
"""
