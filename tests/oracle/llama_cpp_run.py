"""llama.cpp through llama-cpp-python, driven token by token or by whole prompts: logits of every position."""

import ctypes

import llama_cpp
import numpy as np

CONTEXT_TOKENS = 512


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """Its loading is chatty; what fails says so by its result."""


llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))


class LlamaCpp:
    """A model on the CPU with binary32 keys and values, no flash attention and no repacked weights."""

    def __init__(self, path):
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False
        params.check_tensors = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"{path}: llama.cpp does not load it"
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = CONTEXT_TOKENS
        context.n_threads = context.n_threads_batch = 1
        context.type_k = context.type_v = llama_cpp.GGML_TYPE_F32
        context.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context.offload_kqv = context.op_offload = False
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        assert self.context
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocab)

    def forward(self, ids, at_once):
        """Logits [T][V] of a sequence, evaluated `at_once` tokens at a time."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        rows = []
        for begin in range(0, len(ids), at_once):
            part = ids[begin:begin + at_once]
            batch = llama_cpp.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for place, token in enumerate(part):
                batch.token[place], batch.pos[place] = token, begin + place
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, True
            assert llama_cpp.llama_decode(self.context, batch) == 0
            for place in range(len(part)):
                logits = llama_cpp.llama_get_logits_ith(self.context, place)
                rows.append(np.ctypeslib.as_array(logits, (self.vocabulary,)).copy())
            llama_cpp.llama_batch_free(batch)
        return np.stack(rows)

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
