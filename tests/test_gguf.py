"GGUF files become model folders with the same logits; what is none is refused and nothing is left behind"
import os
from pathlib import Path

import pytest
import torch

from cotkit.data.core import CotkitError
from cotkit.models.gguf import from_gguf, packaged_file
from cotkit.models.students import build_model, load_model, parameter_count
from cotkit.models.tokenizers import train_tokenizer
from tiny_gguf import write_gguf

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = Path(os.environ.get('COTKIT_SMOLLM2') or ROOT/'_models'/'smollm2')
QUESTION = 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples has she now?'
pytest.importorskip('gguf')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    tokenizer = train_tokenizer([QUESTION] * 2, vocab_size=300)
    model, file = build_model('nano', tokenizer), tmp_path_factory.mktemp('gguf')/'tiny.gguf'
    write_gguf(file, model, tokenizer)
    return model, tokenizer, file


def test_a_converted_model_has_the_logits_of_the_original(tiny, tmp_path):
    model, tokenizer, file = tiny
    folder = from_gguf(file, tmp_path/'new'/'model')
    again, words, arch = load_model(folder)
    ids = tokenizer(QUESTION, return_tensors='pt').input_ids
    assert arch == 'causal' and words(QUESTION).input_ids == ids[0].tolist()
    with torch.inference_mode(): assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-5)
    assert parameter_count(again) == parameter_count(model)
    assert [o.name for o in folder.parent.iterdir()] == ['model']
    assert not list(folder.glob('*.bin')) and 'quantization_config' not in (folder/'config.json').read_text()


def test_half_precision_takes_half_the_room(tiny, tmp_path):
    sizes = [sum(o.stat().st_size for o in from_gguf(tiny[2], tmp_path/str(dtype), dtype).glob('*.safetensors'))
             for dtype in (torch.float32, torch.bfloat16)]
    assert 1.5 < sizes[0] / sizes[1] < 2.1


def test_what_is_no_gguf_file_is_refused(tiny, tmp_path):
    (tmp_path/'text.gguf').write_text('Ann')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'mine.txt').write_text('mine')
    for file, folder, said in ((tmp_path/'text.gguf', 'out', 'not a GGUF file'), (tmp_path/'none.gguf', 'out', 'no such file'), (tiny[2], 'full', 'not empty')):
        with pytest.raises(CotkitError, match=said): from_gguf(file, tmp_path/folder)
    assert not (tmp_path/'out').exists() and [o.name for o in (tmp_path/'full').iterdir()] == ['mine.txt']


def test_a_broken_file_leaves_nothing_behind(tiny, tmp_path):
    (tmp_path/'cut.gguf').write_bytes(tiny[2].read_bytes()[:5000])
    with pytest.raises(Exception): from_gguf(tmp_path/'cut.gguf', tmp_path/'out')
    assert [o.name for o in tmp_path.iterdir()] == ['cut.gguf']


def test_files_of_packages():
    assert packaged_file('pytest', 'METADATA').is_file()
    with pytest.raises(CotkitError, match='is not installed'): packaged_file('no-such-package-9', '*')
    with pytest.raises(CotkitError, match='has no'): packaged_file('pytest', '*.gguf')


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason='make smollm2 was not run')
def test_the_pretrained_chat_model_writes_sense():
    from cotkit.data.core import Request
    from cotkit.teachers.local import LocalTeacher
    import asyncio
    teacher = LocalTeacher(SMOLLM2)
    answer = asyncio.run(teacher.complete(Request(teacher.name, 'What is the capital of France?', max_tokens=24)))
    assert 'Paris' in answer.text and parameter_count(teacher.model) == 134_515_008
