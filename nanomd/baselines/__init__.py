"""What the GPT is compared with: Markov state models, an LSTM, and eager generation."""
