"""Events on their way out, and back in: the relay, publishers, consumers, replay and projections."""
