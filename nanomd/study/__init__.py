"""A study in a run folder: one step after the other, each recorded, repeatable and resumable."""
