"""`mtfrun launch --chaos`: a training with faults must end like one without."""
