//! The checking backend: separate memory, delayed completion, and a refusal of every access that skips an upload or an event.
