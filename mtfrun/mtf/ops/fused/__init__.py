"""Operations computed block by block."""
