"The real thing: `transformers serve` on loopback, driven through OpenAITeacher, collect and Store"
import os, signal, socket, subprocess, sys, time, urllib.error, urllib.request

import pytest

from cotkit.teachers.collect import RequestLimits, collect
from cotkit.data.core import Problem
from cotkit.teachers.curate import curate
from cotkit.training.distill import distill
from cotkit.training.trainer import TrainingSet
from train_settings import settings
from cotkit.evaluation.evaluate import compare, evaluate
from cotkit.evaluation.strategies import SingleTurn
from cotkit.models.generate import DecodingParams
from cotkit.data.formats import FewShotCoT, StepByStep, ZeroShotCoT, demonstrations, gold_rationale
from cotkit.models.students import Student, StudentConfig, make_student
from cotkit.teachers.store import Store
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
from cotkit.teachers.protocol import SamplingParams, TeacherError

pytest.importorskip('fastapi', reason='transformers[serving] is not installed')
pytest.importorskip('uvicorn', reason='transformers[serving] is not installed')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "A tiny Llama that was taught these problems, with a chat template, saved and served; its folder and the base URL"
    folder, log = tmp_path_factory.mktemp('served')/'tiny-llama', tmp_path_factory.mktemp('log')/'serve.log'
    known = problems(30)
    gold = [gold_rationale(p) for p in known]
    teacher = make_student('nano', ZeroShotCoT(), texts=[t for p, r in zip(known, gold) for e in ZeroShotCoT().examples(p, [r]) for t in (e.input, e.target)])
    distill(teacher, TrainingSet(known, gold), output_dir=tmp_path_factory.mktemp('taught'), config=settings(max_steps=250, learning_rate=1e-2))
    teacher.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    teacher.save(folder)
    port = free_port()
    command = [sys.executable, '-c', 'from transformers.cli.transformers import main; main()', 'serve', str(folder), '--host', '127.0.0.1', '--port', str(port), '--device', 'cpu']
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false'}
    with log.open('w') as out: process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=5)
            except (urllib.error.URLError, OSError): time.sleep(0.1)
            else: break
        else: pytest.fail(f'the server did not become ready: {log.read_text()}')
        yield str(folder), f'http://127.0.0.1:{port}/v1'
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)


def problems(n: int) -> list[Problem]:
    return [Problem(f'p{i}', f'Ann has {i} apples and finds 2 more. How many?', str(i + 2), gold_steps=(f'{i} + 2 = {i + 2}.',)) for i in range(n)]


def test_collect_from_a_served_model(server, tmp_path, monkeypatch):
    model, url = server
    monkeypatch.setenv('OPENAI_BASE_URL', url)
    with Store(tmp_path/'store.sqlite') as store:
        first = collect(problems(6), ZeroShotCoT(), OpenAITeacher(model), store, SamplingParams(max_tokens=12), RequestLimits(3, progress=False))
        assert (first.sent, first.failed, len(first.rationales)) == (6, [], 6)
        assert all(r.text and 0 < r.tokens <= 12 for r in first.rationales) and first.tokens > 6
        again = collect(problems(6), ZeroShotCoT(), OpenAITeacher(model), store, SamplingParams(max_tokens=12), RequestLimits(3, progress=False))
        assert (again.sent, again.reused) == (0, 6) and again.rationales == first.rationales
        assert collect(problems(7), ZeroShotCoT(), OpenAITeacher(model), store, SamplingParams(max_tokens=12)).sent == 1


def test_served_answers_are_those_of_the_model(server, tmp_path):
    from cotkit.teachers.local import LocalTeacher
    model, url = server
    served = collect(problems(2), ZeroShotCoT(), OpenAITeacher(model, EndpointConfig(url)), tmp_path/'a.db', SamplingParams(max_tokens=10))
    local = collect(problems(2), ZeroShotCoT(), LocalTeacher(model), tmp_path/'a.db', SamplingParams(max_tokens=10))
    assert [r.text for r in served.rationales] == [r.text for r in local.rationales] and local.sent == 2


def test_a_served_model_is_evaluated_with_the_same_call(server, tmp_path):
    "Greedy, the student behind the endpoint and the student in memory bring the same answers"
    model, url = server
    teacher = OpenAITeacher(model, EndpointConfig(url))
    served = SingleTurn(teacher, ZeroShotCoT(), sampling=SamplingParams(max_tokens=64), store=tmp_path/'a.db')
    local = SingleTurn(Student.load(model), decoding=DecodingParams(64))
    there, here = (evaluate(each, problems(12), 'nano', 'train') for each in (served, local))
    assert [p.output.strip() for p in there.predictions] == [p.output.strip() for p in here.predictions]
    assert there.accuracy == here.accuracy and there.accuracy.correct > 6 and (there.truncated, here.truncated) == (0, 0)
    compared = compare(there, here)
    assert (compared.only_first, compared.only_second) == (0, 0)


def test_stop_strings_are_accepted(server, tmp_path):
    model, url = server
    items = problems(3)
    collected = collect(items[1:], FewShotCoT(demonstrations(items[:1])), OpenAITeacher(model, EndpointConfig(url)), tmp_path/'a.db', SamplingParams(max_tokens=8))
    assert len(collected.rationales) == 2 and not collected.failed


def test_the_main_job_with_a_served_teacher(server, tmp_path):
    "Collect from the server, curate, teach a T5 step by step, test it, and load it without cotkit"
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    model, url = server
    items = problems(30)
    collected = collect(items, ZeroShotCoT(), OpenAITeacher(model, EndpointConfig(url)), tmp_path/'a.db', SamplingParams(max_tokens=64))
    curated = curate(collected.rationales, items, ZeroShotCoT())
    assert curated.accuracy.n == 30 and curated.accuracy.value > 0.5
    about = {r.problem_id: [r] for r in curated.kept}
    texts = [t for p in items for e in StepByStep().examples(p, about.get(p.id, [])) for t in (e.input, e.target)]
    student = make_student(StudentConfig('nano', 'seq2seq'), StepByStep(), texts)
    distill(student, TrainingSet(items[:24], curated.kept, items[24:]), output_dir=tmp_path/'run', config=settings(max_steps=30))
    examined = evaluate(SingleTurn(Student.load(tmp_path/'run'/'student'), decoding=DecodingParams(8)), items[24:], 'student', 'validation')
    assert examined.accuracy.n == 6
    plain, tokenizer = (o.from_pretrained(tmp_path/'run'/'student') for o in (AutoModelForSeq2SeqLM, AutoTokenizer))
    written = plain.generate(**tokenizer(StepByStep().prompt(items[24]), return_tensors='pt'), max_new_tokens=8)
    assert tokenizer.decode(written[0], skip_special_tokens=True).strip() == examined.predictions[0].output.strip()
