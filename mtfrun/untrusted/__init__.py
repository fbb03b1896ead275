"""Files and texts that anybody may have written: what is checked before anything else sees them."""
