"""Models: tokenizers, building, counting, loading and saving"""
from __future__ import annotations

import json, os, random, shutil, subprocess, sys

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, T5Tokenizer

from cotkit.data.core import CotkitError
from cotkit.data.story_world import stories
from cotkit.data.formats import FewShotCoT, StepByStep, ZeroShotCoT
from cotkit.models.students import (
    SIZES, Size, Student, StudentConfig, build_model, load_model, load_weights, make_student, parameter_count)
from cotkit.models.tokenizers import (
    ARCHITECTURES, tokenize_inputs, tokenize_targets, train_tokenizer)
from cotkit.models.generate import DecodingParams, generate
from cotkit.models.flops import flops_per_token

torch.set_num_threads(1)
QUESTION = 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?'
RATIONALE = '4 bags of 2 apples are 4 * 2 = 8 apples. Ann has 3 + 8 = 11 apples. The answer is 11.'
TEXTS = [QUESTION, RATIONALE, ' ' + RATIONALE] * 2
TOKENIZERS = {arch: train_tokenizer(TEXTS, arch, vocab_size=400) for arch in ARCHITECTURES}
WRITABLE = st.text(st.characters(exclude_categories=['Cs']), max_size=40)


# Tokenizers

@pytest.mark.parametrize('arch', ARCHITECTURES)
@settings(max_examples=200, deadline=None)
@given(text=WRITABLE)
def test_any_text_comes_back(arch, text):
    tokenizer = TOKENIZERS[arch]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize('text', ['</s>', '<pad><s></s>', 'a</s> b', '\r\n\t \u3000', '👩‍👩‍👧', 'e\u0301', '\x00\x01', '\u202eabc', '½ ² 𝟙 ٣', ' ' * 50])
def test_hostile_text_is_data(text):
    for arch, tokenizer in TOKENIZERS.items():
        ids = tokenizer(text).input_ids
        if arch == 'seq2seq': assert ids.pop() == tokenizer.eos_token_id
        assert not set(ids) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(number=st.integers(0, 10**30))
def test_digits_are_single(number):
    tokenizer = TOKENIZERS['causal']
    tokens = [tokenizer.decode(o) for o in tokenizer(f'is {number}').input_ids]
    assert [o.strip() for o in tokens[-len(str(number)):]] == list(str(number))


@settings(max_examples=200, deadline=None)
@given(prompt=WRITABLE.map(str.rstrip), target=WRITABLE.map(str.strip))
def test_input_and_target_join(prompt, target):
    tokenizer = TOKENIZERS['causal']
    if not target: return
    both = tokenize_inputs(tokenizer, [prompt])[0] + tokenize_targets(tokenizer, [target])[0]
    assert both == tokenizer(f'{prompt} {target}').input_ids + [tokenizer.eos_token_id]


def test_special_tokens_and_plain_calls():
    causal, seq2seq = TOKENIZERS['causal'], TOKENIZERS['seq2seq']
    assert (causal.pad_token_id, causal.eos_token_id, causal.bos_token_id) == (0, 1, 2)
    assert set(causal(QUESTION)) == {'input_ids', 'attention_mask'}
    assert tokenize_inputs(seq2seq, [QUESTION], 'seq2seq')[0] == tokenize_inputs(causal, [QUESTION])[0] + [1] == seq2seq(QUESTION).input_ids
    assert tokenize_targets(seq2seq, ['11'], 'seq2seq')[0] == seq2seq('11').input_ids
    assert tokenize_inputs(causal, []) == tokenize_targets(causal, []) == []


def test_order_of_texts_does_not_matter():
    words = [f'{a}{b} {b}{a} {n}' for a in ('ab', 'cd', 'ef', 'gh') for b in ('xy', 'zu', 'ij') for n in range(40)]
    shuffled = random.Random(0).sample(words, len(words))
    a, b = (train_tokenizer(o, vocab_size=300).backend_tokenizer.to_str() for o in (words, shuffled))
    assert a == b


def test_hash_seed_does_not_matter():
    code = ('from cotkit.models.tokenizers import train_tokenizer\n'
            f'print(train_tokenizer({TEXTS!r}, vocab_size=330).backend_tokenizer.to_str())')
    run = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': '7'}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == train_tokenizer(TEXTS, vocab_size=330).backend_tokenizer.to_str()


def test_vocabulary_size_is_a_limit():
    assert len(train_tokenizer(TEXTS, vocab_size=280)) == 280
    assert len(TOKENIZERS['causal']) <= 400
    for bad in (dict(texts=TEXTS, vocab_size=100), dict(texts=[]), dict(texts=['', '']), dict(texts=TEXTS, arch='encoder')):
        with pytest.raises(CotkitError): train_tokenizer(**bad)


# Building

@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_seed_decides_the_weights_and_nothing_else(arch):
    before = torch.get_rng_state()
    a, b, c = (build_model('nano', TOKENIZERS[arch], arch, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    d = build_model('nano', TOKENIZERS[arch], arch, 0)
    torch.set_rng_state(before)
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]) and torch.equal(weight, d.state_dict()[name])
    assert not torch.equal(a.get_input_embeddings().weight, c.get_input_embeddings().weight)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_untrained_loss_is_that_of_a_guess(arch):
    "Weights start at a scale at which the first predictions are near uniform, and the loss falls"
    tokenizer = TOKENIZERS[arch]
    model = build_model('nano', tokenizer, arch).train()
    ids, labels = (torch.tensor(f(tokenizer, [t], arch)) for f, t in ((tokenize_inputs, QUESTION), (tokenize_targets, RATIONALE)))
    batch = dict(input_ids=labels, labels=labels) if arch == 'causal' else dict(input_ids=ids, labels=labels)
    guess = torch.tensor(float(len(tokenizer))).log()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        losses.append(model(**batch).loss)
        losses[-1].backward(); optimizer.step(); optimizer.zero_grad()
    assert abs(losses[0] - guess) < 1.5
    assert losses[-1] < 0.5 * losses[0]


def test_unknown_size_suggests_close_ones():
    with pytest.raises(CotkitError, match='Did you mean tiny'): build_model('tinny', TOKENIZERS['causal'])
    with pytest.raises(CotkitError, match='nano, tiny, mini'): build_model('enormous', TOKENIZERS['causal'])
    with pytest.raises(CotkitError, match='causal, seq2seq'): build_model('tiny', TOKENIZERS['causal'], 'decoder')


def test_settings_go_to_the_config():
    model = build_model('nano', TOKENIZERS['causal'], tie_word_embeddings=False, max_position_embeddings=512)
    assert model.config.max_position_embeddings == 512 and parameter_count(model) == 53_536 + 2 * 32 * len(TOKENIZERS['causal'])


def test_own_size():
    model = build_model(Size(2, 48, 3), TOKENIZERS['causal'])
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size) == (2, 48, 128)


# Counting

def test_sizes_grow_and_keep_their_promise():
    "Parameters outside the embeddings, within 10 % of what the names stand for in the documentation"
    about = {'nano': 0.05e6, 'tiny': 0.21e6, 'mini': 0.8e6, 'small': 3.2e6, 'base': 7.4e6, 'large': 25.3e6}
    assert list(about) == list(SIZES)
    for name, expected in about.items():
        model = build_model(name, TOKENIZERS['causal'])
        count = parameter_count(model, embeddings=False)
        assert abs(count / expected - 1) < 0.1
        assert parameter_count(model) == count + len(TOKENIZERS['causal']) * SIZES[name].width


def test_parameters_are_counted_once():
    for arch in ARCHITECTURES:
        model = build_model('nano', TOKENIZERS[arch], arch)
        assert parameter_count(model) == model.num_parameters() == sum(p.numel() for p in set(model.parameters()))


def measured(model, **inputs) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode(): model(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize('kind', ['llama', 'gpt2'])
def test_flops_of_a_causal_model_are_those_of_its_operators(kind):
    model = build_model('tiny', TOKENIZERS['causal']) if kind == 'llama' else gpt2()
    n = 64
    ids = torch.zeros(1, n, dtype=torch.long)
    assert measured(model, input_ids=ids) == pytest.approx(n * flops_per_token(model, context=n), rel=2e-3)


def test_flops_of_an_encoder_decoder_are_those_of_its_operators():
    model, n = build_model('tiny', TOKENIZERS['seq2seq'], 'seq2seq'), 64
    ids = torch.zeros(1, n, dtype=torch.long)
    expected = n * (flops_per_token(model, context=n, reading=True) + flops_per_token(model, context=n))
    assert measured(model, input_ids=ids, decoder_input_ids=ids) == pytest.approx(expected, rel=2e-3)


# Saving and loading

FORMATS = [ZeroShotCoT(), StepByStep(alpha=0.25)]


@pytest.mark.parametrize('format', FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_student_comes_back_bit_equal(tmp_path, arch, format):
    student = Student(build_model('nano', TOKENIZERS[arch], arch), TOKENIZERS[arch], format, arch)
    student.save(tmp_path/'a'/'student')
    again = Student.load(tmp_path/'a'/'student')
    ids = torch.tensor(tokenize_inputs(student.tokenizer, [QUESTION], arch))
    extra = {} if arch == 'causal' else dict(decoder_input_ids=ids)
    assert torch.equal(student.model(ids, **extra).logits, again.model(ids, **extra).logits)
    assert (again.format, again.arch) == (format, arch)
    for text in (QUESTION, '</s> 👩‍👩‍👧'): assert again.tokenizer(text).input_ids == student.tokenizer(text).input_ids
    assert os.listdir(tmp_path/'a') == ['student']


ALONE = '''
import sys, json
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
for arch, kind in (('causal', AutoModelForCausalLM), ('seq2seq', AutoModelForSeq2SeqLM)):
    model, tokenizer = kind.from_pretrained(arch), AutoTokenizer.from_pretrained(arch)
    asked = tokenizer(sys.argv[1], return_tensors='pt')
    two = tokenizer([sys.argv[1], 'Ann'], return_tensors='pt', padding=True)
    print(json.dumps([asked.input_ids.tolist(), model.generate(**asked)[0].tolist(), model.generate(**two, max_new_tokens=2).tolist()]))
assert 'cotkit' not in sys.modules
'''


def test_student_answers_where_there_is_no_cotkit(tmp_path):
    students = [Student(build_model('nano', TOKENIZERS[arch], arch), TOKENIZERS[arch], ZeroShotCoT(), arch) for arch in ARCHITECTURES]
    for student in students: student.save(tmp_path/student.arch)
    blocked = tmp_path/'blocked'/'cotkit'
    blocked.mkdir(parents=True)
    (blocked/'__init__.py').write_text('raise ImportError("cotkit was imported")')
    run = subprocess.run([sys.executable, '-c', ALONE, QUESTION], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(blocked.parent)})
    assert run.returncode == 0, run.stderr
    for student, line in zip(students, run.stdout.strip().split('\n')[-2:]):
        asked, out, two = json.loads(line)
        ids = torch.tensor(tokenize_inputs(student.tokenizer, [QUESTION], student.arch))
        assert asked == ids.tolist() and len(two) == 2
        assert out == student.model.generate(ids)[0].tolist() and len(out) > 25


def test_saving_replaces_a_student_and_nothing_else(tmp_path):
    student = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT())
    student.save(tmp_path/'student')
    Student(student.model, student.tokenizer, StepByStep()).save(tmp_path/'student')
    assert Student.load(tmp_path/'student').format == StepByStep()
    precious = tmp_path/'photos'
    precious.mkdir()
    (precious/'cat.png').write_bytes(b'cat')
    for path in (precious, precious/'cat.png'):
        with pytest.raises(CotkitError, match='not a student'): student.save(path)
    assert os.listdir(precious) == ['cat.png'] and sorted(os.listdir(tmp_path)) == ['photos', 'student']


def test_save_says_where_in_full(tmp_path, monkeypatch):
    "The path stays right when the working directory changes; further files come along and an old one goes"
    monkeypatch.chdir(tmp_path)
    student = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT(), base='some/base')
    path = student.save('student', {'README.md': 'Ω\n'})
    assert path == tmp_path/'student' and path.is_absolute()
    assert (path/'README.md').read_text(encoding='utf-8') == 'Ω\n' and Student.load('student').base == 'some/base'
    student.save('student')
    assert not (path/'README.md').exists()


def test_origin_is_remembered_without_its_place(tmp_path, gpt2_folder):
    taught = make_student(gpt2_folder, ZeroShotCoT())
    assert taught.base == './gpt2' and Student.load(taught.save(tmp_path/'student')).base == './gpt2'
    about = json.loads((tmp_path/'student'/'cotkit.json').read_text())
    assert str(tmp_path) not in json.dumps(about)
    del about['base']
    write(tmp_path/'student'/'cotkit.json', json.dumps(about))
    assert Student.load(tmp_path/'student').base == '', 'a student saved before there was a base'


def test_a_shape_is_as_good_as_a_name():
    student = make_student(StudentConfig(Size(2, 16, 2), 'seq2seq', init_seed=3), ZeroShotCoT(), TEXTS)
    assert (student.arch, student.model.config.d_model, student.base) == ('seq2seq', 16, '')
    same = make_student(SIZES['nano'], ZeroShotCoT(), TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(same.model.parameters(), make_student('nano', ZeroShotCoT(), TEXTS).model.parameters()))


def test_failed_save_leaves_the_old_student(tmp_path):
    student = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT())
    student.save(tmp_path/'student')

    class Unwritable(ZeroShotCoT):
        def to_dict(self): raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt): Student(student.model, student.tokenizer, Unwritable()).save(tmp_path/'student')
    assert os.listdir(tmp_path) == ['student'] and Student.load(tmp_path/'student').format == ZeroShotCoT()


@pytest.mark.parametrize('name', ['gpt_neox', 'bart', 'mbart'])
def test_saved_student_writes_what_it_was_taught_to_write(tmp_path, name):
    "A checkpoint's repetition penalty, forced and wrong end tokens do not survive `save`; the model in memory keeps its own settings"
    model = of_family(name)
    arch = 'seq2seq' if model.config.is_encoder_decoder else 'causal'
    settings = dict(repetition_penalty=1.3, no_repeat_ngram_size=2, eos_token_id=3, forced_bos_token_id=7, num_beams=2, max_length=9)
    model.generation_config.update(**settings)
    student = Student(model, train_tokenizer(TEXTS, arch, vocab_size=320), ZeroShotCoT(), arch)
    folder = student.save(tmp_path/'student')
    assert {k: getattr(model.generation_config, k) for k in settings} == settings
    plain = type(model).from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert plain.generation_config.eos_token_id == [1, 3] and plain.generation_config.repetition_penalty in (None, 1.0)
    for prompt in (QUESTION, 'Ann', RATIONALE):
        asked = tokenizer(prompt, return_tensors='pt')
        written = plain.generate(**asked, max_new_tokens=24)[0, 0 if arch == 'seq2seq' else asked.input_ids.shape[1]:]
        assert tokenizer.decode(written, skip_special_tokens=True).removeprefix(' ') == generate(student, [prompt], DecodingParams(24))[0]


# Other people's checkpoints

def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=len(TOKENIZERS['causal']), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1,
                        attn_implementation='eager')
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def gpt2_folder(tmp_path):
    "GPT-2's architecture and its habit of having no padding token"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS['causal'].backend_tokenizer, eos_token='</s>')
    gpt2().save_pretrained(tmp_path/'gpt2')
    tokenizer.save_pretrained(tmp_path/'gpt2')
    return tmp_path/'gpt2'


def test_gpt2_pads_with_its_end_token(gpt2_folder):
    model, tokenizer, arch = load_model(gpt2_folder)
    assert arch == 'causal' and tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert model.dtype == torch.float32
    student = make_student(gpt2_folder, ZeroShotCoT())
    assert Student.load(student.save(gpt2_folder.parent/'student')).arch == 'causal'
    with pytest.raises(CotkitError, match='but .* is causal'): make_student(StudentConfig(gpt2_folder, 'seq2seq'), ZeroShotCoT())


@pytest.fixture(scope='module')
def t5_folder(tmp_path_factory):
    "A T5 with a SentencePiece tokenizer, as the hub's are"
    sentencepiece = pytest.importorskip('sentencepiece')
    folder = tmp_path_factory.mktemp('t5')
    (folder/'text.txt').write_text('\n'.join(TEXTS * 20), encoding='utf-8')
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder/'text.txt'), model_prefix=str(folder/'spiece'), vocab_size=100, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece='<pad>', eos_piece='</s>')
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder/'spiece.model'))
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder/'model')
    T5ForConditionalGeneration(T5Config(vocab_size=128, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj='gated-gelu',
                                        decoder_start_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'


def test_t5_with_sentencepiece(t5_folder):
    model, tokenizer, arch = load_model(t5_folder)
    assert arch == 'seq2seq'
    ids = tokenize_inputs(tokenizer, [QUESTION], arch)[0]
    assert ids == tokenizer(QUESTION).input_ids and ids[-1] == tokenizer.eos_token_id
    assert tokenize_targets(tokenizer, ['The answer is 11.'], arch)[0] == tokenizer('The answer is 11.').input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == QUESTION
    import sentencepiece
    assert ids[:-1] == sentencepiece.SentencePieceProcessor(model_file=str(t5_folder.parent/'spiece.model')).encode(QUESTION)


def test_raw_sentencepiece_needs_protobuf_and_says_so(t5_folder, tmp_path):
    "A folder with nothing but spiece.model, as google/t5-v1_1-base is: read like its converted copy, or refused with the right remedy"
    shutil.copytree(t5_folder, tmp_path/'raw', ignore=shutil.ignore_patterns('tokenizer*'))
    shutil.copy(t5_folder.parent/'spiece.model', tmp_path/'raw')
    (tmp_path/'raw'/'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'T5Tokenizer', 'extra_ids': 0}))
    try: import google.protobuf  # noqa: F401
    except ImportError:
        with pytest.raises(CotkitError, match=r'SentencePiece model, and reading one needs protobuf.*cotkit\[sentencepiece\]') as error: load_model(tmp_path/'raw')
        assert 'tiktoken' not in str(error.value)
    else: assert load_model(tmp_path/'raw')[1](QUESTION).input_ids == load_model(t5_folder)[1](QUESTION).input_ids


def test_own_tokenizer_habits_are_kept(gpt2_folder):
    "A checkpoint that starts its inputs with a token is asked with that token; one that ends them is not asked with the end"
    from tokenizers.processors import TemplateProcessing
    tokenizer = load_model(gpt2_folder)[1]
    plain = tokenizer(QUESTION).input_ids
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single='<s> $A </s>', special_tokens=[('<s>', 2), ('</s>', 1)])
    assert tokenize_inputs(tokenizer, [QUESTION])[0] == [2, *plain]
    assert tokenize_targets(tokenizer, ['11'])[0] == [*tokenizer(' 11', add_special_tokens=False).input_ids, 1]


# Folders that are no model

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize('load', [load_model, Student.load, lambda o: make_student(o, ZeroShotCoT())], ids=['load_model', 'Student.load', 'make_student'])
def test_folder_that_is_no_model(tmp_path, load):
    (tmp_path/'empty').mkdir()
    broken = write(tmp_path/'broken'/'config.json', '{"model_type": "lla').parent
    listed = write(tmp_path/'listed'/'config.json', '[1, 2]').parent
    typeless = write(tmp_path/'typeless'/'config.json', '{"width": 3}').parent
    file = write(tmp_path/'notes.txt', 'no model')
    for path, said in ((tmp_path/'empty', 'config.json is missing'), (broken, 'not valid JSON'), (listed, 'model_type'), (typeless, 'model_type'),
                       (file, 'a file, not a model folder'), (tmp_path/'nowhere', 'no such folder')):
        with pytest.raises(CotkitError, match=said) as error: load(path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_model_without_weights_tokenizer_or_sense(tmp_path):
    student = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT())
    for name, spoil in (('no weights', lambda o: (o/'model.safetensors').unlink()),
                        ('cut weights', lambda o: (o/'model.safetensors').write_bytes((o/'model.safetensors').read_bytes()[:1000])),
                        ('no tokenizer', lambda o: [p.unlink() for p in o.glob('tokenizer*')]),
                        ('unknown type', lambda o: write(o/'config.json', '{"model_type": "nobody-has-this"}'))):
        folder = student.save(tmp_path/name)
        spoil(folder)
        with pytest.raises(CotkitError, match='cannot be loaded as a model') as error: load_model(folder)
        assert str(folder) in str(error.value)


def test_missing_weight_is_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file
    folder = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT()).save(tmp_path/'student')
    weights = load_file(folder/'model.safetensors')
    lost = sorted(o for o in weights if 'q_proj' in o)[0]
    del weights[lost]
    save_file(weights, folder/'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(CotkitError, match=lost): load_model(folder)


def test_pickled_weights_are_refused(tmp_path):
    model = build_model('nano', TOKENIZERS['causal'])
    folder = Student(model, TOKENIZERS['causal'], ZeroShotCoT()).save(tmp_path/'student')
    (folder/'model.safetensors').unlink()
    torch.save(model.state_dict(), folder/'pytorch_model.bin')
    with pytest.raises(CotkitError, match='safetensors'): load_model(folder)


def test_what_a_folder_lacks_is_said_before_anything_is_read(tmp_path):
    "An adapter, weights that can run code, no tokenizer, a checkpoint of a run: one line each, with what to do"
    student = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT())
    adapter = write(tmp_path/'adapter'/'adapter_config.json', '{}').parent
    pickled = student.save(tmp_path/'pickled')
    (pickled/'model.safetensors').rename(pickled/'pytorch_model.bin')
    bare = tmp_path/'checkpoint-3'
    student.model.save_pretrained(bare)
    for folder, said in ((adapter, 'an adapter without its model.*merge_and_unload'), (pickled, 'pytorch_model.bin.*safetensors'), (bare, 'tokenizer is missing')):
        for load in (load_model, make_student, Student.load):
            with pytest.raises(CotkitError, match=said) as error: load(folder)
            assert str(folder) in str(error.value) and '\n' not in str(error.value)
    write(bare/'trainer_state.json', '{}')
    with pytest.raises(CotkitError, match='checkpoint of a training run.*`student` folder'): make_student(bare, ZeroShotCoT())
    student.save_description(bare)
    assert Student.load(bare).format == ZeroShotCoT() and make_student(bare).base == './checkpoint-3'


def test_nobody_is_asked_whether_to_run_code(tmp_path):
    "Code that comes with a model is refused without a question on standard input"
    folder = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT()).save(tmp_path/'student')
    config = json.loads((folder/'config.json').read_text())
    write(folder/'config.json', json.dumps(config | {'model_type': 'own', 'auto_map': {'AutoConfig': 'own.C', 'AutoModelForCausalLM': 'own.M'}}))
    write(folder/'own.py', f'open({str(tmp_path/"ran")!r}, "w")')
    code = f'from cotkit.models.students import load_model; load_model({str(folder)!r})'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, input='y\n')
    assert run.returncode and 'code of its own, which is not run' in run.stderr.splitlines()[-1]
    assert '[y/N]' not in run.stdout + run.stderr and not (tmp_path/'ran').exists()


def test_foreign_code_is_not_run(tmp_path):
    "A checkpoint that brings code is refused, and the code does not run"
    folder = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT()).save(tmp_path/'student')
    config = json.loads((folder/'config.json').read_text())
    config.update(model_type='own', auto_map={'AutoConfig': 'own.OwnConfig', 'AutoModelForCausalLM': 'own.OwnModel'})
    write(folder/'config.json', json.dumps(config))
    write(folder/'own.py', f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(CotkitError): load_model(folder)
    assert not (tmp_path/'ran').exists()


def test_student_file_is_checked(tmp_path, gpt2_folder):
    plain = Student.load(gpt2_folder)
    assert (plain.format, plain.base) == (None, './gpt2') and Student.load(plain.save(gpt2_folder.parent/'plain')).format is None
    with pytest.raises(CotkitError, match='make_student.*--format'): plain.required_format()
    folder = Student(build_model('nano', TOKENIZERS['causal']), TOKENIZERS['causal'], ZeroShotCoT()).save(tmp_path/'student')
    for text in ('{"format"', '[]', '{}', '{"version": 1, "format": [1]}', '{"version": 99, "format": {"name": "zero-shot-cot"}}'):
        write(folder/'cotkit.json', text)
        with pytest.raises(CotkitError, match='cotkit.json'): Student.load(folder)


def test_unknown_name_is_one_line():
    with pytest.raises(CotkitError, match='Did you mean tiny') as error: make_student('tinny', ZeroShotCoT(), TEXTS)
    assert '\n' not in str(error.value)


def test_size_needs_text():
    with pytest.raises(CotkitError, match='no text'): make_student('tiny', ZeroShotCoT())


# Resuming

IDS = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2, vocab_size=320)
DECODER = IDS | dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512)
EXPERTS = DECODER | dict(num_key_value_heads=2, num_experts=4, num_experts_per_tok=2)
GPT = IDS | dict(n_embd=32, n_layer=2, n_head=4, n_positions=512)
T5 = dict(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
BART = IDS | dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
                  decoder_ffn_dim=64, max_position_embeddings=512, decoder_start_token_id=1)
FAMILIES = {
    'gpt_neox': DECODER, 'llama': DECODER, 'mixtral': DECODER | dict(num_key_value_heads=2, num_local_experts=4), 'olmoe': EXPERTS,
    'qwen2_moe': EXPERTS | dict(moe_intermediate_size=32, shared_expert_intermediate_size=32), 'qwen3_moe': EXPERTS | dict(moe_intermediate_size=32, head_dim=8),
    'granitemoe': DECODER | dict(num_key_value_heads=2, num_local_experts=4), 'gpt2': GPT, 'gpt_bigcode': GPT, 'gptj': GPT | dict(rotary_dim=4),
    'opt': DECODER | dict(word_embed_proj_dim=32, ffn_dim=64), 'bloom': IDS | dict(hidden_size=32, n_layer=2, n_head=4), 'falcon': DECODER,
    'phi': DECODER, 'gemma2': DECODER | dict(num_key_value_heads=2, head_dim=8), 'mistral': DECODER | dict(num_key_value_heads=2), 't5': T5,
    'switch_transformers': T5 | dict(num_experts=4), 'bart': BART, 'mbart': BART}


def of_family(name: str, seed: int = 0):
    "A tiny model of that family whose every weight is random"
    config = AutoConfig.for_model(name, **FAMILIES[name])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config).eval()
        for weight in model.parameters(): weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize('name', FAMILIES)
def test_weights_of_a_checkpoint_come_back_whole(tmp_path, name):
    "Whatever names and layout the file has: every tensor is bit equal, and tied weights are still tied"
    model, other = of_family(name), of_family(name, seed=1)
    model.save_pretrained(tmp_path)
    load_weights(other, tmp_path)
    ours, theirs = model.state_dict(), other.state_dict()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == [] and list(ours) == list(theirs)
    assert parameter_count(model) == parameter_count(other)


def test_weights_of_another_model_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    of_family('mixtral').save_pretrained(tmp_path)
    weights = load_file(tmp_path/'model.safetensors')
    lost = next(name for name in weights if 'o_proj' in name)
    save_file({k: v for k, v in weights.items() if k != lost}, tmp_path/'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(CotkitError, match='missing keys.*o_proj'): load_weights(of_family('mixtral'), tmp_path)
    save_file(weights | {'extra.weight': torch.zeros(2)}, tmp_path/'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(CotkitError, match='unexpected keys.*extra'): load_weights(of_family('mixtral'), tmp_path)
    with pytest.raises(CotkitError): load_weights(of_family('gpt_neox'), tmp_path)


def test_a_unigram_tokenizer_loses_nothing():
    texts = [story.text for story, _ in zip(stories(), range(400))]
    tokenizer = train_tokenizer(texts, vocab_size=700, kind='unigram')
    hostile = 'naïve 𝟙 🧮\r\n\t</s><pad>  \x00'
    assert tokenizer.decode(tokenizer(hostile).input_ids, skip_special_tokens=True) == hostile
    assert tokenizer.eos_token_id not in tokenizer(hostile).input_ids
    assert len(tokenizer(texts[0]).input_ids) < 0.6 * len(texts[0])
    assert tokenizer.get_vocab() == train_tokenizer(texts, vocab_size=700, kind='unigram').get_vocab()
    with pytest.raises(CotkitError): train_tokenizer(texts, kind='words')
