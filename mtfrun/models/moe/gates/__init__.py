"""Gates choose the experts of tokens and their weights. `mtfrun.models.moe` exports them."""
