"""Kernels for Hopper, written in Gluon: private, imported by the launchers that choose them and by nothing else."""
