"""Text from prompts: batches, blocks, ends, seeds, partial results."""

import pytest
import torch

from edlm import AutoregressiveEnergy, EnergySampler, FunctionDenoiser, SequenceEnergy
from edlm.corpus.text import train_tokenizer
from edlm.sampler import Partial
from tests.energies.heads import disturbed_head, modernbert
from tests.sampler.test_padding import causal_lm

MASK, V = 6, 6
EOS = 5


def watched(seen: list, **attributes) -> FunctionDenoiser:
    """Marginals that depend on the position in the view and on what stands there; notes what it is shown."""
    table = torch.randn(64, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def f(x_t, t):
        seen.append(x_t.clone())
        return table[(torch.arange(x_t.shape[1]) + x_t.sum(1, keepdim=True)) % 64]

    denoiser = FunctionDenoiser(f, MASK, V)
    for name, value in attributes.items():
        setattr(denoiser, name, value)
    return denoiser


def certain(tokens: list[int], mask: int = MASK, vocab_size: int = V) -> FunctionDenoiser:
    """Writes ``tokens[i]`` at position i."""
    logits = torch.full((len(tokens), vocab_size), -torch.inf).scatter_(1, torch.tensor(tokens)[:, None], 0.0)
    return FunctionDenoiser(lambda x_t, t: logits[: x_t.shape[1]].expand(len(x_t), -1, -1), mask, vocab_size)


# Rows and batches


@pytest.mark.parametrize("block_length", [None, 8])
@pytest.mark.parametrize("order", ["ancestral", "dilated", "confidence"])
def test_prompts_of_unequal_length_are_as_each_alone(stories, block_length, order):
    sampler = EnergySampler(stories.denoiser, stories.energy, num_steps=2, num_candidates=None, order=order)
    text = "Once upon a time, there was a little girl who liked to play with her big red ball in the park. One day"
    tokens = stories.denoiser.tokenizer(text)["input_ids"]
    prompts, seeds = [tokens[:3], tokens[:7], tokens[:20], []], [4, 9, 2, 30]
    options = {"max_new_tokens": 20, "block_length": block_length}
    together = sampler.generate(prompts, seed=seeds, **options)
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = sampler.generate([prompt], seed=[seed], **options)
        assert torch.equal(alone.tokens[0], together.tokens[row]) and alone.text[0] == together.text[row]
        assert together.tokens[row][: len(prompt)].tolist() == prompt and len(together.tokens[row]) == len(prompt) + 20
        assert together.tokens[row].dtype == torch.int64
    assert together.seeds == tuple(seeds) and len(together.steps) == (2 if block_length is None else 6)


def test_candidates_and_blocks_in_a_batch():
    denoiser = modernbert()
    sampler = EnergySampler(denoiser, disturbed_head(denoiser), num_steps=2, num_candidates=4, group_size=2)
    prompts, seeds = [[0, 1, 2], [3], [2, 2, 1, 0, 0, 1, 3]], [1, 2, 3]
    together = sampler.generate(prompts, 25, seed=seeds, block_length=4)  # 16 positions: views slide
    for row, prompt in enumerate(prompts):
        alone = sampler.generate([prompt], 25, seed=[seeds[row]], block_length=4)
        assert torch.equal(alone.tokens[0], together.tokens[row])
    assert all((row < 4).all() for row in together.tokens)


def test_it_is_fill_on_the_tokens_with_masks(stories):
    denoiser = stories.denoiser
    output = stories.generate("Tom had a", 9, seed=[5], suffix=" He was happy.")
    tokenize = denoiser.tokenizer
    given, after = tokenize("Tom had a")["input_ids"], tokenize(" He was happy.")["input_ids"]
    x_t = torch.tensor([[*denoiser.prefix_ids, *given, *[denoiser.mask_token_id] * 9, *after]])
    filled = stories.fill(x_t, seeds=[5])
    assert torch.equal(filled.tokens[0], output.tokens[0])
    assert output.text[0].startswith("Tom had a") and output.text[0].endswith(" He was happy.")
    assert output.text[0] == "Tom had a" + output.completions[0] + " He was happy."
    for a, b in zip(filled.steps, output.steps, strict=True):
        assert torch.equal(a.num_revealed, b.num_revealed)


def test_prompts_of_every_kind(stories):
    denoiser = stories.denoiser
    assert denoiser.prefix_ids and not denoiser.is_framed
    free = stories.generate(None, 5, seed=0)
    begun = stories.generate("", 5, seed=0)
    assert len(free.tokens[0]) == 5 and begun.tokens[0][0] == denoiser.prefix_ids[0] and len(begun.tokens[0]) == 6
    ids = denoiser.tokenizer("Tom")["input_ids"]
    by_text = stories.generate(["Tom", "Tom"], 5, seed=3)
    by_ids = stories.generate([[*denoiser.prefix_ids, *ids]], 5, seed=3)
    assert torch.equal(by_text.tokens[0], by_ids.tokens[0]) and by_text.text[0] == by_ids.text[0]
    assert not torch.equal(by_text.tokens[0], by_text.tokens[1])  # their seeds differ


def test_seeds(stories):
    rows = stories.generate(["Tom", "Sue"], 6, num_return_sequences=2, seed=7)
    assert rows.seeds == (7, 8, 9, 10) and [text[:3] for text in rows.text] == ["Tom", "Tom", "Sue", "Sue"]
    listed = stories.generate(["Tom", "Sue"], 6, num_return_sequences=2, seed=[7, 8, 9, 10])
    assert listed.text == rows.text
    assert stories.generate("Sue", 6, seed=10).text == rows.text[3:]
    torch.manual_seed(1)
    first = stories.generate("Tom", 6)
    torch.manual_seed(1)
    assert stories.generate("Tom", 6).seeds == first.seeds != stories.generate("Tom", 6).seeds


def test_overrides_leave_the_sampler_alone(stories):
    before = dict(vars(stories))
    plain = stories.generate("Tom", 8, seed=0).text
    greedy = [stories.generate("Tom", 8, seed=seed, top_k=1).text for seed in (0, 1)]
    assert greedy[0] == greedy[1] and vars(stories) == before
    assert stories.generate("Tom", 8, seed=0).text == plain
    own = EnergySampler(stories.denoiser, stories.energy, num_steps=2, num_candidates=None, order="dilated", top_k=1)
    assert own.generate("Tom", 8, seed=3).text == greedy[0] == own.generate("Tom", 8, seed=3, temperature=0.5).text


# Blocks


FRAME = {"prefix_ids": (0,), "suffix_ids": (5,), "is_framed": True}
VIEWS = {  # attributes of the denoiser, prompt, new tokens, block length; what it is shown, given the tokens written
    "begins with the row, then ends with what fits": (
        ({"max_length": 8}, [1, 2, 3, 4], 10, 3),
        lambda s: [s[:4] + [MASK] * 4, s[2:7] + [MASK] * 3, s[5:10] + [MASK] * 3, s[6:13] + [MASK]],
    ),
    "is the whole row where it fits": (
        ({"max_length": 9}, [1, 2], 6, 3),
        lambda s: [s[:2] + [MASK] * 6, s[:5] + [MASK] * 3],
    ),
    "of a denoiser with blocks is aligned and sees nothing to its right": (
        ({"max_length": 8, "block_size": 4}, [1, 2, 3], 10, None),
        lambda s: [s[:3] + [MASK], s[:4] + [MASK] * 4, s[4:8] + [MASK] * 4, s[8:12] + [MASK]],
    ),
    "has the frame, which is not put twice": (
        ({"max_length": 7, **FRAME}, [0, 1, 2, 3], 6, 2),
        lambda s: [[0, 1, 2, 3, MASK, MASK, 5], [0, *s[3:6], MASK, MASK, 5], [0, *s[5:8], MASK, MASK, 5]],
    ),
}


@pytest.mark.parametrize("view", VIEWS)
def test_the_view_of_a_block(view):
    (attributes, prompt, new, block_length), views = VIEWS[view]
    seen: list = []
    sampler = EnergySampler(watched(seen, **attributes), num_steps=1)
    output = sampler.generate([prompt], new, block_length=block_length, seed=0)
    tokens, suffix = output.tokens[0].tolist(), [5] if "suffix_ids" in attributes else []
    assert tokens[: len(prompt)] == prompt and tokens[len(prompt) + new :] == suffix and MASK not in tokens
    assert [x.tolist() for x in seen] == [[shown] for shown in views(tokens)] and len(output.steps) == len(seen)
    rows = sampler.generate([prompt, [*prompt, 4, 0]], new, block_length=block_length, seed=[0, 1])
    assert rows.tokens[0].tolist() == tokens


def test_blocks_draw_from_streams_of_their_own():
    uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 97), 97, 97)
    tokens = EnergySampler(uniform, num_steps=1).generate([[0]], 60, block_length=20, seed=3).tokens[0][1:]
    first, second, third = tokens.view(3, 20)
    assert (first == second).sum() < 5 and (second == third).sum() < 5 and (first == third).sum() < 5
    alone = EnergySampler(uniform, num_steps=1).generate([[0]], 20, seed=3).tokens[0][1:]
    assert torch.equal(first, alone)


def test_energies_judge_a_clean_prefix_and_the_block(stories):
    denoiser = modernbert()
    ar = AutoregressiveEnergy(causal_lm(), bos_token_id=0)
    for form in ({"scope": "sequence"}, {"order": "left_to_right"}):
        sampler = EnergySampler(denoiser, ar, num_steps=2, num_candidates=4, **form)
        rows = sampler.generate([[1, 2], [3]], 12, block_length=4, seed=[0, 1])
        assert torch.equal(sampler.generate([[3]], 12, block_length=4, seed=[1]).tokens[0], rows.tokens[1])
    energy = SequenceEnergy.from_denoiser(denoiser)
    whole = EnergySampler(denoiser, energy, num_steps=2, num_candidates=2, scope="sequence")
    whole.generate([[1, 2]], 8, seed=0)
    with pytest.raises(ValueError, match="the blocks to come, where text is written block by block"):
        whole.generate([[1, 2]], 8, block_length=4, seed=0)


# Ends


def test_an_end_of_text_cuts_the_text_and_saves_passes():
    seen: list = []
    denoiser = certain([1, 2, 3, EOS, 1, 2, 3, 4, 1, 2, 3, 4])
    denoiser.encode_tokens, encode = (lambda *args: seen.append(len(args[0])) or encode(*args)), denoiser.encode_tokens
    sampler = EnergySampler(denoiser, num_steps=1)
    output = sampler.generate([[0]], 11, block_length=2, eos_token_id=EOS, seed=0)
    assert len(seen) == len(output.steps) == 2  # position 3 lies in the second block
    assert output.tokens[0].tolist() == [0, 2, 3, EOS, 1] + [EOS] * 7
    assert len(sampler.generate([[0]], 11, block_length=2, eos_token_id=None, seed=0).steps) == 6
    seen.clear()  # a row that goes on is not held up, and pays for itself only
    rows = sampler.generate([[0], [0, 0, 0, 0, 0]], 7, block_length=2, eos_token_id=[EOS, 99], seed=0)
    assert rows.tokens[0].tolist() == [0, 2, 3, EOS, 1] + [EOS] * 3
    assert rows.tokens[1].tolist() == [0] * 5 + [2, 3, 4, 1, 2, 3, 4]
    assert seen == [2, 2, 1, 1]
    assert [step.num_revealed.tolist() for step in rows.steps] == [[2, 2], [2, 2], [0, 2], [0, 1]]


def test_ends_of_text(stories):
    tokenizer = stories.denoiser.tokenizer
    ids = tokenizer(" a cat.<|endoftext|> Then more")["input_ids"]
    denoiser = certain([300, *ids, *range(300, 306)], stories.denoiser.mask_token_id, len(tokenizer))
    denoiser.tokenizer = tokenizer
    sampler, prompt = EnergySampler(denoiser, num_steps=1), [tokenizer("I")["input_ids"]]
    cut = sampler.generate(prompt, len(ids), seed=0)
    assert (cut.text, cut.completions) == (["I a cat."], [" a cat."]) and cut.tokens[0][1:].tolist() == ids
    assert sampler.generate(prompt, len(ids), eos_token_id=None, seed=0).text == ["I a cat. Then more"]
    assert sampler.generate(prompt, len(ids), stop=["more", " cat"], seed=0).completions == [" a"]
    stopped = sampler.generate(prompt, len(ids), stop="cat", suffix=" and a dog", seed=0, eos_token_id=None)
    assert stopped.text == ["I a  and a dog"]
    early = sampler.generate(prompt, len(ids), stop=" cat", block_length=3, seed=0)
    assert early.text == ["I a"] and len(early.steps) == 1


# Special tokens


def character_sampler(written: str = "a" * 64) -> EnergySampler:
    """Of the tokens 0 (end), 1 (mask), 2 (unknown), then the letters of "abc <>|mskof"; certain of what it writes."""
    tokenizer = train_tokenizer(["abc <>|mskof"], kind="character")
    denoiser = certain(tokenizer(written)["input_ids"], 1, len(tokenizer))
    denoiser.tokenizer = tokenizer
    return EnergySampler(denoiser, num_steps=1)


def test_special_tokens_in_a_prompt_are_text_and_unknown_words_show():
    sampler = character_sampler()
    output = sampler.generate("a <|mask|> b", 2, seed=0)
    assert output.text[0].startswith("a <|mask|> b") and 1 not in output.tokens[0] and len(output.tokens[0]) == 14
    assert sampler.generate("a X b", 1, seed=0).text[0].startswith("a <|unk|> b")
    with pytest.raises(ValueError, match=r"a prompt must hold no mask token \(1\)"):
        sampler.generate([[3, 1]], 2)
    with pytest.raises(ValueError, match="text must be valid Unicode"):
        sampler.generate("a \ud83d b", 2)


def test_a_special_token_stops_as_any_string():
    sampler = character_sampler("aab<|endoftext|>cc")
    options = {"max_new_tokens": 5, "eos_token_id": None, "seed": 0}
    assert sampler.generate("a", **options, stop="<|endoftext|>").text == ["aab"]
    assert sampler.generate("a", **options, stop=["<|endoftext|>", "b"]).text == ["aa"]
    assert sampler.generate("a", **options).text == ["aabcc"]


def test_chat_messages_are_read_by_the_template():
    sampler, chat = character_sampler(), [{"role": "user", "content": "abc"}]
    with pytest.raises(ValueError, match="chat messages need a tokenizer with a chat template"):
        sampler.generate(chat, 2)
    template = "{% for m in messages %}<|endoftext|>{{ m.content }}{% endfor %}{{ 'ok' if add_generation_prompt }}"
    sampler.denoiser.tokenizer.chat_template = template
    letters = sampler.denoiser.tokenizer("abcok")["input_ids"]
    for prompts, number in ((chat, 1), ([chat, chat], 2)):
        output = sampler.generate(prompts, 2, seed=0)
        assert [row[:-2].tolist() for row in output.tokens] == [[0, *letters]] * number


# Partial results


def test_stream_shows_every_step_and_ends_with_the_output(stories):
    partials: list = []
    output = stories.generate("Tom had", 8, seed=0, block_length=4, callback=partials.append)
    assert [(p.step, p.num_done) for p in partials] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all(isinstance(p, Partial) and p.text[0].startswith("Tom had") for p in partials)
    masks = [p.text[0].count("<|mask|>") for p in partials]
    assert masks == [6, 4, 2, 0] and partials[-1].text == output.text
    writing = stories.stream("Tom had", 8, seed=0, block_length=4)
    for partial in partials:
        assert torch.equal(next(writing).tokens[0], partial.tokens[0])
    with pytest.raises(StopIteration) as end:
        next(writing)
    assert end.value.value.text == output.text and torch.equal(end.value.value.tokens[0], partials[-1].tokens[0])


def test_a_denoiser_without_a_tokenizer_gives_tokens():
    output = EnergySampler(watched([]), num_steps=2).generate([[1, 2]], 4, seed=0)
    assert output.text == [""] and len(output.tokens[0]) == 6
    with pytest.raises(ValueError, match="text needs a tokenizer, and this denoiser has none"):
        EnergySampler(watched([]), num_steps=2).generate("a", 4)


# Mistakes


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ([], {}, "at least one text or token list"),
        (5, {}, "prompts must be a text, chat messages, or a list of at least one text or token list, got 5"),
        ([[1]], {"max_new_tokens": 4.0}, "max_new_tokens must be an integer, got 4.0"),
        ([[1]], {"seed": "x"}, "seed must be an integer, a list of integers or None, got 'x'"),
        ([[1]], {"stop": 5}, "stop must be a text, a list of texts or None, got 5"),
        ([[1]], {"stops": "a"}, "GenerateOptions has no option 'stops'; did you mean 'stop'?"),
        ([1, 2], {}, r"a list of at least one text or token list, got \[1, 2\]"),
        ([[1]], {"num_return_sequences": 0}, "num_return_sequences must be >= 1, got 0"),
        ([[1]], {"block_length": 0}, "block_length must be >= 1, got 0"),
        ([[1]], {"block_length": 2, "block_size": 4}, r"must be the denoiser's block_size \(4\), got 2"),
        ([[1]], {"block_length": 9}, "block_length must be at most 8, to fit max_length = 8, got 9"),
        ([[1]], {}, "at most max_length = 8 tokens long to be written at once, got 11; generate writes longer ones"),
        ([[1]], {"seed": [1, 2], "block_length": 2}, r"there must be one seed a row \(1\), got 2"),
        ([[1]], {"seed": -1, "block_length": 2}, "seeds must be >= 0, got -1"),
        ([[1]], {"temperature": 0.0, "block_length": 2}, "temperature must be > 0"),
        (
            [[1]],
            {"eos_token_id": "eos", "block_length": 2},
            "eos_token_id must be an integer, .*got 'eos'",
        ),
        ([[1]], {"stop": "a", "block_length": 2}, "stop strings need a tokenizer"),
        ([[1]], {"stop": ["a", ""], "block_length": 2}, "stop must hold no empty string"),
        ([[1], [2]], {"suffix": ["a"]}, r"suffix must be one text, or one a prompt \(2\), got 1"),
    ],
)
def test_mistakes(prompts, options, message):
    options = {"max_new_tokens": 10, **options}
    sampler = EnergySampler(watched([], max_length=8, block_size=options.pop("block_size", None)), num_steps=1)
    with pytest.raises(ValueError, match=message):
        sampler.stream(prompts, **options)  # at once, not at the first step


def test_by_default_as_much_is_written_as_the_longest_prompt_leaves():
    sampler = EnergySampler(watched([], max_length=8), num_steps=1)
    assert [len(row) for row in sampler.generate([[1], [1, 1, 1]]).tokens] == [6, 8]
    assert len(sampler.generate([[1]], block_length=4).tokens[0]) == 65


@pytest.mark.parametrize("batch_size", [1, 2, 3, 9])
def test_batches_in_turn_are_as_all_rows_at_once(batch_size):
    denoiser = modernbert()
    sampler = EnergySampler(denoiser, disturbed_head(denoiser), num_steps=2, num_candidates=4, group_size=2)
    options = {"num_return_sequences": 2, "seed": 3, "block_length": 4, "eos_token_id": 2}
    prompts, partials = [[0, 1, 3], [3], [1, 0, 0, 1, 3]], []
    whole = sampler.generate(prompts, 9, **options)
    parts = sampler.generate(prompts, 9, **options, batch_size=batch_size, callback=partials.append)
    assert (parts.text, parts.fills, parts.seeds) == (whole.text, whole.fills, whole.seeds)
    assert all(map(torch.equal, parts.tokens, whole.tokens))
    assert len(parts.steps) == len(whole.steps)
    for mine, theirs in zip(parts.steps, whole.steps, strict=True):
        assert torch.equal(mine.num_revealed, theirs.num_revealed) and torch.equal(mine.judged, theirs.judged)
        assert mine.step == theirs.step and mine.denoiser_calls >= theirs.denoiser_calls
        assert torch.allclose(mine.ess.sum(), theirs.ess.sum())
    assert [partial.step for partial in partials] == [*range(len(partials))]
    assert all(len(partial.text) == 6 for partial in partials)
    assert all(map(torch.equal, partials[-1].tokens, whole.tokens)) or batch_size == 9
    shown = [[[step["pieces"] for step in row["steps"]] for row in output.trace(6).rows] for output in (parts, whole)]
    assert len(shown[0]) == 6 and shown[0] == shown[1]
