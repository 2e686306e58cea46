"""Files to frames and back, what moves in them, and how an edit looks beside them."""
