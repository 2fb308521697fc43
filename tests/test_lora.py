"Low-rank additions: only they learn, runs resume exactly, and what is saved needs no peft"
import json, os, subprocess, sys

import pytest

pytest.importorskip('peft')

import torch

from cotkit.data.core import CotkitError
from cotkit.training.checkpoints import read_history
from cotkit.evaluation.evaluate import evaluate
from cotkit.evaluation.strategies import SingleTurn
from cotkit.models.generate import DecodingParams
from cotkit.models.generate import DecodingParams, generate
from cotkit.models.students import LoRA, Student, with_lora
from test_distill import ARCHITECTURES, VALIDATION, Stop, make_student, run

PROMPTS = [make_student().format.prompt(p) for p in VALIDATION]


def adapted(arch='causal', **settings): return with_lora(make_student(arch), LoRA(**{'rank': 4} | settings))


def state(student): return {name: value.clone() for name, value in student.model.state_dict().items()}


@pytest.fixture(scope='module', params=ARCHITECTURES)
def trained(request, tmp_path_factory):
    "The architecture, the run's folder, the student, and its weights before"
    folder, student = tmp_path_factory.mktemp('lora')/'run', adapted(request.param)
    before = state(student)
    run(folder, student=student, max_steps=40, save_steps=40, eval_steps=20, logging_steps=10, learning_rate=2e-2)
    return request.param, folder, student, before


def test_only_the_additions_learn(trained):
    _, folder, student, before = trained
    changed = {name for name, value in state(student).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if 'lora_' in name}
    history = read_history(folder)
    validated = [row['eval_loss'] for row in history if 'eval_loss' in row]
    assert history[-1]['loss'] < 0.95 * history[0]['loss'] and validated[1] < validated[0]


def test_what_is_saved_answers_like_the_student(trained):
    arch, folder, student, _ = trained
    loaded = Student.load(folder/'student')
    assert generate(loaded, PROMPTS, DecodingParams(12)) == generate(student, PROMPTS, DecodingParams(12))
    asked, again = (evaluate(SingleTurn(s, decoding=DecodingParams(12)), VALIDATION) for s in (student, loaded))
    assert [p.output for p in asked.predictions] == [p.output for p in again.predictions]
    assert not hasattr(loaded.model, 'peft_config') and hasattr(student.model, 'peft_config') and loaded.format == student.format


PLAIN = '''
import json, sys
sys.modules['peft'] = sys.modules['cotkit'] = None
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
folder, prompt = sys.argv[1:]
kind = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
model, tokenizer = kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
asked = tokenizer(prompt, return_tensors='pt')
said = model.generate(**asked, max_new_tokens=8, do_sample=False)[0]
print(json.dumps(tokenizer.decode(said if model.config.is_encoder_decoder else said[asked.input_ids.shape[1]:], skip_special_tokens=True)))
'''


def test_it_loads_without_cotkit_and_peft(trained):
    _, folder, student, _ = trained
    said = subprocess.run([sys.executable, '-c', PLAIN, folder/'student', PROMPTS[0]], capture_output=True, text=True, check=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}).stdout
    assert json.loads(said).removeprefix(' ') == generate(student, PROMPTS[:1], DecodingParams(8))[0]


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_a_resumed_run_ends_like_an_uninterrupted_one(arch, tmp_path):
    arguments = dict(learning_rate=1e-2, gradient_accumulation_steps=2)
    whole = run(tmp_path/'whole', student=adapted(arch, dropout=0.1), **arguments)
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'cut', student=adapted(arch, dropout=0.1), callbacks=[Stop(9)], **arguments)
    resumed = run(tmp_path/'cut', student=adapted(arch, dropout=0.1), resume=True, **arguments)
    assert read_history(tmp_path/'cut') == read_history(tmp_path/'whole')
    a, b = state(whole), state(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    ended = run(tmp_path/'cut', student=adapted(arch, dropout=0.1), resume=True, **arguments)
    assert generate(ended, PROMPTS, DecodingParams(8)) == generate(whole, PROMPTS, DecodingParams(8))
    with pytest.raises(CotkitError, match='field "adapters"'): run(tmp_path/'cut', student=adapted(arch, rank=2), resume=True, **arguments)


def test_the_first_values_are_the_seed_s():
    one, two, other = (state(adapted(init_seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_it_starts_as_the_student_that_it_was():
    assert generate(adapted(), PROMPTS, DecodingParams(8)) == generate(make_student(), PROMPTS, DecodingParams(8))


def test_some_matrices_only():
    names = [name for name, p in adapted(targets=['q_proj', 'v_proj']).model.named_parameters() if p.requires_grad]
    assert names and all('q_proj' in name or 'v_proj' in name for name in names)


@pytest.mark.parametrize('settings', [{'rank': 0}, {'targets': ['no_such_matrix']}])
def test_what_peft_refuses_is_an_error_for_people(settings):
    with pytest.raises(CotkitError, match='rank above 0'): adapted(**settings)


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(CotkitError, match=r'cotkit\[lora\]'): with_lora(make_student())


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    for name, checkpointing in (('without', False), ('with', True)):
        run(tmp_path/name, student=adapted(), max_steps=4, gradient_checkpointing=checkpointing)
    a, b = (read_history(tmp_path/name) for name in ('without', 'with'))
    assert [row['loss'] for row in a] == pytest.approx([row['loss'] for row in b], rel=1e-5)
