"""Kinetics of discrete trajectories, each value with a confidence interval and the number of events behind it."""
