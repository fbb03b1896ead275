from mtfrun.extras.optimizers.lion import Lion as Lion
from mtfrun.extras.optimizers.schedule_free import ScheduleFreeAdam as ScheduleFreeAdam
from mtfrun.extras.optimizers.shampoo import Preconditioning as Preconditioning
from mtfrun.extras.optimizers.shampoo import Shampoo as Shampoo
from mtfrun.extras.optimizers.shampoo import inverse_root as inverse_root
from mtfrun.extras.optimizers.sophia import Curvature as Curvature
from mtfrun.extras.optimizers.sophia import Sophia as Sophia
