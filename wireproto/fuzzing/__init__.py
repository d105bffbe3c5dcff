"""The fuzzing kit: `mutations` changes frames, makes nearly valid ones, and soups of tokens."""
