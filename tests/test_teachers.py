"Teachers: the protocol, its errors, and a local model against a naive loop"
import asyncio, gc, json, logging, subprocess, sys, time, traceback

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Problem, Request
from cotkit.data.formats import ZeroShotCoT
from cotkit.data.answers import is_correct
from cotkit.data.reading import read_answer
from cotkit.data.word_problems import word_problems
from cotkit.teachers.local import LocalTeacher, token_texts
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher, completion_from_reply, retry_after_seconds, status_error
from cotkit.teachers.protocol import OracleTeacher, ReplayTeacher, Teacher, TeacherError, split_thinking
from loopback import Loopback, Raw, Reset, Stall, Status, Truncate

KEY = 'sk-very-secret-4711'


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    monkeypatch.delenv('OPENAI_BASE_URL', raising=False)


def ask(teacher, request: Request):
    async def work():
        try: return await teacher.complete(request)
        finally: await teacher.aclose()
    return asyncio.run(work())


def error_of(plan, **options) -> TeacherError:
    with Loopback(plan) as server, pytest.raises(TeacherError) as e:
        ask(OpenAITeacher('tiny', EndpointConfig(server.base_url, **options)), Request('tiny', 'Q: apples'))
    assert '\n' not in str(e.value)
    shown = ''.join(traceback.format_exception(e.value)) + repr(e.value) + repr(vars(e.value))
    assert KEY not in shown and e.value.__context__ is None and e.value.__cause__ is None
    return e.value


# OpenAI-compatible endpoints

def test_the_request_as_it_arrives_and_the_answer_with_logprobs():
    with Loopback() as server:
        request = Request('tiny', 'Q: apples', system='Be brief.', temperature=0.5, max_tokens=7, top_logprobs=3, stop=('\n\nQ:',))
        completion = ask(OpenAITeacher('tiny', EndpointConfig(server.base_url)), request)
        _, headers, body = server.received[0]
    assert headers['Authorization'] == f'Bearer {KEY}'
    assert body == {'model': 'tiny', 'temperature': 0.5, 'max_tokens': 7, 'logprobs': True, 'top_logprobs': 3, 'stop': ['\n\nQ:'],
                    'messages': [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Q: apples'}]}
    assert completion.text == 'I was asked about apples The answer is 11.' == ''.join(o.token for o in completion.logprobs)
    assert len(completion.logprobs[0].top) == 3 and completion.completion_tokens == len(completion.logprobs)


def test_address_and_key_come_from_the_environment(monkeypatch):
    with Loopback() as server:
        monkeypatch.setenv('OPENAI_BASE_URL', server.base_url + '/')
        monkeypatch.delenv('OPENAI_API_KEY')
        assert ask(OpenAITeacher('tiny'), Request('tiny', 'Q')).text
        assert KEY not in server.received[0][1]['Authorization']
    monkeypatch.delenv('OPENAI_BASE_URL')
    with pytest.raises(CotkitError, match='Set OPENAI_API_KEY'): OpenAITeacher('tiny')


def test_one_teacher_in_several_loops():
    with Loopback() as server:
        teacher = OpenAITeacher('tiny', EndpointConfig(server.base_url))
        for _ in range(3): assert ask(teacher, Request('tiny', 'Q')).text
        async def unclosed(): return await teacher.complete(Request('tiny', 'Q'))
        assert asyncio.run(unclosed()).text and ask(teacher, Request('tiny', 'Q')).text


@pytest.mark.parametrize('status,retryable,fatal', [(400, False, False), (401, False, True), (403, False, True), (404, False, True), (408, True, False), (413, False, False),
                                                    (422, False, False), (429, True, False), (500, True, False), (502, True, False), (503, True, False), (529, True, False)])
def test_status(status, retryable, fatal):
    error = error_of(lambda n, body: Status(status, body={'error': {'message': f'key {KEY} and\nmore {"x" * 500}'}}))
    assert (error.status, error.retryable, error.fatal) == (status, retryable, fatal)
    assert str(status) in str(error) and len(str(error)) < 400


def test_the_remedy_for_a_refused_key_names_the_variable(monkeypatch):
    monkeypatch.setenv('MY_KEY', KEY)
    assert 'Set MY_KEY to a valid key' in str(error_of(lambda n, body: Status(401), key_env='MY_KEY'))


def test_a_used_up_quota_is_not_asked_again():
    error = error_of(lambda n, body: Status(429, body={'error': {'message': 'You exceeded your quota', 'code': 'insufficient_quota'}}))
    assert error.fatal and not error.retryable


@pytest.mark.parametrize('headers,seconds', [({'Retry-After': '3'}, 3), ({'Retry-After': '0.5'}, 0.5), ({'retry-after-ms': '250'}, 0.25), ({'Retry-After': 'Wed, 21 Oct 2015 07:28:00 GMT'}, 0),
                                             ({'Retry-After': 'later'}, None), ({'Retry-After': 'nan'}, None), ({'Retry-After': '-4'}, 0), ({}, None)])
def test_retry_after(headers, seconds):
    assert error_of(lambda n, body: Status(429, headers)).retry_after == seconds


@given(st.text(max_size=30))
def test_retry_after_never_crashes(value):
    seconds = retry_after_seconds({'retry-after': value})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize('fault', [Truncate(), Reset(), Raw('{"choices": ['), Raw('{"choices": []}'), Raw('null'), Raw('[1]'), Raw('"text"'), Raw('<html>busy</html>', 'text/html'),
                                   Raw('{"choices": [{"message": 5}]}'), Raw('{"choices": [{"message": {"content": 5}}]}'), Raw('{"choices": [{"message": {"content": ""}, "logprobs": {"content": [{}]}}]}')])
def test_broken_replies_are_worth_another_try(fault):
    error = error_of(lambda n, body: fault)
    assert error.retryable and not error.fatal


def test_a_server_that_hangs():
    error = error_of(lambda n, body: Stall(30), timeout=0.2)
    assert error.retryable and 'within 0.2 s' in str(error)


def test_nobody_waits_ten_minutes_unless_asked_to():
    "The time that a request may take is two minutes, at the connection too"
    assert EndpointConfig().timeout == 120
    assert OpenAITeacher('tiny', EndpointConfig('http://127.0.0.1:9/v1'))._endpoint.timeout == 120


def test_the_body_is_what_is_sent():
    with Loopback() as server:
        teacher, request = OpenAITeacher('tiny', EndpointConfig(server.base_url, extra={'top_p': 0.9}, limit_field='max_completion_tokens')), Request('tiny', 'Q', max_tokens=7)
        ask(teacher, request)
        assert server.received[0][2] == teacher.body(request) and teacher.body(request)['max_completion_tokens'] == 7 and teacher.body(request)['top_p'] == 0.9


def test_nobody_listens():
    with Loopback() as server: url = server.base_url
    with pytest.raises(TeacherError, match='cannot connect') as e: ask(OpenAITeacher('tiny', EndpointConfig(url)), Request('tiny', 'Q'))
    assert e.value.retryable and KEY not in ''.join(traceback.format_exception(e.value))


def test_the_key_is_nowhere_to_be_seen(caplog):
    caplog.set_level(logging.DEBUG)
    with Loopback() as server:
        url = server.base_url.replace('http://', 'http://user:password@')
        teacher = OpenAITeacher('tiny', EndpointConfig(url))
        assert 'password' not in repr(teacher)
        ask(OpenAITeacher('tiny', EndpointConfig(server.base_url)), Request('tiny', 'Q'))
    assert KEY not in repr(teacher) + repr(vars(teacher)) + caplog.text


@pytest.mark.parametrize('url', ['127.0.0.1:8000/v1', 'ftp://127.0.0.1/v1', 'http://', 'file:///etc/passwd'])
def test_an_address_that_is_none(url):
    with pytest.raises(CotkitError, match='http://127.0.0.1:8000/v1'): OpenAITeacher('tiny', EndpointConfig(url))


def test_a_key_that_no_header_can_carry(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-\u2013dash')
    with Loopback() as server, pytest.raises(CotkitError, match='OPENAI_API_KEY') as e: ask(OpenAITeacher('tiny', EndpointConfig(server.base_url)), Request('tiny', 'Q'))
    assert 'dash' not in str(e.value)


def test_hostile_text_arrives_and_comes_back_writable():
    text = 'a\0b \ud800 \U0001f34e <|im_end|> {{ 7*7 }} %s {0}'
    with Loopback(lambda n, body: Raw('{"choices": [{"message": {"content": "half \\ud83c apple"}, "finish_reason": "length"}]}')) as server:
        completion = ask(OpenAITeacher('tiny', EndpointConfig(server.base_url)), Request('tiny', text))
        assert server.received[0][2]['messages'][0]['content'] == text
    assert completion.text == 'half \ufffd apple' and completion.finish_reason == 'length'
    completion.text.encode()


def test_extra_fields_are_sent_and_named():
    with Loopback() as server:
        teacher = OpenAITeacher('tiny', EndpointConfig(server.base_url, extra={'top_p': 0.9}, limit_field='max_completion_tokens'))
        ask(teacher, Request(teacher.name, 'Q'))
        assert server.received[0][2]['top_p'] == 0.9 and server.received[0][2]['max_completion_tokens'] == 512
    assert teacher.name != OpenAITeacher('tiny', EndpointConfig(server.base_url)).name == 'tiny'


# oracle and replay

def test_oracle_slips_at_its_rate_and_its_mistakes_lead_to_wrong_answers():
    problems = word_problems(400, seed=3)
    teacher = OracleTeacher(problems, accuracy=0.7, seed=5)
    texts = {p.id: ask(teacher, Request(teacher.name, p.question, problem_id=p.id)).text for p in problems}
    right = {p.id: is_correct(p, read_answer(texts[p.id], p.kind)) for p in problems}
    assert right == {p.id: teacher.is_right(p.id) for p in problems}
    assert 0.62 < sum(right.values()) / 400 < 0.78
    for p in problems:
        steps = ' '.join(p.gold_steps)
        if not right[p.id]: assert steps not in texts[p.id] and len(texts[p.id].split('. ')) == len(f'{steps} The answer is 1.'.split('. '))


def test_oracle_depends_on_seed_problem_and_sample_alone():
    problems = word_problems(40, seed=1)
    def texts(order, seed):
        teacher = OracleTeacher(order, 0.5, seed)
        return {(p.id, k): ask(teacher, Request(teacher.name, p.question, problem_id=p.id, sample=k)).text for p in order for k in range(2)}
    one = texts(problems, 0)
    assert texts(problems[::-1], 0) == one and texts(problems, 1) != one


@pytest.mark.parametrize('accuracy', [-0.1, 1.1, float('nan')])
def test_oracle_accuracy(accuracy):
    with pytest.raises(CotkitError): OracleTeacher([], accuracy)


def test_oracle_without_steps_says_so():
    with pytest.raises(CotkitError, match='no gold steps'): ask(OracleTeacher([Problem('a', 'Q', '1')], 1.0), Request('o', 'Q', problem_id='a'))


def test_teachers_by_problem_need_the_problem():
    for teacher in (OracleTeacher([]), ReplayTeacher({'a': 'x'})):
        assert isinstance(teacher, Teacher) and teacher.needs_problem_id
        with pytest.raises(TeacherError) as e: ask(teacher, Request('t', 'Q'))
        assert e.value.fatal
        with pytest.raises(TeacherError) as e: ask(teacher, Request('t', 'Q', problem_id='b'))
        assert not e.value.fatal and not e.value.retryable


def test_replay_from_file(tmp_path):
    path = tmp_path/'r.jsonl'
    path.write_text('{"id": 1, "said": "one"}\n{"id": 1, "said": "uno"}\n{"id": 2, "said": "two"}\n')
    teacher = ReplayTeacher.from_jsonl(path, 'big', problem_id='id', text='said')
    assert [ask(teacher, Request('big', 'Q', problem_id='1', sample=k)).text for k in range(2)] == ['one', 'uno']
    with pytest.raises(TeacherError, match='has 2 samples'): ask(teacher, Request('big', 'Q', problem_id='1', sample=2))
    path.write_text('{"id": 1, "said": "one"}\n{"id": 1}\n')
    with pytest.raises(CotkitError) as e: ReplayTeacher.from_jsonl(path, 'big', problem_id='id', text='said')
    assert e.value.line == 2 and e.value.field == 'said'
    path.write_text('{"id": 1, "said": 5}\n')
    with pytest.raises(CotkitError) as e: ReplayTeacher.from_jsonl(path, 'big', problem_id='id', text='said')
    assert e.value.line == 1 and e.value.field == 'said'


# local models

@pytest.fixture(scope='module')
def local():
    from tiny_models import chat_tokenizer, tiny_llama
    tokenizer = chat_tokenizer()
    return LocalTeacher(tiny_llama(tokenizer), tokenizer, batch_size=4)


def naive(teacher, request: Request, k: int):
    "Greedy decoding, one token at a time, the whole text each time"
    import torch
    text = teacher.tokenizer.apply_chat_template([{'role': 'user', 'content': request.prompt}], tokenize=False, add_generation_prompt=True)
    ids, steps = teacher.tokenizer(text, add_special_tokens=False)['input_ids'], []
    for _ in range(request.max_tokens):
        with torch.no_grad(): logprobs = teacher.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        steps.append((logprobs.max().item(), logprobs.topk(k).values.tolist()))
        ids.append(int(logprobs.argmax()))
        if ids[-1] == teacher.tokenizer.eos_token_id: break
    return ids[-len(steps):], steps


def test_local_batches_agree_with_a_naive_loop(local):
    requests = [Request(local.name, 'apple ' * n, max_tokens=3 + n, top_logprobs=n) for n in range(1, 7)]
    async def work(): return await asyncio.gather(*map(local.complete, requests))
    for request, completion in zip(requests, asyncio.run(work())):
        ids, steps = naive(local, request, request.top_logprobs)
        assert completion.text == local.tokenizer.decode(ids, skip_special_tokens=True)
        kept = [(o.logprob, [v for _, v in o.top]) for o in completion.logprobs]
        assert len(kept) <= len(steps) and kept
        for (logprob, top), (expected, expected_top) in zip(kept, steps):
            assert logprob == pytest.approx(expected, abs=2e-4) and top == pytest.approx(expected_top, abs=2e-4)
        assert ''.join(o.token for o in completion.logprobs) == completion.text


def test_local_batches_what_waits_together(local):
    sizes = []
    answer = local._batcher.answer
    local._batcher.answer = lambda requests: sizes.append(len(requests)) or answer(requests)
    async def work(): return await asyncio.gather(*[local.complete(Request(local.name, f'Q {n}', max_tokens=2)) for n in range(10)])
    try: asyncio.run(work())
    finally: local._batcher.answer = answer
    assert sizes == [4, 4, 2]


def test_local_samples_follow_the_temperature(local):
    "Drawn first tokens have the frequencies of the softmax (chi-square, 40 cells at most, far below chance at 1e-6)"
    import torch
    prompt = Request(local.name, 'Q', max_tokens=1, temperature=1.5)
    requests = [Request(local.name, 'Q', max_tokens=1, temperature=1.5, sample=n) for n in range(600)]
    batcher, size = local._batcher, local._batcher.size
    batcher.size = 200
    async def work(): return await asyncio.gather(*map(local.complete, requests))
    try: texts = [o.text for o in asyncio.run(work())]
    finally: batcher.size = size
    text = local.tokenizer.apply_chat_template([{'role': 'user', 'content': 'Q'}], tokenize=False, add_generation_prompt=True)
    ids = local.tokenizer(text, add_special_tokens=False)['input_ids']
    with torch.no_grad(): p = (local.model(torch.tensor([ids])).logits[0, -1].float() / 1.5).softmax(-1)
    likely = [i for i in p.argsort(descending=True).tolist() if local.tokenizer.decode([i], skip_special_tokens=True).isalnum()][:8]
    for i in likely:
        n, expected = texts.count(local.tokenizer.decode([i])), 600 * p[i].item()
        assert abs(n - expected) < 6 * max(1.0, expected ** 0.5)
    assert len(set(texts)) > 20


def test_local_stops_at_a_string(local):
    free = ask(local, Request(local.name, 'Q: apples', max_tokens=24)).text
    stop = free[10:12]
    cut = ask(local, Request(local.name, 'Q: apples', max_tokens=24, stop=(stop,), top_logprobs=1))
    assert cut.text == free[:free.index(stop)] and cut.finish_reason == 'stop' and cut.completion_tokens < 24


def test_local_prompt_that_is_too_long(local):
    with pytest.raises(TeacherError, match='longer than the model can read') as e: ask(local, Request(local.name, 'a' * 5000))
    assert not e.value.fatal and not e.value.retryable
    edge = ask(local, Request(local.name, 'a' * 400, max_tokens=512))
    assert edge.finish_reason in ('stop', 'length') and edge.prompt_tokens + edge.completion_tokens <= local.model.config.max_position_embeddings


def test_local_from_a_folder_has_the_same_name_and_answers(local, tmp_path):
    local.model.save_pretrained(tmp_path/'m'), local.tokenizer.save_pretrained(tmp_path/'m')
    loaded = LocalTeacher(tmp_path/'m')
    assert loaded.name.split('-')[-1] == local.name.split('-')[-1]
    request = Request('x', 'Q: apples', max_tokens=8)
    assert ask(loaded, request) == ask(local, request)
    with pytest.raises(CotkitError, match='not a model folder') as e: LocalTeacher(tmp_path)
    assert '\n' not in str(e.value)


def test_local_encoder_decoder(tmp_path):
    import torch
    from tiny_models import chat_tokenizer
    from transformers import T5Config, T5ForConditionalGeneration
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))
    teacher = LocalTeacher(t5, tokenizer, batch_size=2)
    async def work(): return await asyncio.gather(*[teacher.complete(Request('t5', 'apple ' * n, max_tokens=5, top_logprobs=2)) for n in (1, 4)])
    for completion, n in zip(asyncio.run(work()), (1, 4)):
        ids = tokenizer('apple ' * n, return_tensors='pt').input_ids
        expected = t5.eval().generate(input_ids=ids, max_new_tokens=5, do_sample=False)[0, 1:]
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=('Cs',)), max_size=12))
def test_token_texts_join_to_the_text(text):
    from tiny_models import chat_tokenizer
    tokenizer = chat_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    assert ''.join(token_texts(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


# How servers want to be asked

def test_fields_that_a_server_refuses_can_be_left_out():
    with Loopback() as server:
        teacher = OpenAITeacher('tiny', EndpointConfig(server.base_url, omit=('temperature', 'stop')))
        ask(teacher, Request('tiny', 'Q', stop=('\n\nQ:',)))
        assert set(server.received[0][2]) == {'model', 'messages', 'max_tokens'}
    assert teacher.name != 'tiny' and EndpointConfig(teacher_name='mine').teacher_name == OpenAITeacher('tiny', EndpointConfig('http://127.0.0.1:9/v1', teacher_name='mine')).name


def test_a_base_url_with_a_query_and_a_key_in_a_header_of_its_own():
    with Loopback() as server:
        url = server.base_url.replace('/v1', '/openai/deployments/g?api-version=2024-06-01')
        ask(OpenAITeacher('tiny', EndpointConfig(url, key_header='api-key')), Request('tiny', 'Q'))
        assert server.paths == ['/openai/deployments/g/chat/completions?api-version=2024-06-01']
        headers = {name.lower(): value for name, value in server.received[0][1].items()}
    assert headers['api-key'] == KEY and 'authorization' not in headers


def test_a_login_in_the_url_is_sent_as_basic_authentication():
    with Loopback() as server:
        ask(OpenAITeacher('tiny', EndpointConfig(server.base_url.replace('http://', 'http://user:pass%20word@'))), Request('tiny', 'Q'))
        assert server.received[0][1]['Authorization'] == 'Basic dXNlcjpwYXNzIHdvcmQ='


def test_the_key_goes_to_no_other_address():
    with Loopback() as other:
        error = error_of(lambda n, body: Status(307, {'Location': f'{other.base_url}/chat/completions'}))
        assert error.fatal and other.received == [] and 'another address (HTTP 307)' in str(error)


def test_a_key_that_a_reply_repeats_is_taken_out():
    body = {'choices': [{'message': {'content': f'Your key is {KEY}. The answer is 11.'}}]}
    with Loopback(lambda n, b: Raw(json.dumps(body))) as server:
        assert ask(OpenAITeacher('tiny', EndpointConfig(server.base_url)), Request('tiny', 'Q')).text == 'Your key is ***. The answer is 11.'
    error = error_of(lambda n, b: Raw(json.dumps({'error': {'message': f'bad {KEY}', 'code': 400}})))
    assert 'bad ***' in str(error)


@pytest.mark.parametrize('text, thinking, answer', [
    ('The answer is 5.', '', 'The answer is 5.'),
    ('a </think> b </think> c', 'a </think> b', 'c'),
    ('<THINK>a</THINK>b', 'a', 'b'),
    ('<reasoning>a</reasoning>\nb', 'a', 'b'),
    ('if x <think> then', '', 'if x <think> then'),
    ('<|start|>assistant<|channel|>final<|message|>b<|return|>', '', 'b'),
    ('<|channel|>analysis<|message|>a<|end|>', 'a', '')])
def test_split_thinking(text, thinking, answer): assert split_thinking(text) == (thinking, answer)


@given(st.text(max_size=80))
def test_splitting_again_changes_nothing_in_a_text_without_thinking(text):
    thinking, answer = split_thinking(text)
    if not thinking: assert answer == text or '<' in text


def test_a_local_teacher_runs_no_code_and_asks_nobody(tmp_path):
    "A checkpoint that wants its own code to be run is refused at once, whatever stands on stdin"
    from tiny_models import chat_tokenizer, tiny_llama
    tokenizer = chat_tokenizer()
    tiny_llama(tokenizer).save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text()) | {'model_type': 'not_there', 'auto_map': {'AutoConfig': 'conf.C', 'AutoModelForCausalLM': 'mod.M'}}
    (tmp_path/'config.json').write_text(json.dumps(config))
    for name in ('conf', 'mod'): (tmp_path/f'{name}.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    program = f'from cotkit.teachers.local import LocalTeacher\ntry: LocalTeacher({str(tmp_path)!r})\nexcept ValueError as e: print(type(e).__name__)'
    ran = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, input='y\n', timeout=120)
    assert ran.stdout.strip() == 'CotkitError', ran.stderr[-500:]
    assert 'Do you wish' not in ran.stdout + ran.stderr and not (tmp_path/'ran').exists()


def test_a_local_teacher_takes_no_pickle(tmp_path):
    import torch
    from tiny_models import chat_tokenizer, tiny_llama
    tokenizer = chat_tokenizer()
    tiny_llama(tokenizer).save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    from safetensors.torch import load_file
    torch.save(load_file(tmp_path/'model.safetensors'), tmp_path/'pytorch_model.bin')
    (tmp_path/'model.safetensors').unlink()
    with pytest.raises(CotkitError): LocalTeacher(tmp_path)


def test_light_import():
    code = "import sys, cotkit.teachers.protocol, cotkit.teachers.openai, cotkit.teachers.store, cotkit.teachers.collect, cotkit.teachers.batch, cotkit.teachers.curate; print([m for m in ('torch', 'transformers', 'datasets', 'openai', 'aiohttp') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'
