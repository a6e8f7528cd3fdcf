"""What the networks are trained for: one file per idea of the paper."""
