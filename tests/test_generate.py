"""Generation: the same text in any company, and the text that `model.generate` writes"""
from __future__ import annotations

import pytest, torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM

from cotkit.data.core import CotkitError
from cotkit.data.formats import ZeroShotCoT
from cotkit.models.generate import (Decoder, DecodeRequest, DecodingParams, can_refill, choose_tokens, decode, generate,
                                    generations, prefill_causal, uniform_numbers)
from cotkit.models.students import Size, Student, build_model
from cotkit.models.config import ARCHITECTURES
from cotkit.models.tokenizers import decoder_inputs, tokenize_inputs, train_tokenizer

torch.set_num_threads(1)
QUESTION = 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?'
WORDS = QUESTION.split()
PROMPTS = [' '.join(WORDS[i % 5:i % 5 + 1 + (7 * i) % 13]) for i in range(24)]
TOKENIZERS = {arch: train_tokenizer([QUESTION] * 2, arch, vocab_size=290) for arch in ARCHITECTURES}


def student_of(arch: str, seed: int = 0) -> Student:
    "A random student whose texts differ in content and length: layers weigh more than the embedding, and the end token is likely"
    model = build_model(Size(2, 32, 2), TOKENIZERS[arch], arch, seed)
    with torch.no_grad():
        if arch == 'seq2seq': model.shared.weight *= 0.2
        model.get_output_embeddings().weight[1] *= 4
    return Student(model, TOKENIZERS[arch], ZeroShotCoT(), arch)


def gpt2(tokenizer, positions: int = 64) -> Student:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1, pad_token_id=0, initializer_range=0.3)
    return Student(GPT2LMHeadModel(config).eval(), tokenizer, ZeroShotCoT())


def sliding(tokenizer) -> Student:
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                           sliding_window=8, bos_token_id=2, eos_token_id=1, pad_token_id=0, initializer_range=0.2)
    return Student(MistralForCausalLM(config).eval(), tokenizer, ZeroShotCoT())


def opt(tokenizer) -> Student:
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=len(tokenizer), hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
                       bos_token_id=2, eos_token_id=1, pad_token_id=0, init_std=0.3)
    return Student(OPTForCausalLM(config).eval(), tokenizer, ZeroShotCoT())


STUDENTS = {'llama': lambda: student_of('causal'), 't5': lambda: student_of('seq2seq'), 'gpt2': lambda: gpt2(TOKENIZERS['causal']),
            'sliding window': lambda: sliding(TOKENIZERS['causal']), 'opt': lambda: opt(TOKENIZERS['causal'])}


def reference(student: Student, prompt: str, max_new_tokens: int) -> str:
    "One prompt, by `model.generate`, without padding"
    ids = torch.tensor(tokenize_inputs(student.tokenizer, [prompt], student.arch))
    out = student.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False)[0]
    return student.tokenizer.decode(out[ids.shape[1] if student.arch == 'causal' else 1:], skip_special_tokens=True).removeprefix(' ')


@pytest.mark.parametrize('name', STUDENTS)
def test_any_batch_writes_what_one_at_a_time_writes(name):
    student = STUDENTS[name]()
    expected = [reference(student, prompt, 20) for prompt in PROMPTS]
    assert len({len(student.tokenizer(o).input_ids) for o in expected}) > 1 and len(set(expected)) > 3
    for batch_size in (1, 3, 8, 64): assert generate(student, PROMPTS, DecodingParams(20, batch_size)) == expected


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('seed', range(5))
def test_greedy_is_exact_on_random_students(arch, seed):
    student = student_of(arch, seed)
    prompts = [f'{a} {b}'.strip() for a in WORDS[:6] for b in ('', QUESTION, 'has')]
    assert generate(student, prompts, DecodingParams(24, 4)) == [generate(student, [prompt], DecodingParams(24))[0] for prompt in prompts]


def test_which_models_refill():
    joins = {}
    for name in ('llama', 'gpt2', 'sliding window', 'opt', 't5'):
        student = STUDENTS[name]()
        requests = [DecodeRequest(row, 8) for row in tokenize_inputs(student.tokenizer, PROMPTS, student.arch)]
        joins[name] = can_refill(student.model, Decoder(student.model, student.tokenizer, requests).prefill(2))
    assert joins == {'llama': True, 'gpt2': True, 'sliding window': False, 'opt': joins['opt'], 't5': True}


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_sampling_is_the_same_in_any_batch(arch):
    student = student_of(arch)
    once = generate(student, PROMPTS, DecodingParams(16, 64, temperature=1.0, sampling_seed=3))
    assert once == generate(student, PROMPTS, DecodingParams(16, 5, temperature=1.0, sampling_seed=3)) == generate(student, PROMPTS, DecodingParams(16, 1, temperature=1.0, sampling_seed=3))
    assert once != generate(student, PROMPTS, DecodingParams(16, 64, temperature=1.0, sampling_seed=4))
    assert len(set(generate(student, ['Ann'] * 8, DecodingParams(16, temperature=1.0)))) > 4


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([[1.0, 3.0, -1.0, 2.0]])
    u = uniform_numbers(0, 20_000)
    chosen = choose_tokens(logits.expand(len(u), -1), torch.full_like(u, 0.7), u)
    found = torch.bincount(chosen, minlength=4) / len(u)
    assert torch.allclose(found, (logits[0] / 0.7).softmax(-1), atol=0.015)


def test_impossible_tokens_are_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for u in (0.0, 1e-300, 0.5, 1 - 2**-53): assert choose_tokens(logits, torch.ones(1), torch.tensor([u], dtype=torch.float64)).item() in (1, 3)


def test_low_temperature_is_greedy():
    student = student_of('causal')
    assert generate(student, PROMPTS, DecodingParams(12, temperature=1e-4)) == generate(student, PROMPTS, DecodingParams(12))


def test_global_random_state_and_mode_are_left_alone():
    student = student_of('causal')
    student.model.train()
    before = torch.get_rng_state()
    generate(student, PROMPTS[:3], DecodingParams(4, temperature=1.0))
    assert torch.equal(before, torch.get_rng_state()) and student.model.training
    student.model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


def test_text_ends_at_the_end_token_and_at_the_limit():
    student = student_of('causal')
    student.model.generation_config.eos_token_id = [1, 7]
    prompts = tokenize_inputs(student.tokenizer, PROMPTS)
    outputs = decode(student.model, student.tokenizer, [DecodeRequest(row, 7, 1.0, i) for i, row in enumerate(prompts)], 5)
    for row, output in zip(prompts, outputs):
        stopped = output.finish_reason == 'stop'
        assert not {1, 7} & set(output.token_ids) and len(output.token_ids) + stopped == output.completion_tokens <= 7
        assert (stopped or output.completion_tokens == 7) and output.prompt_tokens == len(row)
    assert len({o.completion_tokens for o in outputs}) > 2 and {o.finish_reason for o in outputs} == {'stop', 'length'}


def test_model_with_few_positions_stops_there():
    student = gpt2(TOKENIZERS['causal'], positions=24)
    student.model.generation_config.eos_token_id = None
    student.tokenizer = train_tokenizer([QUESTION] * 2, vocab_size=290)
    prompts = [prompt for prompt in PROMPTS if len(student.tokenizer(prompt).input_ids) < 24]
    assert generate(student, prompts, DecodingParams(100, 4)) == [generate(student, [prompt], DecodingParams(100))[0] for prompt in prompts]
    with pytest.raises(CotkitError, match='this model reads 23'): generate(student, [QUESTION * 3])


def test_no_prompts_and_bad_arguments():
    student = student_of('causal')
    assert generate(student, []) == []
    for bad in (dict(max_new_tokens=0), dict(batch_size=0), dict(temperature=-1.0)):
        with pytest.raises(CotkitError, match=next(iter(bad))): generate(student, ['Ann'], DecodingParams(**bad))
    with pytest.raises(CotkitError, match='empty'): generate(student, ['Ann', ''])


def test_long_prompts_are_read_a_few_at_a_time(monkeypatch):
    student = student_of('causal')
    whole = generate(student, PROMPTS, DecodingParams(8, 16))
    monkeypatch.setattr('cotkit.models.generate.PREFILL_TOKENS', 30)
    assert generate(student, PROMPTS, DecodingParams(8, 16)) == whole


def test_padding_is_not_read():
    "Logits of a padded row equal those of the row alone"
    student = student_of('causal')
    rows = tokenize_inputs(student.tokenizer, ['Ann', QUESTION])
    with torch.inference_mode():
        together = prefill_causal(student.model, rows, 0)['logits'][0]
        alone = prefill_causal(student.model, rows[:1], 0)['logits'][0]
    assert torch.allclose(together, alone, atol=1e-5)


def test_progress_goes_to_standard_error(capfd, monkeypatch):
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    student = student_of('causal')
    generate(student, PROMPTS[:2], DecodingParams(2))
    assert capfd.readouterr().err == ''
    generate(student, PROMPTS[:2], DecodingParams(2), progress=True)
    out = capfd.readouterr()
    assert '2/2' in out.err and out.out == ''


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_how_an_output_ended_is_told(arch):
    "Truncated outputs are those that `model.generate` would have gone on with; tokens are counted with the end token"
    student = student_of(arch)
    outputs = generations(student, PROMPTS, DecodingParams(12, 5))
    assert [o.text for o in outputs] == generate(student, PROMPTS, DecodingParams(12))
    assert {o.finish_reason for o in outputs} == {'stop', 'length'}
    for prompt, short, long in zip(PROMPTS, outputs, generations(student, PROMPTS, DecodingParams(13))):
        assert short.prompt_tokens == len(tokenize_inputs(student.tokenizer, [prompt], arch)[0])
        assert (short.finish_reason == 'length') == (long.completion_tokens == 13) == (short.completion_tokens == 12 and long != short)


def test_one_text_is_no_list_of_prompts():
    with pytest.raises(CotkitError, match=r'generate\(student, \[prompt\]\)'): generate(student_of('causal'), QUESTION)


@pytest.mark.parametrize('name', ['mamba', 'openai-gpt', 'recurrent_gemma', 'xlnet'])
def test_models_without_a_cache_write_too(name):
    "They read everything again at each step; padding and company change nothing"
    from transformers import AutoConfig, AutoModelForCausalLM
    shape = {'mamba': dict(hidden_size=32, num_hidden_layers=2, state_size=8), 'openai-gpt': dict(n_embd=32, n_layer=2, n_head=4, n_positions=128),
             'recurrent_gemma': dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, attention_window_size=64, lru_width=32),
             'xlnet': dict(d_model=32, n_layer=2, n_head=4, d_inner=64)}
    torch.manual_seed(0)
    tokenizer = TOKENIZERS['causal']
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=2, **shape[name])).eval()
    with torch.no_grad():
        for weight in model.parameters(): weight.add_(0.1 * torch.randn_like(weight))
    student = Student(model, tokenizer)
    prompts = PROMPTS[:8]
    if name in ('recurrent_gemma', 'xlnet'):  # one takes a prompt for the continuation of the one before, one looks ahead
        with pytest.raises(CotkitError, match=f'a {name} cannot be decoded'): generate(student, prompts)
        return
    assert generate(student, prompts, DecodingParams(10, 3)) == [reference(student, prompt, 10) for prompt in prompts]


def test_no_padding_token_is_no_obstacle():
    student = student_of('causal')
    expected = generate(student, PROMPTS, DecodingParams(12))
    student.tokenizer = train_tokenizer([QUESTION] * 2, vocab_size=290)
    student.tokenizer.pad_token = None
    assert generate(student, PROMPTS, DecodingParams(12)) == expected


@pytest.mark.parametrize('start, first', [(5, 5), (None, 2)])
def test_a_decoder_starts_as_it_was_taught_to(start, first):
    "MBart shifts labels round by itself and may name no start token; teaching and writing use the same one"
    from transformers import MBartConfig, MBartForConditionalGeneration
    tokenizer = TOKENIZERS['seq2seq']
    torch.manual_seed(0)
    config = MBartConfig(vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                         decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2, decoder_start_token_id=start, init_std=0.3)
    student = Student(MBartForConditionalGeneration(config).eval(), tokenizer, arch='seq2seq')
    output, = generations(student, ['Ann has 3 apples.'], DecodingParams(6))
    labels = torch.tensor([output.token_ids])
    taught = decoder_inputs(student.model, labels)
    assert taught[0, 0] == first
    ids = torch.tensor(tokenize_inputs(tokenizer, ['Ann has 3 apples.'], 'seq2seq'))
    assert torch.equal(student.model(input_ids=ids, decoder_input_ids=taught).logits.argmax(-1), labels)


def test_an_encoder_decoder_with_few_positions_stops_there():
    from transformers import BartConfig, BartForConditionalGeneration
    config = BartConfig(vocab_size=len(TOKENIZERS['seq2seq']), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=24, pad_token_id=0, eos_token_id=None, bos_token_id=2, decoder_start_token_id=1)
    tokenizer = train_tokenizer([QUESTION] * 2, 'seq2seq', vocab_size=290)
    tokenizer.eos_token = None
    student = Student(BartForConditionalGeneration(config).eval(), tokenizer, arch='seq2seq')
    assert [o.completion_tokens for o in generations(student, ['Ann', 'Ann has'], DecodingParams(100))] == [24, 24]
    with pytest.raises(CotkitError, match='this model reads 24'): generate(student, [QUESTION * 3])


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_requests_have_settings_of_their_own(arch):
    "Limits, temperatures, stop strings and log-probabilities of one batch do not mix"
    student = student_of(arch)
    rows = tokenize_inputs(student.tokenizer, PROMPTS, arch)
    whole = decode(student.model, student.tokenizer, [DecodeRequest(row, 16) for row in rows])
    stop = whole[9].text[2:4]
    requests = [DecodeRequest(row, (4, 16)[i % 2], (0.0, 1.0)[i // 2 % 2], i, (stop,) if i % 3 == 0 else (), i % 4) for i, row in enumerate(rows)]
    mixed = decode(student.model, student.tokenizer, requests, 7)
    for request, output in zip(requests, mixed):
        alone, = decode(student.model, student.tokenizer, [request])
        assert (output.text, output.finish_reason, output.token_ids) == (alone.text, alone.finish_reason, alone.token_ids)
        assert output.completion_tokens <= request.max_new_tokens and not any(o in output.text for o in request.stop)
        assert len(output.logprobs) == (len(output.token_ids) if request.top_logprobs else 0) == len(output.top)
        assert all(len(o) == request.top_logprobs for o in output.top)
    assert mixed[9].finish_reason == 'stop' and whole[9].text.startswith(mixed[9].text) and len(mixed[9].text) <= 2


def test_log_probabilities_are_those_of_the_model():
    student = student_of('causal')
    row, = tokenize_inputs(student.tokenizer, PROMPTS[:1])
    output, = decode(student.model, student.tokenizer, [DecodeRequest(row, 8, 1.0, seed=4, top_logprobs=3)])
    ids = torch.tensor([[*row, *output.token_ids]])
    scores = student.model(ids).logits[0, len(row) - 1:-1].log_softmax(-1)
    assert torch.allclose(torch.tensor(output.logprobs), scores.gather(1, torch.tensor(output.token_ids)[:, None])[:, 0], atol=1e-4)
    values, tokens = scores.topk(3)
    assert [[token for token, _ in place] for place in output.top] == tokens.tolist()
    assert torch.allclose(torch.tensor([[value for _, value in place] for place in output.top]), values, atol=1e-4)


def test_decoding_is_cancelled_between_two_tokens():
    student = student_of('causal')
    requests = [DecodeRequest(row, 20) for row in tokenize_inputs(student.tokenizer, PROMPTS)]
    steps = iter([False] * 3 + [True])
    some = decode(student.model, student.tokenizer, requests, cancelled=lambda: next(steps))
    assert None in some and all(o is None or o.completion_tokens <= 4 for o in some)
