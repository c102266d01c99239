"""An artifact on its user's own texts, beside the dense model in the libraries that would run it otherwise."""
