"""Benchmarks of neurons, QCFS, training and whole networks, beside their limits and other packages: ratios.

What is compared runs interleaved, warm, on one machine, in one process; a ratio is taken within each round, and its
median is shown with the 95 % interval of the median over the rounds. A limit is the time that the unavoidable reads and
writes take, or the network's own forward pass.
"""
