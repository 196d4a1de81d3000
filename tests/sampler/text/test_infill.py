"""Texts with gaps: spaces around them, several in a text, frames, batches."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from edlm import EnergySampler, FunctionDenoiser
from edlm.denoisers import MaskedLMDenoiser
from edlm.sampler.text.prompts import Reader, rows_of_texts


def infilled(sampler, texts, **options):
    return sampler.infill(texts, **{"seed": 0, **options})


def test_text_that_is_all_given_comes_back_beside_text_with_gaps(stories):
    texts = ["Once upon a time, there was a dog.", ' Two  spaces, "quotes" and\nlines. ', "A <mask> dog."]
    output = infilled(stories, texts)
    assert output.text[:2] == texts[:2] and output.fills[:2] == [(), ()] and len(output.steps) == 2
    with pytest.raises(ValueError, match="texts must hold <mask> where text is to be written, got \\['One.'\\]"):
        infilled(stories, "One.")


def pieces_of(sampler, text, **options) -> list[str]:
    """The tokens of the given pieces, between the gaps."""
    output = infilled(sampler, text, **options)
    tokenizer = sampler.denoiser.tokenizer
    row = rows_of_texts(sampler.denoiser, text, "<mask>", options.get("span_length", 1))[0]
    assert torch.equal(output.tokens[0][~row.is_gap()], row.tokens[~row.is_gap()])
    assert not (output.tokens[0] == sampler.denoiser.mask_token_id).any()
    pieces = tokenizer.convert_ids_to_tokens(row.tokens)
    return ["_" if gap else token for token, gap in zip(pieces, row.is_gap(), strict=True)]


def test_spaces_around_gaps_are_as_in_running_text(stories):
    assert pieces_of(stories, "Once <mask> a time") == ["Once", "_", "Ġa", "Ġtime"]
    assert pieces_of(stories, "Once<mask> a time") == ["Once", "_", "Ġa", "Ġtime"]
    assert pieces_of(stories, "Once <mask>, a time") == ["Once", "_", ",", "Ġa", "Ġtime"]
    assert pieces_of(stories, "<mask> a time") == ["_", "Ġa", "Ġtime"]
    assert pieces_of(stories, "Once <mask:3>") == ["Once", *"___"]
    assert pieces_of(stories, "Once <mask> <mask:2><mask> a", span_length=2) == ["Once", *"______", "Ġa"]
    assert pieces_of(stories, "Once <|mask|> a <|mask|><|mask|>") == ["Once", "_", "Ġa", "_", "_"]
    text = infilled(stories, "The dog <mask:2> and the cat <mask>.").text[0]
    assert text.startswith("The dog") and " and the cat" in text and text.endswith(".")


def test_gaps_in_a_batch_are_as_each_alone(stories):
    texts = ["Once <mask:4> a time there was <mask:2>.", "The <mask> dog", "<mask:9>", "No gap at all."]
    seeds = [3, 1, 4, 1]
    together = stories.infill(texts, seed=seeds, num_return_sequences=1)
    for row, text in enumerate(texts[:3]):  # the last has no gap
        alone = stories.infill(text, seed=[seeds[row]])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.text[0] == together.text[row] and alone.fills[0] == together.fills[row]
    assert [len(fills) for fills in together.fills] == [2, 1, 1, 0]
    first = together.fills[0]
    assert together.text[3] == texts[3] and together.text[0] == f"Once{first[0]} a time there was{first[1]}."


def wordpiece_denoiser() -> MaskedLMDenoiser:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "on", "mat", ".", ","]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=20, initializer_range=0.4, **shape)
    return MaskedLMDenoiser(BertForMaskedLM(config).eval(), wrapped)


def test_wordpiece_texts_stand_in_their_frame():
    denoiser = wordpiece_denoiser()
    assert denoiser.is_framed and (denoiser.prefix_ids, denoiser.suffix_ids) == ((2,), (3,))
    sampler = EnergySampler(denoiser, num_steps=2)
    pieces = pieces_of(sampler, "the <mask:2> sat on [MASK] mat .")
    assert pieces == ["[CLS]", "the", "_", "_", "sat", "on", "_", "mat", ".", "[SEP]"]
    output = sampler.infill(["the cat <mask> on the mat", "the cats"], seed=0)
    assert output.text[1] == "the cats" and output.text[0].startswith("the cat")
    assert "[" not in output.text[0].replace("[UNK]", "")
    continued = sampler.generate("the cat", 3, seed=0)
    assert continued.tokens[0][[0, 1, 2, -1]].tolist() == [2, 5, 6, 3] and continued.text[0].startswith("the cat")
    longer = sampler.generate(["the cat", "the"], 30, block_length=5, seed=0)
    assert torch.equal(sampler.generate("the", 30, block_length=5, seed=1).tokens[0], longer.tokens[1])
    assert longer.tokens[0][-1] == 3 and len(longer.tokens[0]) == 34


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "texts must be a text or a list of at least one text"),
        ([[1, 2]], {}, "texts must be a text"),
        (None, {}, "texts must be a text or a list of at least one text, got None"),
        ("a <mask:100000000000>", {}, "a row must be at most 16777216 tokens long, got 100000000001"),
        ("a <mask:0>", {}, "a gap must hold at least one token, got '<mask:0>'"),
        ("a <MASK> b", {}, "a gap must be spelled <mask> or <mask:12>, got '<MASK>'"),
        ("a <mask: 3> b", {}, "a gap must be spelled <mask> or <mask:12>, got '<mask: 3>'"),
        ("a <mask:-1>", {}, "a gap must be spelled <mask> or <mask:12>, got '<mask:-1>'"),
        ("a < mask >", {}, "a gap must be spelled <mask> or <mask:12>, got '< mask >'"),
        ("a \udce9 <mask>", {}, r"text must be valid Unicode, got 'a \\udce9"),
        ("a <mask>", {"span_length": 0}, "span_length must be >= 1"),
        ("a <mask:200>", {}, "at most max_length = 128 tokens long to be written at once, got 201"),
    ],
)
def test_gap_mistakes(stories, texts, options, message):
    with pytest.raises(ValueError, match=message):
        stories.infill(texts, **options)


def test_another_marker(stories):
    assert len(stories.infill("Once [gap:3] a time", mask="[gap]", seed=0).fills[0]) == 1
    assert stories.infill("Once ___ a time", mask="___", seed=0).tokens[0].shape == (4,)
    clock = stories.infill("We met at 10:30_ sharp", mask="_", seed=0)
    assert clock.text[0].startswith("We met at 10:30") and len(clock.fills[0]) == 1


def sentencepiece_denoiser() -> FunctionDenoiser:
    """A tokenizer that puts a space before whatever a text begins with, as Llama's does."""
    words = ["<unk>", "▁", "▁the", "▁dog", "dog", "the", ".", ",", "▁."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    steps = [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.Metaspace()
    denoiser = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, len(words)), len(words), len(words))
    denoiser.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    return denoiser


def test_pieces_inside_a_sentencepiece_text_get_no_space_of_their_own():
    reader = Reader(sentencepiece_denoiser())

    def pieces(text):
        return [
            part if isinstance(part, int) else reader.tokenizer.convert_ids_to_tokens(part)
            for part in reader.pieces(text, "<mask>", 1)
        ]

    assert pieces("the <mask> dog") == [["▁the"], 1, ["▁dog"]]
    assert pieces("the<mask>dog<mask>.") == [["▁the"], 1, ["dog"], 1, ["."]]


def test_sentencepiece_merges_of_an_anchor_put_no_space_in():
    """Two full stops are one token, so that text after a gap is not read after a full stop."""
    pieces = ["<unk>", "<s>", "</s>", "<mask>", "▁", "a", ".", "..", "▁a"]
    ranks = {piece: i for i, piece in enumerate(pieces)}
    words = Tokenizer(models.BPE(ranks, [(".", "."), ("▁", "a")], unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = {"unk_token": "<unk>", "eos_token": "</s>", "mask_token": "<mask>"}
    denoiser = FunctionDenoiser(lambda x_t, _: 50.0 * torch.nn.functional.one_hot(torch.full(x_t.shape, 8), 9), 3, 9)
    denoiser.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    sampler = EnergySampler(denoiser, num_steps=1)
    assert infilled(sampler, "a <mask>.").text == sampler.generate("a", 1, suffix=".", seed=0).text == ["a a."]
