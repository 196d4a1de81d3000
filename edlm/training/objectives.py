"""Training objectives: each turns tokens and their noise into a mean loss, in nats per token."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import rows_of_blocks
from edlm.denoisers.scoring import scores_at
from edlm.diffusion.plan import RevealPlan, plan_in_blocks, plan_reveal
from edlm.diffusion.schedule import LogLinear, Schedule, antithetic_times, mask_tokens
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import BatchStreams
from edlm.energies.decision import Decision, Step
from edlm.energies.proposal import draw_categorical, make_decision
from edlm.sampler.reweighting import log_share_of_data
from edlm.training.means import Mean
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.sharding import place
from edlm.training.soft_targets import with_soft_targets


class DenoiserObjective:
    """Continuous-time bound of the masked diffusion model (NELBO), nats per token, low = good.

    ``E_t [ -alpha'(t) / (1 - alpha(t)) * sum over masked i of -log p_theta(x_0^i | x_t) ] / length``

    Args:
        denoiser: Its frame goes around the blocks, see `rows_of_blocks`.
        schedule: Gives ``alpha``; the bound's value does not depend on it, its variance does.
        times: Makes times of places in training, as `antithetic_times`, which is always used in evaluation mode. The
            weight is not divided by the density of other times: the loss is then the bound with its integrand times
            that density. Its minimum over all networks is the same, and no weight grows where times are rare.

    References:
        Sahoo et al. 2024, arXiv:2406.07524, Eq. 10; antithetic times.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule, times: Callable[..., Tensor] = antithetic_times):
        self.denoiser = denoiser
        self.schedule = schedule
        self.times = times

    def __call__(self, model: nn.Module, batch: Tensor, streams: BatchStreams) -> tuple[Mean, dict[str, Mean]]:
        """Loss of blocks ``batch[batch, length]``; the model is called as ``model(x_t, slots, t)``."""
        x_0, given = rows_of_blocks(self.denoiser, batch)
        draw, mask_token_id = self.times if model.training else antithetic_times, self.denoiser.mask_token_id
        t = draw(streams.places())
        x_t = mask_tokens(x_0, t, self.schedule, mask_token_id, streams.of_length(x_0.shape[1]).values())
        x_t = torch.where(given, x_0, x_t)
        slots = Slots.where(x_t == mask_token_id)
        t = t.to(batch.device)
        nll = -model(x_t, slots, t).gather(1, slots.gather(x_0)[:, None])[:, 0]
        weighted = self.schedule.nelbo_weight(t)[slots.rows] * nll
        return Mean(weighted.sum(), int((~given).sum())), {"masked_nll_nats": Mean(nll.sum(), len(slots))}


class AutoregressiveObjective:
    """Cross-entropy of a causal LM with a token before the first: ``-log p(x)``, nats per token, low = good.

    Args:
        bos_token_id: The token before the first one.
    """

    def __init__(self, bos_token_id: int):
        self.bos_token_id = bos_token_id

    def __call__(self, model: nn.Module, batch: Tensor, streams: BatchStreams) -> tuple[Mean, dict[str, Mean]]:
        """Loss of tokens ``batch[batch, length]``."""
        inputs = torch.cat([torch.full_like(batch[:, :1], self.bos_token_id), batch[:, :-1]], 1)
        logits = model(input_ids=inputs).logits
        nats = nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.flatten(), reduction="sum")
        return Mean(nats, batch.numel()), {}


class EnergyObjective:
    """Train an energy on decisions of the kind that the sampler makes, against its frozen denoiser.

    Each row is at its own step, spread evenly over the steps, with its true tokens as those revealed so far;
    negatives are drawn from the denoiser's marginals, as the sampler draws.

    - likelihood: ``E(data) - log p_theta(data) = -log q(data)``, nats per token.
    - ranking: ``-(log k + log softmax_j(-E_j)[data])``: minus the gain term of the bound (*), nats a decision.
    - binary: ``-logsigmoid(-E(data)) - mean_j logsigmoid(E(noise_j))``.

    Args:
        denoiser: Frozen; moved to the device of the batch, or sharded (see `place`).
        config: The mixture of decisions.
        reads_hidden: Whether the energy reads the denoiser's states.

    References:
        Xu et al. 2025, arXiv:2410.21357, Eq. 9; van den Oord et al. 2018, arXiv:1807.03748 (ranking).
    """

    def __init__(self, denoiser: Denoiser, config: EnergyObjectiveConfig, *, reads_hidden: bool):
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.config = config = config.of_kind("head")
        self.reads_hidden = reads_hidden
        self.metric = "gain_nats_per_token" if config.loss == "likelihood" else "gain_nats_per_decision"

    def __call__(self, model: nn.Module, batch: Tensor, streams: BatchStreams) -> tuple[Mean, dict[str, Mean]]:
        """Loss of blocks ``batch[batch, length]``; the model is called as ``model(decision)``."""
        place(self.denoiser, batch.device)
        k = 1 if self.config.loss == "likelihood" else self.config.num_candidates
        with torch.no_grad():
            decision = self.draw_decision(batch, k, streams, self.config.soft_targets if model.training else 0)
        learnt = decision.slots if decision.targets is None else decision.targets.index
        num_tokens, decided = len(learnt), decision.slots.counts > 0
        energy = model(decision)
        if not num_tokens:  # more steps than tokens: nothing to learn from
            nothing = sum(0.0 * p.sum() for p in model.parameters() if p.requires_grad)
            return Mean(nothing, 0), {self.metric: Mean(energy.new_zeros(()), 0)}
        if self.config.loss == "likelihood":
            nll = energy - decision.log_proposal
            return Mean(nll.sum(), num_tokens), {self.metric: Mean(-energy.sum(), num_tokens)}
        gain = log_share_of_data(-energy)[decided]
        metrics = {self.metric: Mean(gain.sum(), len(gain))}
        if self.config.loss == "ranking":
            return Mean(-gain.sum(), len(gain)), metrics
        log_sigmoid = nn.functional.logsigmoid
        loss = -log_sigmoid(-energy[:, 0]) - log_sigmoid(energy[:, 1:]).mean(1)
        return Mean(loss[decided].sum(), len(gain)), metrics

    def draw_decision(
        self, blocks: Tensor, num_candidates: int, streams: BatchStreams, soft_targets: int = 0
    ) -> Decision:
        """Decisions, several a row, with the data in slot 0 of the candidates."""
        x_0, given = rows_of_blocks(self.denoiser, blocks)
        config, block_size, streams = self.config, self.denoiser.block_size, streams.of_length(x_0.shape[1])
        mixtures = (config.num_steps, config.orders, config.group_sizes, config.block_lengths)
        num_steps, order, group_size, block_length = (
            mixture[int(u * len(mixture))] for mixture, u in zip(mixtures, streams.common(4).tolist(), strict=True)
        )
        plan = plan_in_blocks(
            ~given,
            block_size or block_length,
            lambda masked, number: plan_reveal(masked, order, num_steps, LogLinear(), streams.order(number)),
            aligned=block_size is not None,
        )
        rule = plan.rule
        at = (streams.places() * plan.total_steps).long().clamp(max=plan.total_steps - 1)
        several = config.scope == "step" and rule is None
        later = at[:, None] + torch.arange(config.decisions_per_pass if several else 1)
        rows, nth = (later < (at // num_steps + 1)[:, None] * num_steps).nonzero(as_tuple=True)  # of each decision
        at, source, steps = (x.to(x_0.device) for x in (at, rows, later[rows, nth]))
        x_t, t = self._before(plan, x_0, at), 1 - at % num_steps / num_steps
        reads_hidden = self.reads_hidden or (rule is not None and rule.reads_hidden)
        encoding = self.denoiser.encode(x_t, t, keep_hidden=reads_hidden)
        masked = plan.block(at) & (x_t == self.denoiser.mask_token_id)
        if config.scope == "sequence":
            step = Step(self.denoiser, x_t, t, encoding, Slots.where(masked))
        elif rule is not None:
            slots = plan.slots(at, masked, scores_at(rule, self.denoiser, encoding, masked))
            step = Step(self.denoiser, x_t, t, encoding, slots)
        else:
            encoding = replace(encoding, place=encoding.place[source])
            step = Step(self.denoiser, x_t[source], t[source], encoding, plan.planned(source, steps))
            x_0 = x_0[source]
        group, x_partial = step.slots, step.x_t
        if num_candidates > 1 and self.config.scope == "step" and group_size is not None:
            num_groups = -(-step.slots.counts // group_size)
            chosen = streams.groups(later.shape[1])[rows, nth] * num_groups.cpu()
            group, earlier = step.slots.group_at(group_size, chosen.long().to(x_0.device))
            x_partial = earlier.write(step.x_t, earlier.gather(x_0))
        log_probs = self.denoiser.slot_log_probs(step.encoding, group)
        tokens = group.gather(x_0)[:, None]
        if num_candidates > 1:
            index, positions = group.rows.cpu(), group.positions.cpu()
            uniforms = streams.values(later.shape[1], num_candidates - 1)[rows[index], nth[index], :, positions]
            tokens = torch.cat([tokens, draw_categorical(log_probs, uniforms)], 1)
        decision = make_decision(step, group, x_partial, log_probs, tokens)
        if num_candidates > 1:
            return decision
        decision = replace(decision, round_size=group_size or 1)
        if not soft_targets or not len(group):
            return decision
        return with_soft_targets(decision, log_probs, soft_targets, streams.values(later.shape[1])[rows, nth])

    def _before(self, plan: RevealPlan, x_0: Tensor, at: Tensor) -> Tensor:
        """Tokens when step ``at[b]`` of each row begins, if the data was revealed so far.

        By an order that looks at the marginals it takes a denoiser pass for each earlier step of the row's block.
        """
        if plan.rule is None:
            return plan.teacher_forced(x_0, at, self.denoiser.mask_token_id)
        nth, mask = at % plan.num_steps, self.denoiser.mask_token_id
        x_t = replace(plan, rule=None).teacher_forced(x_0, at - nth, mask)
        for i in range(int(nth.max())):
            later, step = nth > i, at - nth + i
            masked = plan.block(step) & (x_t == mask) & later[:, None]
            t = torch.full_like(at, 1 - i / plan.num_steps, dtype=torch.float)
            rows = later.nonzero()[:, 0]
            encoding = self.denoiser.encode(x_t, t, rows=rows, keep_hidden=plan.rule.reads_hidden)
            slots = plan.slots(step, masked, scores_at(plan.rule, self.denoiser, encoding, masked))
            x_t = slots.write(x_t, slots.gather(x_0))
        return x_t
