"""Benchmarks of neurons, QCFS, training and whole networks, next to their limits and other packages: ratios.

Candidates run interleaved, warm, on one machine, in one process. A ratio is taken within each round; its median over
the rounds is shown with the 95 % confidence interval of the median. A limit is the time that the unavoidable reads and
writes take, or the network's own forward pass.
"""
