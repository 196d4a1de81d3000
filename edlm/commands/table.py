"""The commands: their names, and which modules and configs they have; only that of the requested one is imported."""

import importlib
from collections.abc import Callable
from logging import ERROR, getLogger
from typing import Any, NamedTuple, get_type_hints


class Command(NamedTuple):
    """`module:function` below `edlm.commands`; its one argument is a config dataclass, whose fields are the keys."""

    path: str
    help: str
    examples: tuple[str, str, str]  # options; the keys in them are the common ones
    positional: bool | str = False  # whether required keys may be given by position, all of them, without `--key`;
    # or the key of which this holds, though it is not required

    def load(self) -> tuple[Callable[[Any], None], type]:
        """The function and the class of its config."""
        from transformers.utils import logging  # not for `edlm --help`

        logging.disable_progress_bar()  # of loading weights: it would stand between a command's own lines,
        logging.set_verbosity_error()  # as reports of what is loaded would; what matters in them is checked
        getLogger("accelerate.utils.other").setLevel(ERROR)  # and of tied weights in each checkpoint
        module, _, name = self.path.partition(":")
        function = getattr(importlib.import_module(f"edlm.commands.{module}"), name)
        return function, get_type_hints(function)["config"]


_MINE = "--denoiser runs/denoiser/final"
_CORPUS = "--corpus runs/corpus --trainer.output_dir"
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "demo:run",
        "compare the shipped model with and without its energy",
        ("", '--prompt "The dog" --num_stories 5', "--num_rows 128 --seed 1"),
    ),
    "sample": Command(
        "sample:run",
        "write text with a denoiser and an energy",
        (
            '--prompt "Once upon a time" --max_new_tokens 64 --sampler.num_steps 4',
            '--fill "The <mask:3> ran to the <mask>." --num_samples 2 --seed 1 --output texts.txt',
            f"{_MINE} --energy runs/head/final --length 64 --trace trace.html",
        ),
    ),
    "generate": Command(
        "generate:run",
        "generate rows of text into a file, by any number of processes; an interrupted job resumes",
        (
            "--num_samples 64 --output rows.jsonl",
            "--prompts prompts.txt --num_samples 4 --max_new_tokens 64 --seed 1 --output rows.parquet",
            f"{_MINE} --energy runs/head/final --prompts gaps.jsonl --batch_size 64 --output rows.jsonl",
        ),
    ),
    "evaluate": Command(
        "evaluate:run",
        "measure likelihood, cost and text quality of samplers; write a report",
        (
            "--quick --output my_report",
            f"{_MINE} --energy runs/head/final --data held_out.txt --output my_report",
            '--num_steps "[4, 8]" --orders "[bisecting]" --num_rows 256 --measure "[bounds, time]"',
        ),
    ),
    "rerank": Command(
        "rerank:run",
        "choose among finished texts of any generator",
        (
            "candidates.jsonl --energy causal:gpt2 --output chosen.jsonl",
            "candidates.jsonl --energy causal:gpt2 --mode best",
            "candidates.jsonl --energy causal:gpt2 --temperature 0.5 --seed 1",
        ),
        positional=True,
    ),
    "choose": Command(
        "choose:run",
        "probabilities of the options for a gap in a text",
        (
            '"The <mask> barked." --options dog cat bird',
            f"--data gaps.jsonl {_MINE} --energy runs/head/final --output chosen.jsonl",
            "--data gaps.jsonl --options yes no --sampler.num_steps 16 --seed 1",
        ),
        positional="text",
    ),
    "score": Command(
        "score:run",
        "the likelihood of texts under a sampler",
        (
            "--data texts.txt",
            f"--data texts.jsonl {_MINE} --energy runs/head/final --output scores.jsonl",
            "--data texts.txt --sampler.num_steps 16 --num_draws 4",
        ),
    ),
    "compare": Command(
        "compare:run",
        "compare the bounds of two results of evaluate",
        ("my_report other_report", "a.json b.json --output differences.html", "my_report other_report --allow_other"),
        positional=True,
    ),
    "benchmark": Command(
        "benchmark:run",
        "compare the speed of samplers",
        (
            "--output speed.json",
            '--num_steps "[4, 16]" --batch_sizes "[1]" --device cpu',
            f"{_MINE} --energy runs/head/final",
        ),
    ),
    "info": Command(
        "info:run",
        "describe a checkpoint: family, token ids, shift, time input",
        ("tinystories", "runs/head/final", "kuleshov-group/mdlm-owt --tokenizer gpt2"),
        positional=True,
    ),
    "audit": Command(
        "audit:run",
        "test whether a sampler follows the law of a language with known truth",
        (
            "exact",
            "my_module:sample --num_samples 2000 --seed 1",
            "my_module:sample --language.kind dyck --length 6 --output audit.json",
        ),
        positional=True,
    ),
    "export": Command(
        "export:run",
        "copy trained models to a folder that a package ships",
        tuple(
            f"{_MINE} --energies.{energies} --corpus runs/corpus --output_dir exported"
            for energies in (
                "head runs/head/final",
                "head runs/head/final --energies.blind runs/blind/final",
                "head runs/head/final --num_rows 256",
            )
        ),
    ),
    "languages oracle": Command(
        "languages:oracle",
        "the published oracle tables: what a perfect energy gains",
        ("", "--num_samples 100", "--seed 1 --output oracle.json"),
    ),
    "languages truth": Command(
        "languages:truth",
        "share of a perfect energy's gain that trained energies reach",
        tuple(
            f"--corpus runs/symbols {_MINE} {rest}"
            for rest in (
                '--energies "[{name: head, energy: runs/head/final}]"',
                '--language.kind hmm --num_steps "[4, 8]"',
                "--num_samples 200 --output truth.json",
            )
        ),
    ),
    "languages errors": Command(
        "language_errors:errors",
        "rate of wrong sequences",
        ("", "--num_samples 100 --seed 1", "--output errors.json --plot errors.svg"),
    ),
    "languages puzzles": Command(
        "language_puzzles:puzzles",
        "share of puzzles that are filled without a mistake",
        ("", "--num_samples 100 --seed 1", "--output puzzles.json --markdown puzzles.md"),
    ),
    "languages picture": Command(
        "language_picture:picture",
        "draw a grid that is filled with and without an energy",
        tuple(
            f"{_MINE} --energy runs/head/final --output grid.svg{rest}"
            for rest in ("", " --num_given 2 --seed 3", " --language.kind latin --num_steps 4")
        ),
    ),
    "plot logs": Command(
        "plot_logs:run",
        "plot the validation losses of training runs",
        tuple(
            f'--logs "[{logs}]" --output losses.{suffix}'
            for logs, suffix in (
                ("runs/denoiser/log.jsonl", "svg"),
                ("runs/head/log.jsonl, runs/blind/log.jsonl", "svg"),
                ("runs/denoiser/log.jsonl", "png"),
            )
        ),
    ),
    "prepare corpus": Command(
        "prepare_corpus:run",
        "turn text, or a synthetic language, into blocks of tokens",
        (
            "--source my_text/ --output_dir runs/corpus",
            "--source stories.jsonl --text_field story --denoiser tinystories --output_dir runs/corpus",
            "--language.kind markov --num_train 10000 --length 32 --output_dir runs/symbols",
        ),
    ),
    "prepare samples": Command(
        "prepare_samples:run",
        "sample from a denoiser, as a corpus to train energies on",
        (
            f"{_MINE} --num_rows 10000 --output_dir runs/samples",
            f"{_MINE} --corpus runs/corpus --mixed true --output_dir runs/samples",
            f"{_MINE} --num_steps 64 --seed 1 --output_dir runs/samples",
        ),
    ),
    "train all": Command(
        "train_all:run",
        "run a pipeline: train and measure everything in a number of minutes",
        (
            "--config configs/pipeline/tiny.yaml",
            "--config configs/pipeline/tinystories.yaml --max_minutes 60",
            "--config configs/pipeline/tinystories.yaml --output runs/mine --side_by_side false",
        ),
    ),
    "train denoiser": Command(
        "train_denoiser:run",
        "train a masked diffusion model",
        (
            f"{_CORPUS} runs/denoiser --model tiny",
            f"{_CORPUS} runs/denoiser --model base --trainer.batch_size 64 --trainer.num_steps 50000",
            f"{_CORPUS} runs/denoiser --start_from bert-base-uncased --trainer.max_minutes 30 --trainer.seed 1",
        ),
    ),
    "train autoregressive": Command(
        "train_autoregressive:run",
        "train a causal language model",
        (
            f"{_CORPUS} runs/lm",
            f"{_CORPUS} runs/lm --trainer.batch_size 64 --trainer.num_steps 50000",
            f"{_CORPUS} runs/lm --trainer.max_minutes 30 --trainer.seed 1",
        ),
    ),
    "train energy": Command(
        "train_energy:run",
        "train an energy for a frozen denoiser",
        (
            f"{_MINE} {_CORPUS} runs/head",
            f"{_MINE} {_CORPUS} runs/nce --kind nce --trainer.max_minutes 30",
            f'{_MINE} {_CORPUS} runs/head --objective.orders "[random]" --trainer.num_steps 10000',
        ),
    ),
    "train dependency": Command(
        "train_dependency:run",
        "train a predictor of dependent positions, for an order that keeps them apart",
        (
            f"{_MINE} {_CORPUS} runs/dependency",
            f"{_MINE} {_CORPUS} runs/dependency --trainer.max_minutes 3",
            f"{_MINE} {_CORPUS} runs/dependency --rank 64 --trainer.num_steps 2000",
        ),
    ),
}
GROUPS = {
    "languages": "measure on synthetic languages with known truth",
    "plot": "plot training runs",
    "prepare": "prepare data",
    "train": "train a model",
}
