"""Training: windows, objectives, the step, the loop, and the last fit of the output layer."""
