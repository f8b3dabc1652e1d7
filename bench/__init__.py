"""Measure generators honestly: peers in their own processes, shuffled blocks, raw samples kept."""
