"""What a person sees: progress, texts made safe for a terminal, pictures."""
