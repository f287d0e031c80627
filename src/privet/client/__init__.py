"""A silo: what it answers, how it trains, where its records are."""
