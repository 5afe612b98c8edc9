"""A local page that draws samples: what it draws, and who is answered."""
