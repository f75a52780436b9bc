"""The four moves: insert, claim at the gate, settle and take the next, finish."""
