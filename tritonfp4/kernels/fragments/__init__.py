"""Products that decode FP4 in registers, in the order in which the tensor cores take it. Gluon."""
