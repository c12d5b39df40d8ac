//! Text to token ids and back: chat templates, tokenizer, incremental detokenizer, stop strings. Pure.
