"""Operations over spatial dimensions: convolutions, pooling, halo exchange."""
