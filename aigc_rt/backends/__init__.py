"""What executes a variant: one executor each, behind one contract."""
