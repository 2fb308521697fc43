"A model written as GGUF, the way llama.cpp's converter does it"
import json

import numpy as np


def write_gguf(path, model, tokenizer):
    "Names of llama.cpp, and the rows of q and k in the order of its rotation"
    import gguf
    c, state = model.config, json.loads(tokenizer._tokenizer.to_str())['model']
    vocab = sorted(state['vocab'], key=state['vocab'].get)
    w = gguf.GGUFWriter(path, 'llama')
    for add, value in (
            (w.add_context_length, c.max_position_embeddings), (w.add_block_count, c.num_hidden_layers),
            (w.add_feed_forward_length, c.intermediate_size), (w.add_embedding_length, c.hidden_size),
            (w.add_rope_dimension_count, c.hidden_size // c.num_attention_heads), (w.add_rope_freq_base, c.rope_parameters['rope_theta']),
            (w.add_head_count, c.num_attention_heads), (w.add_head_count_kv, c.num_key_value_heads),
            (w.add_layer_norm_rms_eps, c.rms_norm_eps), (w.add_vocab_size, c.vocab_size), (w.add_tokenizer_model, 'gpt2'),
            (w.add_token_list, vocab), (w.add_token_types, [3 if o in tokenizer.all_special_tokens else 1 for o in vocab]),
            (w.add_token_merges, [' '.join(o) for o in state['merges']]), (w.add_bos_token_id, tokenizer.bos_token_id),
            (w.add_eos_token_id, tokenizer.eos_token_id), (w.add_pad_token_id, tokenizer.pad_token_id)): add(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == 'lm_head.weight': continue  # the embeddings again
        rows = weight.float().numpy()
        for part, heads in (('q_proj', c.num_attention_heads), ('k_proj', c.num_key_value_heads)):
            if part in name: rows = rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
        w.add_tensor(names.get_name(name, try_suffixes=('.weight',)), np.ascontiguousarray(rows))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
