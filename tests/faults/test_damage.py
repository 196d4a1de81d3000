"""Damaged input is one line that names it, exit code 2, and changes nothing."""

import pytest

from tests.faults.inputs import KINDS
from tests.faults.table import damage_row

FEW = {  # some of each kind, in the default tests; all of them in slow ones
    "command lines": ["sample --max_new_tokens 1000000000", "train denoiser --trainer.batch_size 1000000000000"],
    "configs": ["generate.yaml_object", "generate.yaml_bomb"],
    "token files": ["corpus/train.safetensors_denoiser_outside", "corpus/train.safetensors_denoiser_mask"],
    "denoisers": ["sharded/model.safetensors.index.json_index_to_.._denoiser_model.safetensors"]
    + ["lm/model.safetensors_none", "pickled/pytorch_model.bin_payload"],
    "energies": ["head/model.safetensors_one_nan", "head/energy.json_zeros"],
    "checkpoints": ["run/checkpoints/step_00000002/optimizer.bin_cut_0"],
    "results": ["a/results.rows.safetensors_one_nan"],
    "prompts": ["prompts.jsonl_pointer"],
    "job folders": ["no_manifest"],
}


@pytest.mark.parametrize("kind", FEW)
def test_some_damage_of_each_kind_is_one_line(judge, kind):
    cases = [case for case in KINDS[kind](judge.world) if case.name in FEW[kind]]
    assert {case.name for case in cases} == {*FEW[kind]} and len(cases) == len(FEW[kind])
    assert damage_row(judge, kind, cases).wrong == []


def test_there_are_cases_enough_and_each_has_a_name(world):
    names = [(kind, case.name) for kind in KINDS for case in KINDS[kind](world)]
    assert len({*names}) == len(names) >= 1000


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_damage_of_a_kind_is_one_line(tried, kind):
    assert damage_row(tried[0], kind).wrong == []
