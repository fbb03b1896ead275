"""Dispatch: how tokens move to the slots of experts and back. `mtfrun.models.moe` exports it."""
