"A tokenizer of single bytes with a chat template, and a Llama that was never trained: real in every respect but what they say"
from __future__ import annotations

from functools import lru_cache


@lru_cache
def _tokenizer_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    vocabulary = ['<pad>', '</s>', '<|user|>', '<|assistant|>', '<|system|>', *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return tokenizer.to_str()


CHAT = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


def chat_tokenizer():
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_tokenizer_json()), pad_token='<pad>', eos_token='</s>',
                                        additional_special_tokens=['<|user|>', '<|assistant|>', '<|system|>'])
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_llama(tokenizer, seed: int = 0, positions: int = 512):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=positions,
                                        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, initializer_range=0.2))


def sentencepiece_t5(folder, texts, pieces: int = 200):
    "A checkpoint folder with the architecture of google/t5-v1_1-* and flan-t5-*: gated GELU, untied output, SentencePiece, random weights"
    import pytest
    sentencepiece = pytest.importorskip('sentencepiece')
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer
    (folder/'text.txt').write_text('\n'.join(texts), encoding='utf-8')
    sentencepiece.SentencePieceTrainer.train(input=str(folder/'text.txt'), model_prefix=str(folder/'spiece'), vocab_size=pieces, hard_vocab_limit=False, minloglevel=2,
                                             pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece='<pad>', eos_piece='</s>')
    known = sentencepiece.SentencePieceProcessor(model_file=str(folder/'spiece.model'))
    T5Tokenizer(vocab=[(known.id_to_piece(i), known.get_score(i)) for i in range(len(known))], extra_ids=0).save_pretrained(folder/'model')
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj='gated-gelu', tie_word_embeddings=False,
                                        decoder_start_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'
