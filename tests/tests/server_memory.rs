//! Memory and descriptors: what the server says at its start holds under load.

use odmoe_tests::client::answer;
use odmoe_tests::process::{eventually, peak_resident_bytes};
use odmoe_tests::{Server, ServerOptions};
use serde_json::json;

fn load(server: &Server) {
    let prompts: Vec<Vec<u32>> = (0..8)
        .map(|stream| {
            (0..200)
                .map(|place| 300 + (stream * 331 + place * 7) % 3000)
                .collect()
        })
        .collect();
    std::thread::scope(|scope| {
        for prompt in &prompts {
            let body = json!({"prompt": prompt, "max_tokens": 24, "temperature": 0.8, "seed": 1});
            scope.spawn(move || server.client.post("/v1/completions", &body).expect(200));
        }
    });
}

/// `.ci/run` repeats this under memory limits of the system, as root.
#[test]
fn the_peak_stays_within_the_printed_sum() {
    for budget in ["100%", "50%", "25%", "12.5%"] {
        let server = Server::start(&ServerOptions::with(["--expert-cache", budget]));
        load(&server);
        let printed = odmoe_tests::memory_sum::printed_total(&server.log());
        let peak = peak_resident_bytes(server.child.id()).expect("a running server");
        assert!(
            peak <= printed,
            "{budget}: peak {peak} of {printed} bytes\n{}",
            server.log()
        );
    }
}

#[test]
fn everything_works_with_128_open_files() {
    let options = ServerOptions {
        prelude: Some("ulimit -n 128".into()),
        ..ServerOptions::with(["--expert-cache", "12.5%"])
    };
    let server = Server::start(&options);
    let right = answer(&server.client.complete_tokens(&[954, 671, 261], 8));
    let replies: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| server.client.complete_tokens(&[954, 671, 261], 8)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client"))
            .collect()
    });
    // A full queue may say so; nothing may break.
    for reply in replies {
        match reply.status {
            200 => assert_eq!(answer(&reply), right),
            _ => assert!(reply.clone().expect(429).header("retry-after").is_some()),
        }
    }
    eventually("a right answer afterwards", || {
        let reply = server.client.complete_tokens(&[954, 671, 261], 8);
        (reply.status == 200).then(|| assert_eq!(answer(&reply), right))
    });
}
