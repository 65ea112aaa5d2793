"""The nano-GPT: the network, its files, what it says of data, and where rollouts start."""
