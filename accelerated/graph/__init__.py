"""Any network as a graph of operators, and the kinds of operators."""
