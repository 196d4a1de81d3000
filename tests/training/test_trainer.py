"""The loop against closed forms and against itself: resumed, accumulated, over processes."""

import importlib.util
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from edlm.training.batches import rows_at
from edlm.training.means import Mean
from edlm.training.optimization import learning_rate_factor
from edlm.training.trainer import NonFiniteLossError, TrainerConfig, train

SCRIPT = Path(__file__).with_name("tiny_run.py")
_spec = importlib.util.spec_from_file_location("tiny_run", SCRIPT)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def maths(log: list[dict]) -> list[dict]:
    """Log lines without what the clock decides."""
    return [{k: v for k, v in x.items() if k not in ("seconds", "tokens_per_second")} for x in log]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def failing(objective, calls: int, action):
    """`objective`, but `action()` in the call after `calls` others."""
    count = 0

    def wrapped(*arguments):
        nonlocal count
        count += 1
        if count == calls + 1:
            action()
        return objective(*arguments)

    return wrapped


class Crash(Exception):
    pass


def crash():
    raise Crash


# What is computed


class Point(nn.Module):
    """Three numbers that the quadratic draws to the mean of the data's columns."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.tensor([[4.0, -1.0, 0.5]]))

    def forward(self, batch):
        return ((self.place - batch) ** 2).sum(1).mean()


def test_a_quadratic_reaches_its_known_optimum(tmp_path):
    data = torch.tensor([[0, 3, 1], [2, 5, 1], [1, 3, 9], [0, 0, 0], [5, 1, 1]])
    config = TrainerConfig(
        str(tmp_path), num_steps=400, batch_size=5, learning_rate=0.05, weight_decay=0.0,
        decay="linear", ema_decay=0.9, log_every=100,
    )  # fmt: skip
    model = Point()
    final = train(model, lambda m, b, s: (Mean(len(b) * m(b), len(b)), {}), data, None, config, tiny.save)
    optimum = data.double().mean(0)
    saved = torch.load(final / "model.pt")["place"][0].double()
    assert torch.allclose(saved, optimum, atol=1e-3)
    loss = tiny.read_log(tmp_path)[-1]["loss"]
    assert loss == pytest.approx(data.double().var(0, unbiased=False).sum().item(), abs=1e-3)


def test_ema_is_its_closed_form(tmp_path):
    seen = []

    def objective(model, batch, streams):
        seen.append(model.matrix.detach().clone())
        return tiny.noisy_objective(model, batch, streams)

    decay, n = 0.4, 12  # (1 + n) / (10 + n) passes 0.4 at n = 5, so both regimes are seen
    saved, last, _ = tiny.run(tmp_path, objective, valid=False, num_steps=n, ema_decay=decay)
    weights = [*seen[1:], last["matrix"]]  # after update 1, ..., after update n
    decays = [min(decay, (1 + k) / (10 + k)) for k in range(1, n)]
    coefficients = [math.prod(decays)]
    coefficients += [(1 - decays[k - 1]) * math.prod(decays[k:]) for k in range(1, n)]
    assert sum(coefficients) == pytest.approx(1)
    expected = sum(c * w for c, w in zip(coefficients, weights, strict=True))
    assert torch.allclose(saved["matrix"], expected, rtol=0, atol=1e-12)
    assert not torch.allclose(saved["matrix"], last["matrix"], atol=1e-6)


def test_validation_has_the_saved_weights_eval_mode_and_fixed_noise(tmp_path):
    modes = []

    def objective(model, batch, streams):
        modes.append((model.training, model.frozen.training, torch.is_grad_enabled()))
        return tiny.noisy_objective(model, batch, streams)

    settings = {"ema_decay": 0.9, "valid_every": 3, "num_steps": 7, "seed": 2}
    model = tiny.TinyModel(dropout=0.3)
    saved, _, log = tiny.run(tmp_path, objective, model, **settings)
    assert modes[:3] == [(True, False, True)] * 3, "a frozen submodule has no dropout"
    assert modes[3:5] == [(False, False, False)] * 2
    assert modes[5:6] == [(True, False, True)]
    valid = [line for line in log if line["split"] == "valid"]
    assert [line["step"] for line in valid] == [3, 6, 7]
    assert len({json.dumps(line["metrics"]) for line in valid}) == 1
    assert len({line["loss"] for line in valid}) == 3
    again = tiny.TinyModel(dropout=0.3)
    again.load_state_dict(saved)
    fixed = {**settings, "num_steps": 1, "learning_rate": 1e-30, "ema_decay": 0.0}
    _, _, log = tiny.run(tmp_path / "again", model=again, weight_decay=0.0, **fixed)
    assert log[-1]["loss"] == pytest.approx(valid[-1]["loss"], abs=1e-9)


def test_matrices_decay_and_vectors_and_frozen_parameters_do_not(tmp_path):
    start = tiny.TinyModel().state_dict()

    def objective(model, batch, streams):
        return Mean(0 * model(batch).sum(), 1), {}

    settings = {"warmup_steps": 0, "decay": "none", "learning_rate": 0.1, "weight_decay": 0.3}
    _, last, _ = tiny.run(tmp_path, objective, num_steps=3, **settings)
    assert torch.allclose(last["matrix"], start["matrix"] * (1 - 0.1 * 0.3) ** 3, atol=1e-12)
    assert torch.equal(last["bias"], start["bias"])
    assert torch.equal(last["frozen.0.weight"], start["frozen.0.weight"])
    with pytest.raises(ValueError, match="requires a gradient"):
        tiny.run(tmp_path / "frozen", objective, tiny.TinyModel().requires_grad_(False))


def test_gradients_are_clipped_and_their_norm_is_logged(tmp_path):
    norms = []

    def note(optimizer, *_):
        gradients = [x.grad for group in optimizer.param_groups for x in group["params"]]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    hook = register_optimizer_step_pre_hook(note)
    try:
        _, _, free = tiny.run(tmp_path / "a", valid=False, num_steps=2, max_grad_norm=math.inf)
        _, _, cut = tiny.run(tmp_path / "b", valid=False, num_steps=2, max_grad_norm=0.07)
    finally:
        hook.remove()
    logged = [line["grad_norm"] for line in free]
    assert norms[:2] == pytest.approx(logged) and min(logged) > 0.1
    assert norms[2:] == pytest.approx([0.07, 0.07], rel=1e-4)
    assert cut[0]["grad_norm"] == logged[0]


def test_learning_rate_warms_up_and_decays(tmp_path):
    config = TrainerConfig(str(tmp_path), num_steps=30, warmup_steps=10, decay="cosine")
    factors = [learning_rate_factor(step, config) for step in range(31)]
    assert factors[:10] == [(step + 1) / 10 for step in range(10)]
    assert factors[10] == pytest.approx(1) and factors[20] == pytest.approx(0.55)
    assert factors[30] == pytest.approx(0.1)
    assert all(x > y for x, y in zip(factors[10:], factors[11:], strict=False))
    _, _, log = tiny.run(tmp_path, valid=False, num_steps=5, warmup_steps=2, decay="linear")
    rates = [line["learning_rate"] for line in log]
    assert rates == pytest.approx([0.015, 0.03, 0.03, 0.02, 0.01])


# Data order


def test_every_epoch_has_every_row_once_in_another_order():
    rows = torch.cat([rows_at(start, 4, 13, 8) for start in range(0, 52, 4)]).view(4, 13)
    assert torch.equal(rows.sort(1).values, torch.arange(13).expand(4, 13))
    assert len({tuple(row) for row in rows.tolist()}) == 4
    assert torch.equal(rows_at(5, 40, 13, 8), rows.flatten()[5:45])


def test_rows_differ_by_seed_and_noise_by_micro_step(tmp_path):
    batches, noise = [], []

    def objective(model, batch, streams):
        batches.append(batch)
        noise.append(streams.values()[0, 0].item())
        return tiny.plain_objective(model, batch, streams)

    for seed in (0, 1):
        settings = {"num_steps": 3, "gradient_accumulation": 2, "seed": seed}
        tiny.run(tmp_path / str(seed), objective, **settings)
    assert len(batches) == len(noise) == 20  # per seed 6 micro-steps and 2 validation batches
    assert len(set(noise)) == 20
    assert not torch.equal(torch.cat(batches[:6]), torch.cat(batches[10:16]))


def test_few_rows_are_validated_as_often_with_other_noise(tmp_path):
    """9 rows, in 5 batches of 4: each twice or more, and all parts of a mixture of up to 5."""
    seen = []

    def objective(model, batch, streams):
        if not model.training:
            seen.append((batch, streams.values(), streams.common(2)))
        return tiny.plain_objective(model, batch, streams)

    tiny.run(tmp_path, objective, num_steps=4, valid_every=2, valid_batches=5)
    batches, noise, common = (torch.stack(parts) for parts in zip(*seen, strict=True))
    assert all(torch.equal(part[:5], part[5:]) for part in (batches, noise, common))  # alike at both passes
    rows = torch.cat(batches[:5].unbind())
    assert len(rows) == 20 and {*map(tuple, rows.tolist())} == {*map(tuple, tiny.blocks()[:9].tolist())}
    assert len(noise[:5].unique()) == noise[:5].numel()
    assert ((5 * common[:5]).long().sort(0).values == torch.arange(5)[:, None]).all()


# Exactness


@pytest.mark.parametrize("settings", [
    {},
    {"gradient_accumulation": 2, "ema_decay": 0.5, "log_every": 3},
    {"mixed_precision": "bf16", "decay": "linear", "ema_decay": 0.0},
])  # fmt: skip
def test_resumed_run_is_bit_identical(tmp_path, settings):
    def model():  # float32, since autocast leaves float64 alone
        return tiny.TinyModel(dropout=0.2, dtype=torch.float32)

    whole = tiny.run(tmp_path / "whole", model=model(), **settings)
    calls = 9 * settings.get("gradient_accumulation", 1) + 1  # 7 updates, 2 validation batches
    broken = failing(tiny.noisy_objective, calls, crash)
    with pytest.raises(Crash):
        tiny.run(tmp_path / "halves", broken, model=model(), **settings)
    assert checkpoints(tmp_path / "halves") == ["step_00000005"]
    with (tmp_path / "halves" / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "spl')  # a line that the crash cut short
    resumed = tiny.run(tmp_path / "halves", model=model(), **settings)
    assert same(whole[0], resumed[0]), "averaged weights"
    assert same(whole[1], resumed[1]), "last weights"
    assert maths(whole[2]) == maths(resumed[2])
    keys = [(line["step"], line["split"]) for line in resumed[2]]
    assert len(set(keys)) == len(keys) and keys[-1] == (10, "valid")


def test_resuming_ignores_the_model_of_the_broken_run(tmp_path):
    settings = {"gradient_accumulation": 3, "ema_decay": 0.9}
    model, whole = tiny.TinyModel(dropout=0.2), tiny.TinyModel(dropout=0.2)
    calls = 5 * 3 + 2 * 3 + 2  # 5 updates, 2 validation batches, 2 of 3 micro-steps
    with pytest.raises(Crash):
        tiny.run(tmp_path / "a", failing(tiny.noisy_objective, calls, crash), model, **settings)
    assert model.matrix.grad is not None
    resumed = tiny.run(tmp_path / "a", model=model, **settings)
    assert same(resumed[0], tiny.run(tmp_path / "b", model=whole, **settings)[0])


def test_a_finished_run_is_not_trained_on(tmp_path):
    first = tiny.run(tmp_path)
    second = tiny.run(tmp_path, failing(tiny.noisy_objective, 0, crash))
    assert same(first[0], second[0]) and first[2] == second[2]


def assert_close(left, right):
    """The weights and the logs of two runs of `tiny_run`, but for rounding."""
    for before, after in zip(left[:2], right[:2], strict=True):
        assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-9) for name in before)
    for before, after in zip(maths(left[2]), maths(right[2]), strict=True):
        assert before.pop("split") == after.pop("split")
        assert before.pop("metrics") == pytest.approx(after.pop("metrics"), rel=1e-9)
        assert before == pytest.approx(after, rel=1e-6)


@pytest.mark.parametrize("objective", [tiny.plain_objective, tiny.noisy_objective])
def test_any_division_of_a_global_batch_computes_the_same(tmp_path, objective):
    whole = tiny.run(tmp_path / "whole", objective, batch_size=6)
    for count in (2, 3, 6):
        settings = {"gradient_accumulation": count, "batch_size": 6 // count}
        assert_close(tiny.run(tmp_path / str(count), objective, **settings), whole)


def test_a_run_may_resume_with_another_division_of_its_global_batch(tmp_path):
    whole = tiny.run(tmp_path / "whole", batch_size=6)
    with pytest.raises(Crash):
        tiny.run(tmp_path / "a", failing(tiny.noisy_objective, 7 + 2, crash), batch_size=6)
    resumed = tiny.run(tmp_path / "a", batch_size=3, gradient_accumulation=2)
    assert checkpoints(tmp_path / "a") == ["step_00000005", "step_00000010"]
    assert_close(resumed, whole)
    for settings in ({"batch_size": 5}, {"batch_size": 4, "gradient_accumulation": 2}):
        with pytest.raises(ValueError, match=r"differ in global_batch_size \(checkpoint: 6, now: [58]\)$"):
            tiny.run(tmp_path / "a", **settings)


def test_a_run_of_a_version_with_other_noise_is_refused(tmp_path):
    tiny.run(tmp_path, num_steps=5)
    (identity,) = tmp_path.glob("checkpoints/*/identity.json")
    before = json.loads(identity.read_text())
    del before["global_batch_size"]
    before |= {"batch_size": 4, "gradient_accumulation": 1, "num_processes": 1}  # as at 1f8b1d2
    identity.write_text(json.dumps(before))
    with pytest.raises(ValueError, match="a version of edlm that draws the same noise, got .*step_00000005 of an old"):
        tiny.run(tmp_path, num_steps=5)


def test_one_process_may_train_twice_with_other_precision(tmp_path):
    def weights(folder, precision):
        model = tiny.TinyModel(dtype=torch.float32)
        saved, _, _ = tiny.run(folder, model=model, num_steps=2, mixed_precision=precision)
        assert saved["matrix"].dtype == torch.float32
        return saved["matrix"]

    single, half = weights(tmp_path / "a", "no"), weights(tmp_path / "b", "bf16")
    assert torch.allclose(single, half, atol=0.1) and not torch.equal(single, half)
    assert torch.equal(single, weights(tmp_path / "c", "no"))


# Stopping


def test_non_finite_loss_stops_the_run_and_saves_nothing(tmp_path):
    def poisoned(model, batch, streams):
        loss, metrics = tiny.noisy_objective(model, batch, streams)
        nonlocal count
        count += 1
        return (Mean(loss.total * math.inf, loss.count) if count == 6 else loss), metrics

    count = 0
    with pytest.raises(NonFiniteLossError, match=r"got inf .* at step 6; .*step_00000004$"):
        tiny.run(tmp_path, poisoned, valid=False, checkpoint_every=2)
    with pytest.raises(NonFiniteLossError, match=r"got 0.0 and nan at step 1; .*: None$"):  # the gradient
        tiny.run(tmp_path / "gradient", lambda model, batch, _: (Mean((0 * model(batch).sum()).sqrt(), 1), {}))
    assert checkpoints(tmp_path) == ["step_00000002", "step_00000004"]
    assert tiny.read_log(tmp_path)[-1]["step"] == 5
    assert not (tmp_path / "final").exists()
    whole = tiny.run(tmp_path / "whole", valid=False)
    assert same(tiny.run(tmp_path, valid=False, checkpoint_every=2)[0], whole[0])


def test_max_minutes_leaves_checkpoint_and_final_model_and_resumes(tmp_path):
    saved, _, log = tiny.run(tmp_path / "a", max_minutes=1e-9, log_every=4)
    assert checkpoints(tmp_path / "a") == ["step_00000001"]
    assert [(line["step"], line["split"]) for line in log] == [(1, "train"), (1, "valid")]
    model = tiny.TinyModel()
    model.load_state_dict(saved)
    resumed = tiny.run(tmp_path / "a", log_every=4)
    whole = tiny.run(tmp_path / "b", log_every=4)
    assert same(resumed[0], whole[0]) and same(resumed[1], whole[1])
    assert maths(resumed[2])[2:] == maths(whole[2]), "the stop does not disturb the means"


def test_without_num_steps_the_schedule_ends_with_the_minutes_of_all_calls(tmp_path, monkeypatch):
    clock = itertools.count()  # each look at the clock takes a second
    monkeypatch.setattr("edlm.training.trainer.time.monotonic", lambda: float(next(clock)))
    settings = {"num_steps": None, "max_minutes": 1, "warmup_steps": 2, "decay": "linear", "valid": False}
    with pytest.raises(Crash):
        tiny.run(tmp_path, failing(tiny.noisy_objective, 9, crash), **settings, checkpoint_every=6)
    log = tiny.run(tmp_path, **settings)[2]
    assert [line["step"] for line in log] == list(range(1, len(log) + 1)) and 10 < len(log) < 60
    used = [0.0, *(line["seconds"] for line in log)]
    assert used == sorted(used) and used[-2] < 60 <= used[-1]
    rates = [0.03 * min((i + 1) / 2, 1, 1 - seconds / 60) for i, seconds in enumerate(used[:-1])]
    assert [line["learning_rate"] for line in log] == pytest.approx(rates)
    assert tiny.run(tmp_path, **settings)[2] == log, "the minutes are used up"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_update_and_a_checkpoint(tmp_path, signum):
    def by_default_handler(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(signum, by_default_handler)
    try:
        send = failing(tiny.noisy_objective, 3, lambda: os.kill(os.getpid(), signum))
        with pytest.raises(KeyboardInterrupt, match=str(int(signum))):
            tiny.run(tmp_path / "a", send)
        assert signal.getsignal(signum) is by_default_handler
    finally:
        signal.signal(signum, before)
    assert checkpoints(tmp_path / "a") == ["step_00000004"]
    assert not (tmp_path / "a" / "final").exists()
    resumed, whole = tiny.run(tmp_path / "a"), tiny.run(tmp_path / "b")
    assert same(resumed[0], whole[0]) and maths(resumed[2]) == maths(whole[2])


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path, failing(tiny.noisy_objective, 3, twice))
    assert not (tmp_path / "checkpoints").exists()


# Files


def test_log_and_config(tmp_path):
    _, _, log = tiny.run(tmp_path, log_every=4, num_steps=6, valid_every=3)
    steps = [(line["step"], line["split"]) for line in log]
    assert steps == [(3, "valid"), (4, "train"), (6, "train"), (6, "valid")]
    train_keys = "step split loss metrics learning_rate grad_norm tokens_per_second seconds"
    assert sorted(log[1]) == sorted(train_keys.split())
    assert sorted(log[0]) == sorted("step split loss metrics seconds".split())
    assert sorted(log[0]["metrics"]) == ["noise", "replaced"]
    assert log[1]["tokens_per_second"] > 0
    _, _, every = tiny.run(tmp_path / "every", num_steps=6)
    losses = [line["loss"] for line in every if line["split"] == "train"]
    assert log[1]["loss"] == pytest.approx(sum(losses[:4]) / 4)
    assert log[2]["loss"] == pytest.approx(sum(losses[4:]) / 2)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert TrainerConfig(**{**config, "betas": tuple(config["betas"])}).num_steps == 6


def test_what_is_not_finite_is_null_in_the_log(tmp_path):
    def objective(model, batch, streams):
        loss, _ = tiny.noisy_objective(model, batch, streams)
        return loss, {"ratio": Mean(torch.tensor(math.inf), 1)}

    _, _, log = tiny.run(tmp_path, objective, num_steps=1)
    assert log[0]["metrics"] == {"ratio": None}


def test_newest_checkpoints_stay_and_partial_ones_are_not_seen(tmp_path):
    partial = tmp_path / "checkpoints" / "partial_00000099"
    partial.mkdir(parents=True)
    tiny.run(tmp_path, checkpoint_every=2, keep_checkpoints=3)
    assert checkpoints(tmp_path) == ["step_00000006", "step_00000008", "step_00000010"]


def test_a_run_may_grow_when_it_resumes(tmp_path):
    tiny.run(tmp_path, num_steps=5)
    log = tiny.run(tmp_path, num_steps=7)[2]
    assert [line["step"] for line in log if line["split"] == "train"] == [1, 2, 3, 4, 5, 6, 7]


def test_an_interrupt_says_what_is_saved_and_how_to_resume(tmp_path, capsys):
    stopped = failing(tiny.plain_objective, 3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path, stopped)
    assert "interrupted: step 4 is saved; the same command resumes: " in capsys.readouterr().err
    assert checkpoints(tmp_path)[-1] == "step_00000004"


def test_updates_are_3000_unless_minutes_or_their_number_are_given():
    assert TrainerConfig("runs").num_steps == 3000
    assert TrainerConfig("runs", max_minutes=2).num_steps is None
    assert TrainerConfig("runs", num_steps=7, max_minutes=2).num_steps == 7


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"num_steps": 30}, "about 2.0 minutes to step 30"),
        ({"num_steps": 30, "max_minutes": 1.5}, "about 0.5 minutes to step 15"),
        ({"num_steps": 9}, None),
    ],
)
def test_how_long_a_run_takes_is_said_after_its_first_updates(tmp_path, monkeypatch, capsys, limits, said):
    monkeypatch.setattr("edlm.training.log.time", SimpleNamespace(monotonic=itertools.count(0, 60).__next__))
    tiny.run(tmp_path, **limits)  # ten updates take a minute by this clock
    assert [line for line in capsys.readouterr().err.splitlines() if "minutes to step" in line] == (
        [said] if said else []
    )


def test_resuming_with_other_maths_names_the_fields(tmp_path):
    tiny.run(tmp_path, num_steps=5)
    with pytest.raises(ValueError, match=r"num_steps \(checkpoint: 5, now: 4\)$"):
        tiny.run(tmp_path, num_steps=4)
    with pytest.raises(ValueError, match=r"learning_rate .*0\.03.*0\.1.*betas .*seed "):
        tiny.run(tmp_path, num_steps=5, seed=4, learning_rate=0.1, betas=(0.9, 0.9))
    with pytest.raises(ValueError, match="train_blocks"):
        tiny.run(tmp_path, num_steps=5, data=tiny.blocks().flip(0))
    with pytest.raises(FileExistsError, match="step_00000005"):
        tiny.run(tmp_path, num_steps=5, resume=False)
    tiny.run(tmp_path, num_steps=5, log_every=2, valid_batches=1, max_minutes=9, keep_checkpoints=1)


@pytest.mark.parametrize(("field", "value", "rule"), [
    ("num_steps", 0, "None or >= 1"), ("batch_size", 0, ">= 1"), ("keep_checkpoints", 0, ">= 1"),
    ("learning_rate", 0.0, "> 0"), ("max_grad_norm", math.nan, "> 0"), ("seed", -1, ">= 0"),
    ("warmup_steps", -1, ">= 0"), ("ema_decay", 1.0, "in [0, 1)"),
    ("max_minutes", 0.0, "None or > 0"), ("betas", (0.9, 1.0), "two numbers in [0, 1)"),
    ("decay", "exp", "'cosine', 'linear' or"), ("mixed_precision", "fp8", "'auto', 'no', "),
    ("wandb", "on", "'off', 'offline'"),
])  # fmt: skip
def test_config_errors_state_the_rule_and_the_value(field, value, rule):
    with pytest.raises(ValueError) as error:
        TrainerConfig("runs/a", **{field: value})
    assert str(error.value).startswith(f"{field} must be {rule}")
    assert str(error.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("data", [torch.zeros(4, dtype=int), torch.zeros(0, 4, dtype=int),
                                  torch.zeros(4, 4)])  # fmt: skip
def test_data_errors(tmp_path, data):
    with pytest.raises(ValueError, match="train_blocks must be integers of shape"):
        tiny.run(tmp_path, data=data)


# Other processes


def launch(mode: str, output_dir: Path, **settings) -> subprocess.CompletedProcess:
    """Two CPU processes; `accelerate launch --cpu --num_processes 2` starts one without MPI."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(SCRIPT), mode, f"output_dir={json.dumps(str(output_dir))}"]
    command += [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_two_processes_equal_one_with_double_batch_and_resume(tmp_path):
    done = launch("resume", tmp_path, batch_size=3, gradient_accumulation=2)
    assert done.returncode == 0, done.stderr[-3000:]
    weights, logs = {}, {}
    for name in ("whole", "halves"):
        weights[name] = torch.load(tmp_path / name / "final" / "model.pt")
        logs[name] = tiny.read_log(tmp_path / name)
    assert same(weights["whole"], weights["halves"])
    assert checkpoints(tmp_path / "halves") == ["step_00000005", "step_00000010"]
    one = tiny.run(tmp_path / "one", batch_size=6, gradient_accumulation=2)
    assert_close((one[0], {}, one[2]), (weights["whole"], {}, logs["whole"]))

    whole = tiny.run(tmp_path / "longer", batch_size=12, num_steps=15, decay="none")
    done = launch("noisy", tmp_path / "half", batch_size=3, gradient_accumulation=2, num_steps=5, decay="none")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close(tiny.run(tmp_path / "half", batch_size=12, num_steps=15, decay="none"), whole)
    done = launch("noisy", tmp_path / "half", batch_size=6, num_steps=20, decay="none")
    assert done.returncode == 0, done.stderr[-3000:]
    assert tiny.read_log(tmp_path / "half")[-1]["step"] == 20
    done = launch("noisy", tmp_path / "half", batch_size=3, num_steps=20, decay="none")
    assert "ValueError: a resumed run must keep" in done.stderr
    assert "differ in global_batch_size (checkpoint: 12, now: 6)" in done.stderr


@pytest.mark.slow
def test_a_nan_on_one_process_stops_both(tmp_path):
    done = launch("nan", tmp_path, valid=False, checkpoint_every=1)
    assert done.returncode != 0
    assert "NonFiniteLossError: loss and gradient norm must be finite, got nan" in done.stderr
    assert "at step 3; last good checkpoint:" in done.stderr
    assert checkpoints(tmp_path) == ["step_00000001", "step_00000002"]


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_both(tmp_path):
    done = launch("signal", tmp_path, valid=False)
    assert done.returncode != 0
    assert checkpoints(tmp_path) == ["step_00000003"]
    assert not (tmp_path / "final").exists()


@pytest.mark.slow
def test_wandb_offline_leaves_a_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny.run(tmp_path, num_steps=2, wandb="offline")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_fp16_without_cuda_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mixed_precision must be .* without a CUDA device, got 'fp16'"):
        tiny.run(tmp_path, mixed_precision="fp16")
    assert not (tmp_path / "config.yaml").exists()
