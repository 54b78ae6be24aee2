"""Adapters to the implementations that are measured beside this package, one file a peer."""
