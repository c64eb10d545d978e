"""Where upstream's package is in its tree; its programs import it from here."""
