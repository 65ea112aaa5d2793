"""Rollouts brought to given numbers by offsets in the markov head's table: what calibration and constraints share."""
