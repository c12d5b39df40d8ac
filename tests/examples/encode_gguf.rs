//! Token ids of texts by the tokenizer of a GGUF file: `cargo run -p odmoe-tests --example encode_gguf -- FILE`.
//!
//! Reads texts as JSON strings, one a line, and prints a JSON list of ids for each, without tokens around the text.
//! `tests/oracle/vocab/compare.py` compares them with llama.cpp's.

use odmoe_convert::gguf::tokenizer;
use odmoe_formats::gguf::Gguf;
use odmoe_text::Tokenizer;
use std::fs::File;
use std::io::{BufRead, BufReader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: encode_gguf FILE")?;
    let file = File::open(&path)?;
    let file_bytes = file.metadata()?.len();
    let gguf = Gguf::read(&mut BufReader::new(file), file_bytes)?;
    let text = tokenizer::import(&gguf.metadata)?;
    let tokenizer = Tokenizer::from_json(&text.tokenizer.ok_or("no tokenizer")?)?;
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        println!("{:?}", tokenizer.encode(&text, false)?);
    }
    Ok(())
}
