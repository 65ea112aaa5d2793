"""Systems that give trajectories and tokens reproducibly."""
