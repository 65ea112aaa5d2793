"""What nanomd is measured against: Markov state models, an LSTM, and the eager reference."""
