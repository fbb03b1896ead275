"""Output for people: progress, texts made safe for a terminal, pictures."""
