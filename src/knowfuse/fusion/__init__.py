"""Whom do we believe at each row? One rule a file: aligned sources in, one sparse fused target out."""
