"""Real silos: the server's and a silo's process, parties and their kits, and who administers."""
