"The real thing: `transformers serve` on loopback, driven through OpenAITeacher, collect and Store"
import os, signal, socket, subprocess, sys, time, urllib.error, urllib.request

import pytest

from cotkit.collect import collect
from cotkit.core import Problem
from cotkit.formats import FewShotCoT, ZeroShotCoT, demonstrations
from cotkit.store import Store
from cotkit.teachers import OpenAITeacher, TeacherError

pytest.importorskip('fastapi', reason='transformers[serving] is not installed')
pytest.importorskip('uvicorn', reason='transformers[serving] is not installed')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "A tiny Llama with a chat template, saved and served; its folder and the base URL"
    from tiny_models import chat_tokenizer, tiny_llama
    folder, log = tmp_path_factory.mktemp('served')/'tiny-llama', tmp_path_factory.mktemp('log')/'serve.log'
    tokenizer = chat_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder), tokenizer.save_pretrained(folder)
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
    return [Problem(f'p{i}', f'Ann has {i} apples and finds 2 more. How many?', str(i + 2), steps=(f'{i} + 2 = {i + 2}.',)) for i in range(n)]


def test_collect_from_a_served_model(server, tmp_path, monkeypatch):
    model, url = server
    monkeypatch.setenv('OPENAI_BASE_URL', url)
    with Store(tmp_path/'ledger.db') as store:
        first = collect(problems(6), ZeroShotCoT(), OpenAITeacher(model), store, max_tokens=12, in_flight=3, progress=False)
        assert (first.sent, first.failed, len(first.rationales)) == (6, [], 6)
        assert all(r.text and 0 < r.tokens <= 12 for r in first.rationales) and first.tokens > 6
        again = collect(problems(6), ZeroShotCoT(), OpenAITeacher(model), store, max_tokens=12, in_flight=3, progress=False)
        assert (again.sent, again.reused) == (0, 6) and again.rationales == first.rationales
        assert collect(problems(7), ZeroShotCoT(), OpenAITeacher(model), store, max_tokens=12, progress=False).sent == 1


def test_served_answers_are_those_of_the_model(server, tmp_path):
    from cotkit.teachers import LocalTeacher
    model, url = server
    served = collect(problems(2), ZeroShotCoT(), OpenAITeacher(model, url), tmp_path/'a.db', max_tokens=10, progress=False)
    local = collect(problems(2), ZeroShotCoT(), LocalTeacher(model), tmp_path/'a.db', max_tokens=10, progress=False)
    assert [r.text for r in served.rationales] == [r.text for r in local.rationales] and local.sent == 2


def test_stop_strings_are_accepted(server, tmp_path):
    model, url = server
    items = problems(3)
    collected = collect(items[1:], FewShotCoT(demonstrations(items[:1])), OpenAITeacher(model, url), tmp_path/'a.db', max_tokens=8, progress=False)
    assert len(collected.rationales) == 2 and not collected.failed
