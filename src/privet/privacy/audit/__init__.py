"""Do the claims hold? Checks of the record, of the sum, and of the mechanism itself. Pure."""
