"""What registers with fairseq."""
