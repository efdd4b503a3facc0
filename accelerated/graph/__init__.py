"""Capture of any network as a graph of operators, and what an operator is."""
