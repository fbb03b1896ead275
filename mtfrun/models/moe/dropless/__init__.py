"""How tokens reach experts without a limit: sorted on one device, in rounds on several."""
