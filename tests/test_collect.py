"Collection against a server that throttles, stalls, truncates and resets"
import asyncio, itertools, json, os, re, signal, subprocess, sys, textwrap, time, warnings
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.teachers.batch import BatchResults, read_batch, write_batch
from cotkit.teachers.collect import AdaptiveConcurrency, Budget, Collected, RequestLimits, acollect, backoff_seconds, collect
from cotkit.data.core import Completion, CotkitError, Problem, Request, TokenLogprob, read_jsonl, write_jsonl
from cotkit.data.formats import AnswerOnly, ZeroShotCoT
from cotkit.teachers.store import Store
from cotkit.data.word_problems import word_problems
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
from cotkit.teachers.protocol import OracleTeacher, ReplayTeacher, SamplingParams, TeacherError
from loopback import Loopback, Raw, Reset, Stall, Status, Truncate, reply

KEY = 'sk-very-secret-4711'
FORMAT = ZeroShotCoT()


@pytest.fixture(autouse=True)
def environment(monkeypatch): monkeypatch.setenv('OPENAI_API_KEY', KEY)


def problems(n: int) -> list[Problem]: return [Problem(f'p{i}', f'What is {i} plus 1?', str(i + 1)) for i in range(n)]


QUIET = RequestLimits(progress=False)


def records(**options) -> tuple[SamplingParams, RequestLimits]:
    "Both records, from options by name"
    asked = {name: options.pop(name) for name in list(options) if name in SamplingParams.__dataclass_fields__}
    return SamplingParams(**asked), RequestLimits(progress=False, **options)


def run(server, items, path, **options) -> Collected:
    teacher = OpenAITeacher('tiny', EndpointConfig(server.base_url, timeout=options.pop('timeout', 20)))
    return collect(items, FORMAT, teacher, path, *records(**options))


def test_a_rerun_sends_nothing_and_one_more_problem_one_request(tmp_path):
    with Loopback() as server:
        first = run(server, problems(20), tmp_path/'a.db')
        assert (first.sent, first.reused, len(server.received)) == (20, 0, 20) and [r.problem_id for r in first.rationales] == [f'p{i}' for i in range(20)]
        again = run(server, problems(20), tmp_path/'a.db')
        assert (again.sent, again.reused, len(server.received)) == (0, 20, 20) and again.rationales == first.rationales
        more = run(server, problems(21), tmp_path/'a.db')
        assert (more.sent, len(server.received), len(more.rationales)) == (1, 21, 21)


@pytest.mark.parametrize('change', [{'temperature': 0.5}, {'max_tokens': 7}, {'top_logprobs': 2}])
def test_every_setting_is_part_of_the_question(tmp_path, change):
    with Loopback() as server:
        run(server, problems(2), tmp_path/'a.db')
        assert run(server, problems(2), tmp_path/'a.db', **change).sent == 2


def test_a_higher_limit_asks_again_only_for_what_was_truncated(tmp_path):
    "A greedy answer that ended by itself is the same under any limit it fits into; a sampled one is drawn again"
    plan = lambda n, body: chat('So 1 plus', 'length') if ' 1 ' in body['messages'][-1]['content'] and body['max_tokens'] < 1024 else None
    with Loopback(plan) as server:
        first = run(server, problems(4), tmp_path/'a.db', max_tokens=512)
        more = run(server, problems(4), tmp_path/'a.db', max_tokens=1024)
        assert (first.sent, more.sent, more.reused) == (4, 1, 3) and len(more.rationales) == 4
        assert [r.request for r in more.rationales if r.problem_id != 'p1'] == [r.request for r in first.rationales if r.problem_id != 'p1']
        assert run(server, problems(4), tmp_path/'a.db', max_tokens=64).sent == 0
        assert run(server, problems(4), tmp_path/'a.db', max_tokens=5).sent == 4, 'these are longer than five tokens'
        warm = [run(server, problems(2), tmp_path/'a.db', temperature=0.7, max_tokens=n).sent for n in (512, 1024)]
        assert warm == [2, 2]
        assert write_batch(tmp_path/'r.jsonl', problems(1), FORMAT, OpenAITeacher('tiny', EndpointConfig(server.base_url)), tmp_path/'a.db', SamplingParams(max_tokens=2048)) == []


def test_the_format_is_part_of_the_question(tmp_path):
    with Loopback() as server:
        run(server, problems(2), tmp_path/'a.db')
        assert collect(problems(2), AnswerOnly(), OpenAITeacher('tiny', EndpointConfig(server.base_url)), tmp_path/'a.db', limits=QUIET).sent == 2


def test_logprobs_reach_the_rationale_from_the_server_and_from_the_store(tmp_path):
    with Loopback() as server:
        for sent in (1, 0):
            collected = run(server, problems(1), tmp_path/'a.db', top_logprobs=2)
            assert collected.sent == sent and ''.join(o.token for o in collected.rationales[0].logprobs) == collected.rationales[0].text
            assert all(len(o.top) == 2 for o in collected.rationales[0].logprobs)


def test_one_prompt_for_two_problems_is_sent_once(tmp_path):
    twins = [Problem('a', 'What is 1 plus 1?', '2'), Problem('b', 'What is 1 plus 1?', '2')]
    with Loopback() as server:
        collected = run(server, twins, tmp_path/'a.db')
        assert len(server.received) == collected.sent == 1 and [r.problem_id for r in collected.rationales] == ['a', 'b']
    replay = ReplayTeacher({'a': 'one', 'b': 'two'})
    assert [r.text for r in collect(twins, FORMAT, replay, tmp_path/'b.db', limits=QUIET).rationales] == ['one', 'two']


def test_samples_are_separate_requests(tmp_path):
    with Loopback() as server:
        collected = run(server, problems(2), tmp_path/'a.db', samples=3, temperature=0.7)
        assert len(server.received) == 6 and [(r.problem_id, r.sample) for r in collected.rationales] == [(f'p{i}', k) for i in range(2) for k in range(3)]


def test_never_more_in_flight_than_allowed(tmp_path):
    with Loopback(latency=0.02) as server:
        run(server, problems(40), tmp_path/'a.db', max_concurrency=5)
        assert server.most_in_flight == 5


def test_everything_arrives_in_spite_of_all_faults(tmp_path):
    "Each request meets each fault once, in an order of its own"
    faults = [Status(429, {'Retry-After': '0.05'}), Status(500), Reset(), Truncate(), Raw('{"oops'), Raw('{}'), Status(503), None]
    seen: dict[str, int] = {}
    def plan(n, body):
        prompt = body['messages'][-1]['content']
        seen[prompt] = seen.get(prompt, 0) + 1
        return faults[min(seen[prompt] - 1, 7)] if hash(prompt) % 2 else faults[(n + seen[prompt]) % 8] if seen[prompt] < 4 else None
    with Loopback(plan) as server:
        import cotkit.teachers.collect as module
        module_backoff, module.backoff_seconds = module.backoff_seconds, lambda tries, **_: 0.01
        try: collected = run(server, problems(12), tmp_path/'a.db', retries=8)
        finally: module.backoff_seconds = module_backoff
        assert collected.failed == [] and len(collected.rationales) == collected.sent == 12
        assert collected.retried == len(server.received) - 12 > 12
    with Store(tmp_path/'a.db') as store: assert len(store) == 12


def test_a_stalled_request_is_asked_again(tmp_path):
    with Loopback(lambda n, body: Stall(30) if n == 0 else None) as server:
        collected = run(server, problems(3), tmp_path/'a.db', timeout=0.5)
        assert len(collected.rationales) == 3 and collected.retried == 1


def test_sixty_percent_refusals_lose_nothing(tmp_path):
    with Loopback(lambda n, body: Status(429, {'retry-after-ms': '5'}) if n % 5 < 3 else None) as server:
        collected = run(server, problems(60), tmp_path/'a.db')
        assert len(collected.rationales) == 60 and collected.failed == []
        assert collected.sent == 60 and collected.retried == len(server.received) - 60


def test_half_a_success_is_kept_and_the_rest_reported(tmp_path):
    plan = lambda n, body: Status(400, body={'error': {'message': 'context too long'}}) if ' 3 ' in body['messages'][-1]['content'] else None
    with Loopback(plan) as server:
        collected = run(server, problems(6), tmp_path/'a.db')
        assert [o[:2] for o in collected.failed] == [('p3', 0)] and 'context too long' in collected.failed[0][2]
        assert [r.problem_id for r in collected.rationales] == ['p0', 'p1', 'p2', 'p4', 'p5'] and len(server.received) == 6
        assert run(server, problems(6), tmp_path/'a.db').failed and len(server.received) == 7
    with Store(tmp_path/'a.db') as store:
        assert len(store) == 5 and all('context too long' not in completion.text for _, completion in store)


@pytest.mark.parametrize('n', [3, 60])
def test_when_nothing_is_accepted_the_server_s_words_are_said(tmp_path, n):
    "Few requests or many: what is wrong with all of them stands in the summary, not an empty success"
    with Loopback(lambda n, body: Status(400, body={'error': {'message': 'temperature must be 1'}})) as server:
        collected = run(server, problems(n), tmp_path/'a.db', max_concurrency=4)
        assert collected.rationales == [] and len(server.received) == len(collected.failed) <= 30
        assert f'all {len(collected.failed)} requests failed' in collected.stopped and 'HTTP 400' in collected.stopped and 'temperature must be 1' in repr(collected)
    with Loopback(lambda n, body: Status(400) if n else None) as server:
        assert run(server, problems(3), tmp_path/'b.db', max_concurrency=1).stopped == '', 'one of three was answered'


def test_samples_without_chance_are_warned_of(tmp_path):
    with Loopback() as server:
        with pytest.warns(UserWarning, match='2 samples at temperature 0 are 2 times the same answer'): run(server, problems(1), tmp_path/'a.db', samples=2)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run(server, problems(1), tmp_path/'a.db', samples=2, temperature=0.7)
            run(server, problems(1), tmp_path/'a.db')
            collect(problems(1), FORMAT, ReplayTeacher({'p0': ['1', '2']}), tmp_path/'a.db', *records(samples=2))


def test_retries_end(tmp_path, monkeypatch):
    monkeypatch.setattr('cotkit.teachers.collect.backoff_seconds', lambda tries, **_: 0.001)
    with Loopback(lambda n, body: Status(500)) as server:
        collected = run(server, problems(2), tmp_path/'a.db', retries=2)
        assert len(server.received) == 6 and len(collected.failed) == 2 and collected.rationales == []


def test_a_dead_server_ends_the_collection_early(tmp_path, monkeypatch):
    monkeypatch.setattr('cotkit.teachers.collect.backoff_seconds', lambda tries, **_: 0.001)
    with Loopback() as server: pass
    collected = run(server, problems(500), tmp_path/'a.db', retries=1, max_concurrency=4)
    assert 20 <= len(collected.failed) <= 24 and collected.pending == 500 - len(collected.failed) and 'cannot connect' in collected.stopped


def test_a_teacher_that_only_refuses_ends_the_collection(tmp_path):
    with Loopback(lambda n, body: Status(429, {'Retry-After': '3600'})) as server:
        collected = run(server, problems(50), tmp_path/'a.db', max_concurrency=3, patience=60)
        assert len(server.received) <= 3 and collected.pending == 50 and not collected.failed and 'too many requests' in collected.stopped


def test_a_wrong_key_stops_at_once(tmp_path):
    with Loopback(lambda n, body: Status(401, body={'error': {'message': f'Incorrect API key provided: {KEY}'}}) if n >= 5 else None) as server:
        with pytest.raises(TeacherError) as e: run(server, problems(300), tmp_path/'a.db', max_concurrency=2)
        assert len(server.received) <= 8
        assert '\n' not in str(e.value) and 'Set OPENAI_API_KEY' in str(e.value) and KEY not in str(e.value)
    with Store(tmp_path/'a.db') as store: assert len(store) == 5
    assert not [o.name for o in tmp_path.iterdir() if KEY.encode() in o.read_bytes()]
    with Loopback() as server: assert run(server, problems(300), tmp_path/'a.db').sent == 295


def test_a_wrong_key_from_the_first_request_leaves_an_empty_store(tmp_path):
    with Loopback(lambda n, body: Status(401)) as server, pytest.raises(TeacherError): run(server, problems(3), tmp_path/'a.db')
    with Store(tmp_path/'a.db', read_only=True) as store: assert len(store) == 0


def test_a_bug_in_a_teacher_is_not_swallowed(tmp_path):
    class Buggy(OracleTeacher):
        async def complete(self, request): return {}['no such key'] if request.problem_id == items[5].id else await super().complete(request)
    items = word_problems(30)
    with pytest.raises(KeyError): collect(items, FORMAT, Buggy(items), tmp_path/'a.db', *records(max_concurrency=1))
    with Store(tmp_path/'a.db') as store: assert len(store) == 5


# budgets

def test_budget_of_requests_is_hard_and_resumable(tmp_path):
    with Loopback(lambda n, body: Status(503, {'Retry-After': '0.01'}) if n % 3 == 0 else None) as server:
        rounds = []
        for _ in range(20):
            before = len(server.received)
            rounds.append(run(server, problems(20), tmp_path/'a.db', max_requests=6))
            assert len(server.received) - before <= 6
            if not rounds[-1].stopped: break
        assert len(rounds[-1].rationales) == 20 and rounds[0].pending == 20 - rounds[0].sent and 'budget of 6 requests' in rounds[0].stopped


def test_budget_of_tokens_is_never_exceeded(tmp_path):
    with Loopback() as server:
        for budget in (0, 100, 300, 1000):
            collected = run(server, problems(60), tmp_path/f'{budget}.db', max_tokens=20, max_tokens_total=budget, max_concurrency=8)
            assert collected.tokens <= budget and collected.stopped and collected.pending == 60 - collected.sent
        assert collected.sent > 20 and 'tokens' in collected.stopped


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=40), st.integers(0, 900), st.integers(1, 6))
def test_budget_holds_for_any_order_of_answers(answers, total, together):
    budget, open_requests = Budget(max_tokens_total=total), []
    for words, written in answers:
        request = Request('t', 'a ' * words, max_tokens=40)
        if not budget.refusal(request): open_requests.append((request, budget.reserve(request), Completion('', prompt_tokens=words, completion_tokens=written)))
        if len(open_requests) >= together: budget.settle(*open_requests.pop(0))
    for each in open_requests: budget.settle(*each)
    assert budget.tokens <= total and budget.reserved == 0


def test_a_teacher_that_does_not_count_is_charged_the_most():
    budget, request = Budget(max_tokens_total=1000), Request('t', 'Q', max_tokens=100)
    budget.settle(request, budget.reserve(request), Completion('text'))
    assert budget.tokens >= 100


# pace

def test_a_pause_holds_for_everybody():
    clock, slept = [0.0], []
    rate = AdaptiveConcurrency(4, clock=lambda: clock[0])
    async def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds
    async def work():
        await rate.enter()
        rate.throttled(7.0)
        for _ in range(2): await rate.enter()
        assert clock[0] >= 7.0
    original, asyncio.sleep = asyncio.sleep, sleep
    try: asyncio.run(work())
    finally: asyncio.sleep = original
    assert len(slept) == 1


def test_a_wall_of_refusals_is_knocked_at_ever_more_rarely():
    clock = [0.0]
    rate, rests = AdaptiveConcurrency(3, clock=lambda: clock[0]), []
    for _ in range(16):
        rate.throttled()
        rests.append(round(rate.resume_at - clock[0], 6))
        clock[0] = max(clock[0], rate.resume_at)
    assert rests[0] == 0 and rests == sorted(rests) and rests[-1] == 8
    rate.answered(), rate.throttled()
    assert rate.resume_at <= clock[0] + 0.2


def test_retry_after_is_obeyed_on_the_wire(tmp_path):
    with Loopback(lambda n, body: Status(429, {'Retry-After': '0.6'}) if n == 0 else None) as server:
        run(server, problems(4), tmp_path/'a.db', max_concurrency=1)
        times = [t for t, _, _ in server.received]
        assert times[1] - times[0] >= 0.6 and len(times) == 5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.lists(st.booleans(), max_size=60))
def test_rate_control_bounds_and_never_deadlocks(most, outcomes):
    "On a clock of its own, which rests move: many refusals in a row would be minutes of waiting"
    now, yielding = [0.0], asyncio.sleep
    rate = AdaptiveConcurrency(most, lambda: now[0])
    async def rest(seconds):
        now[0] += seconds
        await yielding(0)
    async def one(answered):
        await rate.enter()
        assert rate.active <= most
        await yielding(0)
        rate.answered() if answered else rate.throttled()
        rate.leave()
    async def work(): await asyncio.wait_for(asyncio.gather(*map(one, outcomes)), 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, 'sleep', rest)
        asyncio.run(work())
    assert rate.active == 0 and 1 <= rate.limit <= most


@given(st.integers(1, 10 ** 9))
def test_backoff_is_bounded(tries): assert 0 < backoff_seconds(tries) <= 45


# where it runs

def test_inside_a_running_loop(tmp_path):
    async def notebook_cell(): return collect(items, FORMAT, OracleTeacher(items, 1.0), tmp_path/'a.db', limits=QUIET)
    items = word_problems(5)
    assert asyncio.run(notebook_cell()).sent == 5
    assert asyncio.run(acollect(items, FORMAT, OracleTeacher(items, 1.0), tmp_path/'a.db', limits=QUIET)).reused == 5


def test_bar_and_repr(tmp_path, capsys):
    items = word_problems(5)
    collected = collect(items, FORMAT, OracleTeacher(items[:4], 1.0), tmp_path/'a.db')
    assert '5/5' in capsys.readouterr().err
    assert 'failed=1' in repr(collected) and 'knows no problem' in collected._repr_html_()


def test_nothing_to_do(tmp_path):
    assert collect([], FORMAT, OracleTeacher([]), tmp_path/'a.db', limits=QUIET).rationales == []


def test_what_cannot_be_collected(tmp_path):
    for options in ({'samples': 0}, {'max_concurrency': 0}):
        with pytest.raises(CotkitError): collect(problems(1), FORMAT, ReplayTeacher({}), tmp_path/'a.db', *records(**options))
    with pytest.raises(CotkitError, match='have the id'): collect([Problem('a', 'Q', '1'), Problem('a', 'R', '1')], FORMAT, ReplayTeacher({}), tmp_path/'a.db', limits=QUIET)


# A shell may start background jobs with the interrupt signal ignored, and children inherit that
HEED = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'

SCRIPT = HEED + '''
import sys
from cotkit.teachers.collect import RequestLimits, collect
from cotkit.data.core import Problem
from cotkit.data.formats import ZeroShotCoT
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
problems = [Problem(f'p{i}', f'What is {i} plus 1?', str(i + 1)) for i in range(400)]
collect(problems, ZeroShotCoT(), OpenAITeacher('tiny', EndpointConfig(sys.argv[1])), sys.argv[2], limits=RequestLimits(8, progress=False))
'''


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_script_loses_and_repeats_nothing(tmp_path, number):
    with Loopback(latency=0.02) as server:
        script = subprocess.Popen([sys.executable, '-c', SCRIPT, server.base_url, str(tmp_path/'a.db')], stderr=subprocess.PIPE, text=True)
        while len(server.received) < 60: assert script.poll() is None; time.sleep(0.005)
        script.send_signal(number)
        errors = script.communicate(timeout=20)[1]
        assert script.returncode != 0 and (number == signal.SIGKILL or errors.strip().endswith('KeyboardInterrupt'))
        sent = len(server.received)
        with Store(tmp_path/'a.db') as store: kept = len(store)
        assert sent - kept <= 16 # what was in flight
        rest = run(server, problems(400), tmp_path/'a.db')
        assert rest.reused == kept and len(server.received) == sent + 400 - kept and len(rest.rationales) == 400


AGAIN = HEED + '''
import sys, threading, time, _thread
from cotkit.teachers.collect import RequestLimits, collect
from cotkit.data.core import Problem
from cotkit.data.formats import ZeroShotCoT
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
problems = [Problem(f'p{i}', f'What is {i} plus 1?', str(i + 1)) for i in range(200)]
teacher = OpenAITeacher('tiny', EndpointConfig(sys.argv[1], timeout=20))
threading.Timer(0.8, _thread.interrupt_main).start()
try: collect(problems, ZeroShotCoT(), teacher, sys.argv[2], limits=RequestLimits(4, progress=False))
except KeyboardInterrupt: print('interrupted', flush=True)
rest = collect(problems, ZeroShotCoT(), teacher, sys.argv[2], limits=RequestLimits(32, progress=False))
print(len(rest.rationales), rest.sent + rest.reused, flush=True)
'''


def test_after_an_interrupt_the_same_process_collects_on(tmp_path):
    "The interrupted collection is over when the exception arrives: a notebook's next cell has the teacher for itself"
    with Loopback(latency=0.05) as server:
        ran = subprocess.run([sys.executable, '-c', AGAIN, server.base_url, str(tmp_path/'a.db')], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == ['interrupted', '200 200'], ran.stderr


# Batch jobs

BATCH = OpenAITeacher('tiny', EndpointConfig('http://127.0.0.1:9/v1', extra={'top_p': 0.9}))
SAMPLING = SamplingParams(samples=2, temperature=0.7, max_tokens=64, top_logprobs=2)


def result(asked, **change):
    "A line of results in the documented shape"
    return {'id': 'batch_req_1', 'custom_id': asked['custom_id'], 'response': {'status_code': 200, 'request_id': 'req_1', 'body': reply(asked['body'])}, 'error': None, **change}


def test_a_batch_job_gives_what_collecting_would(tmp_path):
    "Same bodies, same rationales with logprobs, and nothing left to send; the ids are at most 64 letters, as vendors want"
    files = write_batch(tmp_path/'requests.jsonl', problems(5), FORMAT, BATCH, tmp_path/'batch.db', SAMPLING)
    asked = list(read_jsonl(files[0]))
    assert files == [tmp_path/'requests.jsonl'] and len({row['custom_id'] for row in asked}) == 10 == len(asked)
    assert all(set(row) == {'custom_id', 'method', 'url', 'body'} and row['method'] == 'POST' and row['url'] == '/v1/chat/completions' and len(row['custom_id']) <= 64 for row in asked)
    write_jsonl(tmp_path/'results.jsonl', map(result, asked[::-1]))
    assert read_batch(tmp_path/'results.jsonl', problems(5), FORMAT, BATCH, tmp_path/'batch.db', SAMPLING) == BatchResults(10, 0, 0)
    assert read_batch(tmp_path/'results.jsonl', problems(5), FORMAT, BATCH, tmp_path/'batch.db', SAMPLING) == BatchResults(0, 10, 0)
    with Loopback() as server:
        teacher = OpenAITeacher('tiny', EndpointConfig(server.base_url, extra={'top_p': 0.9}))
        live = collect(problems(5), FORMAT, teacher, tmp_path/'live.db', SAMPLING, QUIET)
        assert sorted(json.dumps(body, sort_keys=True) for _, _, body in server.received) == sorted(json.dumps(row['body'], sort_keys=True) for row in asked)
        again = collect(problems(5), FORMAT, teacher, tmp_path/'batch.db', SAMPLING, QUIET)
        assert again.sent == 0 and again.rationales == live.rationales and again.rationales[0].logprobs
    assert write_batch(tmp_path/'more.jsonl', problems(5), FORMAT, BATCH, tmp_path/'batch.db', SAMPLING) == [] and not (tmp_path/'more.jsonl').exists()


def test_large_jobs_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr('cotkit.teachers.batch.REQUESTS_PER_FILE', 3)
    files = write_batch(tmp_path/'r.jsonl', problems(7), FORMAT, BATCH, tmp_path/'a.db')
    assert [f.name for f in files] == ['r.jsonl', 'r-2.jsonl', 'r-3.jsonl'] and [len(f.read_text().splitlines()) for f in files] == [3, 3, 1]
    line = len(files[0].read_bytes()) // 3
    monkeypatch.setattr('cotkit.teachers.batch.BYTES_PER_FILE', 2 * line + 5)
    by_size = write_batch(tmp_path/'s.jsonl', problems(7), FORMAT, BATCH, tmp_path/'a.db')
    assert all(f.stat().st_size <= 2 * line + 5 for f in by_size) and sum(len(f.read_text().splitlines()) for f in by_size) == 7


BROKEN = {
    'expired': ({'response': None, 'error': {'code': 'batch_expired', 'message': 'too late'}}, 'too late'),
    'only a code': ({'response': None, 'error': {'code': 'batch_cancelled', 'message': None}}, 'batch_cancelled'),
    'refused': ({'response': {'status_code': 400, 'request_id': 'r', 'body': {'error': {'message': 'prompt too long'}}}}, 'HTTP 400.*prompt too long'),
    'server error': ({'response': {'status_code': 500, 'request_id': 'r', 'body': 'oops'}}, 'HTTP 500.*oops'),
    'no completion': ({'response': {'status_code': 200, 'request_id': 'r', 'body': {'choices': []}}}, 'no chat completion'),
    'nothing': ({'response': None, 'error': None}, 'no reason given'),
    'another shape': ({'response': 'yes', 'error': [1]}, 'no reason given'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_what_a_batch_job_did_not_answer_is_no_rationale(tmp_path, case):
    "It is reported with its reason and stands in the next file of requests"
    change, reason = BROKEN[case]
    first, second = read_jsonl(write_batch(tmp_path/'r.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db')[0])
    write_jsonl(tmp_path/'out.jsonl', [result(first, **change), result(second)])
    results = read_batch([tmp_path/'out.jsonl'], problems(2), FORMAT, BATCH, tmp_path/'a.db')
    (key, said), = results.failed
    assert (results.kept, key) == (1, first['custom_id'])
    assert re.search(reason, said), said
    assert [row['custom_id'] for row in read_jsonl(write_batch(tmp_path/'r.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db')[0])] == [first['custom_id']]


def test_results_of_another_job(tmp_path):
    "With other settings nothing fits and that is said; among our own, unmatched lines are counted"
    asked = list(read_jsonl(write_batch(tmp_path/'r.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db')[0]))
    write_jsonl(tmp_path/'out.jsonl', [*map(result, asked), {**result(asked[0]), 'custom_id': 'request-1'}])
    assert read_batch(tmp_path/'out.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db') == BatchResults(2, 0, 1)
    with pytest.raises(CotkitError, match='none of the 3 results'): read_batch(tmp_path/'out.jsonl', problems(2), FORMAT, BATCH, tmp_path/'b.db', SamplingParams(temperature=0.5))
    (tmp_path/'bad.jsonl').write_text('{"custom_id": "a"}\n{"id": "b"}\n')
    with pytest.raises(CotkitError, match=r'bad\.jsonl:2: .*custom_id'): read_batch(tmp_path/'bad.jsonl', problems(2), FORMAT, BATCH, tmp_path/'b.db')


# What was paid for is kept, and what is no answer is not

def chat(content, finish: str = 'stop', choice=None, **message) -> Raw:
    "A reply with status 200 and this message"
    choice = {'index': 0, 'finish_reason': finish, 'message': {'role': 'assistant', 'content': content, **message}, **(choice or {})}
    return Raw(json.dumps({'choices': [choice], 'usage': {'prompt_tokens': 9, 'completion_tokens': 5}}))


def test_what_is_in_flight_is_stored_when_a_request_fails_for_good(tmp_path):
    "The fatal error comes back first; the answers that were paid for arrive after it and are stored, and nothing more is sent"
    plan = lambda n, body: Status(401) if n == 3 else Stall(0.5)
    with Loopback(plan) as server:
        with pytest.raises(TeacherError, match='HTTP 401'): run(server, problems(40), tmp_path/'a.db', max_concurrency=4)
        assert len(server.received) == 4
    with Store(tmp_path/'a.db') as store: assert len(store) == 3


def test_many_samples_of_one_bad_prompt_do_not_stop_the_others(tmp_path):
    "What ends a collection is problems that fail in a row, not the samples of one"
    with Loopback(lambda n, body: Status(400) if ' 0 ' in body['messages'][-1]['content'] else None) as server:
        collected = run(server, problems(3), tmp_path/'a.db', samples=40, temperature=0.7, max_concurrency=4)
    assert len(collected.failed) == 40 and len(collected.rationales) == 80 and collected.stopped == ''


def test_what_is_in_flight_is_stored_when_a_teacher_has_a_bug(tmp_path):
    class Buggy(OracleTeacher):
        async def complete(self, request):
            await asyncio.sleep(0.05 if request.problem_id == items[2].id else 0.3)
            if request.problem_id == items[2].id: raise KeyError('no such key')
            return await super().complete(request)
    items = word_problems(30)
    with pytest.raises(KeyError): collect(items, FORMAT, Buggy(items), tmp_path/'a.db', *records(max_concurrency=6))
    with Store(tmp_path/'a.db') as store: assert len(store) == 5


NOT_ANSWERS = {
    'empty': (chat(''), 'ended after writing nothing'),
    'white space': (chat(' \n'), 'ended after writing nothing'),
    'null': (chat(None), 'ended after writing nothing'),
    'limit spent on reasoning': (chat('', 'length', reasoning='Ann has 3'), 'limit of tokens was spent on thinking'),
    'limit spent on reasoning_content': (chat(None, 'length', reasoning_content='Ann has 3'), 'limit of tokens was spent on thinking'),
    'limit spent inside a tag': (chat('<think>\nOkay, 3 + 8. The answer is 11? Let me check', 'length'), 'limit of tokens was spent on thinking'),
    'limit spent in a channel': (chat('<|channel|>analysis<|message|>The answer is 5? Let me', 'length'), 'limit of tokens was spent on thinking'),
    'refusal': (chat(None, refusal="I'm sorry, I cannot\nhelp"), "the model refused: I'm sorry, I cannot help"),
    'filtered': (chat('', 'content_filter'), 'the answer was filtered'),
    'filtered in the middle': (chat('Ann has 3 apples and', 'content_filter'), 'the answer was filtered'),
    'tool call': (chat(None, 'tool_calls', tool_calls=[{'id': 'x', 'type': 'function', 'function': {'name': 'add', 'arguments': '{}'}}]), 'called a tool'),
    'moderated': (Status(403, body={'error': {'message': 'Your input was flagged', 'metadata': {'reasons': ['violence']}}}), 'HTTP 403.*Your input was flagged'),
    'too long': (Status(400, body={'error': {'message': 'maximum context length is 4096 tokens'}}), 'HTTP 400.*maximum context length'),
    'too large': (Status(413, body={'error': {'message': 'payload too large'}}), 'HTTP 413'),
    'not processable': (Status(422, body={'detail': 'bad prompt'}), 'HTTP 422.*bad prompt'),
    'not implemented': (Status(501, body={'error': {'message': 'no chat here'}}), 'HTTP 501.*no chat here'),
    'error in words': (Raw('{"error": "Unexpected endpoint or method. (POST /chat/completions)"}'), 'Unexpected endpoint or method.*base URL'),
    'error with a code': (Raw('{"error": {"message": "context too long", "code": 400}}'), 'HTTP 400.*context too long'),
}


@pytest.mark.parametrize('case', NOT_ANSWERS)
def test_what_is_no_answer_costs_that_question_alone(tmp_path, case):
    "It is asked once, reported in the server's words, not stored, and asked again by the next run"
    fault, words = NOT_ANSWERS[case]
    with Loopback(lambda n, body: fault if ' 3 ' in body['messages'][-1]['content'] else None) as server:
        for sent in (6, 7):
            collected = run(server, problems(6), tmp_path/'a.db')
            assert len(server.received) == sent and [o[:2] for o in collected.failed] == [('p3', 0)]
            assert re.search(words, collected.failed[0][2]), collected.failed
            assert [r.problem_id for r in collected.rationales] == ['p0', 'p1', 'p2', 'p4', 'p5']
    with Store(tmp_path/'a.db') as store: assert len(store) == 5


PASSING = {
    'error in a choice': (chat('', 'error', {'error': {'code': 502, 'message': 'provider down'}}), 502),
    'error in a choice without a code': (chat('', 'error'), 502),
    'rate limit inside': (Raw('{"error": {"message": "Rate limit exceeded: free models", "code": 429}}'), 429),
    'rate limit by its type': (Raw('{"error": {"message": "slow down", "type": "rate_limit_error"}}'), 429),
    'overloaded': (Raw('{"error": {"message": "overloaded", "type": "overloaded_error"}}'), 503),
}


@pytest.mark.parametrize('case', PASSING)
def test_a_passing_error_inside_a_reply_is_asked_again(tmp_path, monkeypatch, case):
    monkeypatch.setattr('cotkit.teachers.collect.backoff_seconds', lambda tries, **_: 0.001)
    fault, status = PASSING[case]
    with Loopback(lambda n, body: fault if n == 0 else None) as server:
        collected = run(server, problems(1), tmp_path/'a.db')
        assert (collected.sent, collected.retried, collected.failed, len(server.received)) == (1, 1, [], 2)
    with Loopback(lambda n, body: fault) as server:
        said = run(server, problems(1), tmp_path/'b.db', retries=0, patience=0.05).stopped
        assert f'HTTP {status}' in said and (case == 'error in a choice without a code' or re.search('provider down|Rate limit exceeded: free models|slow down|overloaded', said))


def test_tokens_of_what_is_no_answer_are_counted(tmp_path):
    with Loopback(lambda n, body: chat('', 'length', reasoning='Hm')) as server:
        collected = run(server, problems(30), tmp_path/'a.db', max_tokens=20, max_tokens_total=300, max_concurrency=2)
        assert 0 < collected.tokens == 14 * len(server.received) <= 300 and collected.pending


@pytest.mark.parametrize('reply_, text, thinking', [
    (chat('The answer is 11.', reasoning_content='2 + 9'), 'The answer is 11.', '2 + 9'),
    (chat('The answer is 11.', reasoning='2 + 9'), 'The answer is 11.', '2 + 9'),
    (chat('<think>\n2 + 9\n</think>\n\nThe answer is 11.'), 'The answer is 11.', '2 + 9'),
    (chat('2 + 9\n</think>\n\nThe answer is 11.'), 'The answer is 11.', '2 + 9'),
    (chat('<|channel|>analysis<|message|>The answer is 5?<|end|><|start|>assistant<|channel|>final<|message|>The answer is 18.<|return|>'),
     'The answer is 18.', 'The answer is 5?')])
def test_thinking_is_kept_apart_from_the_answer(tmp_path, reply_, text, thinking):
    with Loopback(lambda n, body: reply_) as server:
        for _ in range(2):
            rationale, = run(server, problems(1), tmp_path/'a.db').rationales
            assert (rationale.text, rationale.thinking, rationale.finish_reason) == (text, thinking, 'stop')
        assert len(server.received) == 1


def test_tokens_of_the_thinking_are_no_tokens_of_the_answer(tmp_path):
    pieces = ['<think>', 'The', ' answer', '</think>', '\n\n', 'The', ' answer', ' is', ' 11.']
    content = [{'token': piece, 'logprob': -0.5, 'top_logprobs': []} for piece in pieces]
    with Loopback(lambda n, body: chat(''.join(pieces), choice={'logprobs': {'content': content}})) as server:
        rationale, = run(server, problems(1), tmp_path/'a.db', top_logprobs=1).rationales
    assert [o.token for o in rationale.logprobs] == pieces[5:] and ''.join(pieces[5:]) == rationale.text


def test_a_teacher_of_ones_own_is_held_to_the_same_rules(tmp_path):
    items = problems(3)
    replay = ReplayTeacher({'p0': '<think>1 + 0</think>The answer is 1.', 'p1': '', 'p2': '<think>so'})
    collected = collect(items, FORMAT, replay, tmp_path/'a.db', limits=QUIET)
    assert [(r.text, r.thinking) for r in collected.rationales] == [('The answer is 1.', '1 + 0')]
    assert [o[0] for o in collected.failed] == [o[0] for o in collected.unanswered] == ['p1', 'p2']


def test_a_failing_endpoint_is_no_missing_answer(tmp_path):
    "`unanswered` has what the model left out, `failed` that and what the endpoint did not do"
    def plan(n, body):
        prompt = body['messages'][-1]['content']
        return chat('') if ' 1 ' in prompt else Status(400) if ' 2 ' in prompt else None
    with Loopback(plan) as server: collected = run(server, problems(4), tmp_path/'a.db')
    assert [o[0] for o in collected.failed] == ['p1', 'p2'] and [o[0] for o in collected.unanswered] == ['p1']


# Log-probabilities

def strict(text: str):
    def refuse(name): raise ValueError(name)
    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_do_not_break_json_on_disk(tmp_path):
    content = [{'token': 'The answer is 11.', 'logprob': float('-inf'),
                'top_logprobs': [{'token': 'The answer is 11.', 'logprob': -0.1}, {'token': 'x', 'logprob': float('-inf')}, {'token': 'y', 'logprob': float('nan')}]}]
    with Loopback(lambda n, body: chat('The answer is 11.', choice={'logprobs': {'content': content}})) as server:
        assert '-Infinity' in chat('', choice={'logprobs': {'content': content}}).text
        rationale, = run(server, problems(1), tmp_path/'a.db', top_logprobs=3).rationales
    assert rationale.logprobs[0].logprob == -9999.0 and rationale.logprobs[0].top == (('The answer is 11.', -0.1),)
    write_jsonl(tmp_path/'r.jsonl', [rationale])
    strict((tmp_path/'r.jsonl').read_text())
    with Store(tmp_path/'a.db') as store: store.export(tmp_path/'all.jsonl')
    strict((tmp_path/'all.jsonl').read_text())


def test_a_teacher_of_ones_own_with_infinite_numbers(tmp_path):
    class Sure(OracleTeacher):
        async def complete(self, request):
            return Completion('The answer is 1.', logprobs=(TokenLogprob('The answer is 1.', 0.0, (('x', float('-inf')),)),))
    items = word_problems(1)
    rationale, = collect(items, FORMAT, Sure(items), tmp_path/'a.db', *records(top_logprobs=1)).rationales
    assert rationale.logprobs[0].top == ()


def test_the_older_layout_of_logprobs_is_read(tmp_path):
    logprobs = {'tokens': ['The', ' answer is', ' 11.'], 'token_logprobs': [None, -0.5, -0.25], 'top_logprobs': [None, {' answer is': -0.5, ' sum': -2.0}, {}]}
    with Loopback(lambda n, body: chat('The answer is 11.', choice={'logprobs': logprobs})) as server:
        rationale, = run(server, problems(1), tmp_path/'a.db', top_logprobs=2).rationales
    assert [(o.token, o.logprob) for o in rationale.logprobs] == [('The', -9999.0), (' answer is', -0.5), (' 11.', -0.25)]
    assert rationale.logprobs[1].top == ((' answer is', -0.5), (' sum', -2.0))


def test_a_server_that_sends_no_logprobs_is_warned_of(tmp_path):
    with Loopback(lambda n, body: chat('The answer is 11.')) as server:
        for _ in range(2):
            with pytest.warns(UserWarning, match='1 of 1 answers came without log-probabilities'): run(server, problems(1), tmp_path/'a.db', top_logprobs=5)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run(server, problems(1), tmp_path/'a.db')


# Questions and their rationales

def test_a_rationale_stays_with_its_question_when_a_line_is_deleted(tmp_path):
    "Problems without ids get one from their content, so what is left keeps its rationales, and nothing is asked again"
    items = [Problem('', f'What is {i} plus 1?', str(i + 1)) for i in range(5)]
    with Loopback() as server:
        before = {r.problem_id: r.text for r in run(server, items, tmp_path/'a.db').rationales}
        after = run(server, items[:1] + items[2:], tmp_path/'a.db')
        assert len(server.received) == 5 and len({p.id for p in items}) == 5
    assert {r.problem_id: r.text for r in after.rationales} == {p.id: before[p.id] for p in items[:1] + items[2:]}
    replay = ReplayTeacher({p.id: f'about {p.question}' for p in items})
    told = collect(items[1:], FORMAT, replay, tmp_path/'b.db', limits=QUIET).rationales
    assert [r.text for r in told] == [f'about {p.question}' for p in items[1:]]


def test_results_with_an_unknown_layout_say_so(tmp_path):
    asked, = read_jsonl(write_batch(tmp_path/'r.jsonl', problems(1), FORMAT, BATCH, tmp_path/'a.db')[0])
    write_jsonl(tmp_path/'out.jsonl', [{'custom_id': asked['custom_id'], 'result': {'type': 'succeeded', 'message': {}}}])
    (_, said), = read_batch(tmp_path/'out.jsonl', problems(1), FORMAT, BATCH, tmp_path/'a.db').failed
    assert 'unknown layout' in said and 'custom_id, result' in said


def test_a_batch_result_without_an_answer_is_not_kept(tmp_path):
    asked = list(read_jsonl(write_batch(tmp_path/'r.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db')[0]))
    bodies = [json.loads(chat('', 'length', reasoning='Hm').text), json.loads(chat('<think>1</think>The answer is 2.').text)]
    write_jsonl(tmp_path/'out.jsonl', [result(row, response={'status_code': 200, 'body': body}) for row, body in zip(asked, bodies)])
    results = read_batch(tmp_path/'out.jsonl', problems(2), FORMAT, BATCH, tmp_path/'a.db')
    assert results.kept == 1 and 'spent on thinking' in results.failed[0][1]
    with Store(tmp_path/'a.db') as store: (_, completion), = store
    assert (completion.text, completion.thinking) == ('The answer is 2.', '1')


def test_a_slow_answer_is_not_billed_seven_times(tmp_path):
    "A request that ran out of time is still worked on by the server: it is asked once more, not six times"
    with Loopback(lambda n, body: Stall(2)) as server:
        collected = run(server, problems(1), tmp_path/'a.db', timeout=0.2)
        assert len(server.received) == 2 and 'longer timeout' in collected.failed[0][2]
