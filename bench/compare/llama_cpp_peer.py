"""Measures llama.cpp through llama-cpp-python as `odmoe bench --work` measures odmoe: a line of JSON for each work.

Given tokens are evaluated, as llama-bench does: llama-cpp-python's own sampler would cost a fifth of the time. Decode
evaluates one token of every sequence in each call.
"""

import argparse
import ctypes
import json
import random
import time

import llama_cpp

SEED = 1


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    """Loading is chatty; what fails says so by its result."""


def parse_work(text):
    """8x16+24: eight streams, 16 prompt tokens, 24 new ones."""
    streams, rest = text.split("x")
    prompt, new = rest.split("+")
    return int(streams), int(prompt), int(new)


def load(path, repack):
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"{path}: llama.cpp does not load it")
    return model


def open_context(model, work, threads):
    """A context for one work, with llama.cpp's defaults wherever speed is concerned."""
    streams, prompt, new = work
    params = llama_cpp.llama_context_default_params()
    # Each sequence has its own cells, in steps of 256.
    params.n_ctx = streams * -(-(prompt + new) // 256) * 256
    params.n_batch = max(512, streams * prompt)
    params.n_seq_max = params.n_outputs_max = streams
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp makes no context")
    return context


def evaluate(context, batch, tokens, first_position):
    """Seconds that the next tokens of all sequences take, [streams][count]; the last of each gets logits."""
    places = [(s, i, token) for s, row in enumerate(tokens) for i, token in enumerate(row)]
    batch.n_tokens = len(places)
    for at, (stream, index, token) in enumerate(places):
        batch.token[at], batch.pos[at] = token, first_position + index
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, stream
        batch.logits[at] = index + 1 == len(tokens[stream])
    start = time.perf_counter()
    result = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_synchronize(context)
    if result != 0:
        raise SystemExit(f"llama_decode: {result}")
    return time.perf_counter() - start


def measure(model, work, threads, repeat):
    """Tokens a second of all streams together, in prefill and in decode. The prompt brings the first new token."""
    streams, prompt, new = work
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rng = random.Random(f"{SEED} {work} {repeat}")
    some = lambda count: [[rng.randrange(vocabulary) for _ in range(count)] for _ in range(streams)]
    context = open_context(model, work, threads)
    batch = llama_cpp.llama_batch_init(streams * prompt, 0, 1)
    prefill = evaluate(context, batch, some(prompt), 0)
    decode = sum(evaluate(context, batch, some(1), prompt + step) for step in range(new - 1))
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return {
        "prefill_tokens_per_s": streams * prompt / prefill,
        "decode_tokens_per_s": streams * (new - 1) / decode if new > 1 else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repack", action="store_true", help="with use_extra_bufts: a second, rearranged copy")
    parser.add_argument("--work", type=parse_work, action="append", required=True)
    parser.add_argument("--repeat", type=int, default=1, help="decides the tokens")
    arguments = parser.parse_args()
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = load(arguments.model, arguments.repack)
    # As in odmoe bench, the first work's prompt comes once unmeasured: it touches what a file's map has not read yet.
    measure(model, (*arguments.work[0][:2], 1), arguments.threads, 0)
    for work in arguments.work:
        figures = measure(model, work, arguments.threads, arguments.repeat)
        shape = dict(zip(("streams", "prompt_tokens", "generate_tokens"), work))
        print(json.dumps(shape | figures | {"system": llama_cpp.llama_print_system_info().decode()}), flush=True)


if __name__ == "__main__":
    main()
