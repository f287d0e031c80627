"""What every page draws with: scales, line charts, and numbers as a person reads them."""
