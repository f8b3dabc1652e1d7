"""How graphs become samples: one function per algorithm, numpy only."""
