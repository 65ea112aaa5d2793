"""What a trained model has learnt: attention by lag, memory length, causal tracing."""
