"""Many scenes on many machines: where results are kept, and who makes which."""
