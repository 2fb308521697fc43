"Fast tokenizers of each kind, hostile texts, and plain views of spans and alignments"
import io
import json

import torch
from hypothesis import HealthCheck, settings, strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cotkit.models.tokenizers import train_tokenizer

torch.set_num_threads(1)
RATIONALE = '4 bags of 2 apples are 4 * 2 = 8 apples. Ann has 3 + 8 = 11 apples. The answer is 11.'
TEXTS = [RATIONALE, 'Ann has 3 apples. She buys 4 bags with 2 apples each.', 'A café, naïve and déjà vu.', 'The answer is the answer.'] * 4
SPECIAL = ['<pad>', '</s>', '<s>', '<unk>']
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def fast(tokenizer): return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token='<unk>', pad_token='<pad>', eos_token='</s>', clean_up_tokenization_spaces=False)


def gpt2():
    "Byte-level BPE that trims its offsets and puts a space before the text"
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return fast(t)


def byte_level_nfc():
    t = Tokenizer(models.BPE())
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return fast(t)


def bert(lowercase=True):
    t = Tokenizer(models.WordPiece(unk_token='<unk>'))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=110, special_tokens=SPECIAL, show_progress=False))
    return fast(t)


def t5():
    "Unigram with metaspace and NFKC, runs of spaces made one"
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(' {2,}'), ' ')])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    t.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token='<unk>', show_progress=False))
    return fast(t)


def white_space_split():
    "Unigram whose words are split at white space before they are marked, as `transformers` builds T5's"
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token='<unk>', show_progress=False))
    return fast(t)


def llama():
    "BPE with byte fallback, no pre-tokenizer, a space put before the text by the normaliser"
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    t.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)])
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL + [f'<0x{i:02X}>' for i in range(256)], show_progress=False))
    spec = json.loads(t.to_str())
    spec['added_tokens'] = spec['added_tokens'][:len(SPECIAL)]
    return fast(Tokenizer.from_str(json.dumps(spec)))


def fields(message):
    "The fields of a protocol buffer: (number, bytes)"
    def number(at):
        value = shift = 0
        while True:
            value, byte, at, shift = value | (message[at] & 127) << shift, message[at], at + 1, shift + 7
            if byte < 128: return value, at
    at = 0
    while at < len(message):
        key, at = number(at)
        if key & 7 == 0: size, at = 0, number(at)[1]
        else: size, at = number(at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        yield key >> 3, message[at:at + size]
        at += size


def sentencepiece():
    "A SentencePiece model as `transformers` converts T5's: its own normaliser, metaspace, Unigram with byte fallback"
    import sentencepiece as spm
    file = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=340, byte_fallback=True, minloglevel=2,
                                   pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece='<pad>', hard_vocab_limit=False)
    model = spm.SentencePieceProcessor(model_proto=file.getvalue())
    charsmap = next(v for n, v in fields(dict(fields(file.getvalue()))[3]) if n == 2)
    t = Tokenizer(models.Unigram([(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())], unk_id=3, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(' {2,}'), ' ')])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    t.add_special_tokens(SPECIAL)
    return fast(t)


TOKENIZERS = {'sentencepiece': sentencepiece(), 'gpt2': gpt2(), 'nfc': byte_level_nfc(), 'bert': bert(), 'cased': bert(False), 't5': t5(), 'white-space-split': white_space_split(), 'llama': llama(),
              'cotkit': train_tokenizer(TEXTS, vocab_size=320), 'cotkit-large': train_tokenizer([f' {t}' for t in TEXTS], vocab_size=600),
              'cotkit-t5': train_tokenizer(TEXTS, 'seq2seq', vocab_size=400)}
HOSTILE = ['👩‍👩‍👧‍👦', 'e\u0301', 'q\u0323\u0307', '\u0301', 'שלום', 'مرحبا', '中文', '日本語', '\x00', '\r\n', '\t', '  ', '   ', ' ', '\n', 'ﬁ', '½', '㎏', '\u3000', '\xa0',
           '\ufffd', '🧮', '\u200b', '\ufeff', 'İ', 'ß', 'Ǆ', '각', '각', '</s>', '<unk>', '▁', 'Ġ', '##s', '<0xE2>', 'naïve', '\x7f', '\u202e', '𝟙', 'ﷺ']
WORDS = ['4', 'bags', 'apples', 'Ann', 'has', '=', '11', '.', 'The', 'answer', 's', 'café']
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.sampled_from(WORDS), st.just(' '), st.text(max_size=3).filter(lambda s: s.isprintable())), max_size=12).map(''.join)


def rows_of(spans): return [list(zip(spans.starts[a:b].tolist(), spans.ends[a:b].tolist())) for a, b in zip(spans.splits, spans.splits[1:])]


def ours(aligned):
    assert len(aligned.teacher) == 1
    t, s = aligned.teacher_splits, aligned.student_splits
    return [(list(range(t[g], t[g + 1])), list(range(s[g], s[g + 1])), bool(aligned.one_to_one[g])) for g in range(len(t) - 1)]
