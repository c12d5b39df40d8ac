//! How much memory reading a prompt takes. Alone in its process, whose peak is what is looked at.
#![cfg(target_os = "linux")]

use odmoe_openapi::{CompletionRequest, PROMPTS_MAX, Prompt};

/// The most memory that this process has held.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let amount = line.unwrap().trim().strip_suffix(" kB").unwrap();
    amount.parse().unwrap()
}

#[test]
fn a_prompt_takes_a_small_multiple_of_its_bytes() {
    let body_kib = 8 << 10;
    let body = |item: &str| {
        // Made in place: what making it takes must not hide what reading it takes.
        let mut body = String::with_capacity((body_kib << 10) + 64);
        body.push_str("{\"prompt\":[");
        while body.len() < body_kib << 10 {
            body.push_str(item);
            body.push(',');
        }
        body.push_str(item);
        body.push_str("]}");
        body
    };
    for item in ["[0]", r#""""#, "0"] {
        let body = body(item);
        let before = peak_kib();
        let request: CompletionRequest = serde_json::from_str(&body).unwrap();
        let grown = peak_kib() - before;
        assert!(
            grown <= 5 * body_kib,
            "{item}: {grown} KiB for {body_kib} KiB"
        );
        match request.prompt.unwrap() {
            Prompt::Tokens(ids) => assert_eq!(ids.len(), body.matches('0').count()),
            Prompt::TokenLists(lists) => assert_eq!(lists.len(), PROMPTS_MAX + 1),
            Prompt::Texts(texts) => assert_eq!(texts.len(), PROMPTS_MAX + 1),
            Prompt::Text(text) => panic!("{text}"),
        }
        println!("{item}: {grown} KiB for {body_kib} KiB");
    }
}
