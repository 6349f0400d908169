"""Operations without parameters: arrays in, arrays out, each with its gradient under it."""
