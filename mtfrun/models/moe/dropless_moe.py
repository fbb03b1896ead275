"""A mixture of experts without a capacity, as a sublayer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtfrun import mtf
from mtfrun.models.moe.dropless.rounds import Rounds
from mtfrun.models.moe.dropless.sorted_rows import apply_to_sorted_rows
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.metrics import level_metrics, visits_metric
from mtfrun.models.moe.mixture import Mixture
from mtfrun.models.moe.router import Router
from mtfrun.models.transformer.sequence_call import SequenceCall


class DroplessMoE(Mixture):
    """Every token visits all experts that the gate chooses for it, whatever the balance.

    "Dropless", as in MegaBlocks, Gale et al. 2022, arXiv:2211.15841. The output of a token depends
    on this token alone: it is the same in training, in evaluation, and in a step of decoding. Any
    gate by which tokens choose experts will do (`TopK`, `Switch`, `Top2`, ...), and its losses are
    those of one group of all tokens of a call.

    One device sorts the choices of all tokens by expert and computes as many rows as there are
    choices; the time grows with the tokens and not with the imbalance, and so does the memory. On
    several devices every round is a mixture with a capacity, and there are as many as the fullest
    expert needs, see `Rounds`: the memory does not depend on the balance, and the time does. There
    all devices have the router's logits of all tokens.

    Its variables are those of `MoE1D`: a checkpoint of one is a checkpoint of the other.

    Args:
      mesh, d_model, dtypes: see `Sublayer`.
      num_experts, router, experts, loss_coef: see `MoE1D`.
      round_factor: on several devices the slots of all experts together in a round, relative to the
        choices of all tokens.
      routes_padding: padding visits experts as well, and counts in the losses of the gate, as in
        transformers. The outputs of all other tokens are the same.
    """

    short_name = "moe_1d"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_experts: int = 16,
        router: Callable[..., Router] = Router,
        experts: Callable[..., Experts] = Experts,
        loss_coef: float = 1e-2,
        round_factor: float = 1.25,
        routes_padding: bool = False,
    ) -> None:
        super().__init__(
            mesh, d_model, loss_coef=loss_coef, experts_of_levels={"level_1": num_experts}
        )
        self._round_factor = round_factor
        self._routes_padding = routes_padding
        self._experts = mtf.Dimension("experts", num_experts)
        self._experts_unsplit = mtf.Dimension("experts_unsplit", num_experts)
        self.router = router(mesh, d_model, self._experts_unsplit, dtypes)
        self.experts = experts(mesh, [self._experts], d_model, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {outer..., batch, length, n} for x {outer..., batch, length, d_model}.

        n is the experts' output dimension, by default d_model.
        """
        *outer, batch, length, _ = x.shape.dims
        tokens = mtf.combined_dimension([batch, length])
        nonpadding = None if self._routes_padding else call.nonpadding
        y = self._mixture(mtf.reshape(x, [*outer, tokens, self._d_model]), nonpadding, call)
        return mtf.reshape(y, self._output_shape(x))

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns {batch..., n} for x {batch..., d_model}.

        Raises:
          InputError: the gate draws random numbers.
        """
        tokens = mtf.combined_dimension(x.shape.dims[:-1])
        y = self._mixture(mtf.reshape(x, [tokens, self._d_model]), None, call)
        return mtf.reshape(y, self._output_shape(x)), state

    def _mixture(
        self, x: mtf.Tensor, nonpadding: mtf.Tensor | None, call: SequenceCall
    ) -> mtf.Tensor:
        """Returns the mixture {outer..., tokens, n} for x {outer..., tokens, d_model}.

        `nonpadding` has the same tokens in any dimensions.
        """
        *outer, tokens, _ = x.shape.dims
        # All tokens in one group, whatever the mesh.
        group = mtf.Dimension("group_size", mtf.Shape([*outer, tokens]).size)
        capacity = mtf.Dimension("expert_capacity", group.size)
        importance = None if nonpadding is None else mtf.reshape(nonpadding, [group])
        logits = mtf.reshape(self.router.logits(x, call), [group, self._experts_unsplit])
        routing = self.router.route(logits, group, capacity, importance, call)
        if call.collector is not None:
            visits = mtf.add_n([choice.dispatched for choice in routing.choices])
            self._collect(
                call.collector,
                routing.loss,
                {"level_1": level_metrics(routing, importance)},
                visits_metric(visits, importance),
            )
        if call.recorder is not None:
            call.recorder.add_experts(self, "level_1", routing.first_expert())
        if not x.mesh.is_distributed:
            rows = mtf.reshape(x, [group, self._d_model])
            y = apply_to_sorted_rows(self.experts, rows, routing, self._experts, call)
            return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])
        groups = mtf.Dimension(tokens.name, x.mesh.num_splits(tokens))
        of_group = mtf.Dimension("group_size", tokens.size // groups.size)
        rounds = Rounds(self.experts, self._experts, self._round_factor)
        inputs = mtf.reshape(x, [*outer, groups, of_group, self._d_model])
        y = rounds(inputs, routing, groups, call)
        return mtf.reshape(y, [*outer, tokens, self.experts.output_dim])
