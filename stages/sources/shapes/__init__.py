"""A drawn world whose truth is known: pictures of one to three shapes, captions in plain English, and an exact judge."""
