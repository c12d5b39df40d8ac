//! Promise P2 under a memory limit of the system, and what happens when others take of it. Needs root: `.ci/run` runs it.

use odmoe_tests::cgroup::MemoryCgroup;
use odmoe_tests::client::answer;
use odmoe_tests::memory_sum::printed_total;
use odmoe_tests::models::{large_prompts, large_store};
use odmoe_tests::process::{eventually, peak_resident_bytes, resident_bytes};
use odmoe_tests::{Server, ServerOptions};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROMPT: [u32; 3] = [54, 71, 261];
const ADMIN_KEY: &str = "for operators";

/// Eight streams at once that touch every expert, then one answer to compare.
fn load(server: &Server) -> Value {
    std::thread::scope(|scope| {
        for prompt in large_prompts() {
            let body = json!({"prompt": prompt, "max_tokens": 32, "temperature": 0.8, "seed": 1});
            scope.spawn(move || server.client.post("/v1/completions", &body).expect(200));
        }
    });
    answer(&server.client.complete_tokens(&PROMPT, 16))
}

fn options(store: &str, budget: &str) -> ServerOptions {
    ServerOptions::with([
        "--model",
        store,
        "--expert-cache",
        budget,
        "--kv-cache",
        "2048",
    ])
}

/// A server under a limit of `limit` bytes: its answer, its peak and the sum that it printed.
fn run_limited(name: &str, limit: u64, options: ServerOptions) -> (Value, u64, u64) {
    let cgroup = MemoryCgroup::create(name, limit).unwrap_or_else(|reason| panic!("{reason}"));
    let mut server = Server::start(&ServerOptions {
        prelude: Some(cgroup.join_line()),
        ..options
    });
    let found = load(&server);
    let peak = peak_resident_bytes(server.child.id()).expect("a running server");
    let printed = printed_total(&server.log());
    assert_eq!(cgroup.kills(), 0, "{}", server.log());
    assert!(server.stop().success(), "{}", server.log());
    (found, peak, printed)
}

#[test]
fn the_sum_is_enough_at_each_budget() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = large_store(folder.path());
    let mut right = None;
    for budget in ["100%", "50%", "25%", "0.001%"] {
        let limit = {
            let server = Server::start(&options(&store, budget));
            printed_total(&server.log())
        };
        let (found, peak, printed) = run_limited("budget", limit, options(&store, budget));
        // A KV cache that sizes itself may take less under a limit.
        assert!(
            printed <= limit,
            "{budget}: printed {printed} under a limit of {limit}"
        );
        assert!(peak <= printed, "{budget}: peak {peak} of {printed} bytes");
        assert_eq!(
            *right.get_or_insert_with(|| found.clone()),
            found,
            "{budget}: another answer"
        );
        println!("{budget}: peak {} of {} KiB", peak >> 10, printed >> 10);
    }
}

#[test]
fn auto_fits_itself_under_the_limit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = large_store(folder.path());
    let all = {
        let server = Server::start(&options(&store, "100%"));
        printed_total(&server.log())
    };
    let limit = all - (64 << 20);
    let (_, peak, printed) = run_limited("auto", limit, options(&store, "auto"));
    assert!(
        printed <= limit,
        "printed {printed} under a limit of {limit}"
    );
    assert!(peak <= printed, "peak {peak} of {printed} bytes");
}

/// Processes of a control group that hold memory until they are dropped.
struct Neighbours<'a> {
    cgroup: &'a MemoryCgroup,
    holders: Vec<Child>,
}

impl Neighbours<'_> {
    /// One more. `tail` keeps all of a text that has no line ends until it ends.
    fn take(&mut self, bytes: u64) {
        let script = format!("{} && exec tail > /dev/null", self.cgroup.join_line());
        let mut holder = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let input = holder.stdin.as_mut().expect("a pipe");
        let zeros = vec![0; bytes as usize];
        input.write_all(&zeros).expect("a reader");
        self.holders.push(holder);
    }
}

impl Drop for Neighbours<'_> {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}

fn cache(server: &Server, figure: &str) -> u64 {
    let report = server.client.get_as(ADMIN_KEY, "/admin/cache");
    report.expect(200).json()[figure]
        .as_u64()
        .expect("a number")
}

#[test]
fn memory_that_others_take_is_given_up_while_serving() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = large_store(folder.path());
    let (expected, all) = {
        let server = Server::start(&options(&store, "100%"));
        (load(&server), printed_total(&server.log()))
    };
    let limit = all + (32 << 20);
    let cgroup = MemoryCgroup::create("others", limit).unwrap_or_else(|reason| panic!("{reason}"));
    let mut options = options(&store, "100%");
    options.prelude = Some(cgroup.join_line());
    let key = ["--admin-key", ADMIN_KEY].map(str::to_owned);
    options.arguments.extend(key);
    let mut server = Server::start(&options);
    assert_eq!(load(&server), expected);
    let asked = cache(&server, "budget_bytes");

    let margin = limit / 32;
    let used = resident_bytes(server.child.id()).expect("a running server");
    let mut neighbours = Neighbours {
        cgroup: &cgroup,
        holders: Vec::new(),
    };
    neighbours.take(limit - used - 3 * margin);
    std::thread::scope(|scope| {
        let server = &server;
        let answers = scope.spawn(move || {
            let mut answers = Vec::new();
            while cache(server, "budget_bytes") == asked || answers.is_empty() {
                answers.push(load(server));
            }
            answers
        });
        while !answers.is_finished() && cache(server, "budget_bytes") == asked {
            let taken = neighbours.holders.len() as u64;
            assert!(taken < 40, "{}: all is taken", server.log());
            neighbours.take(margin / 4);
            // It is looked at once a second.
            std::thread::sleep(Duration::from_millis(1100));
        }
        let answers = answers.join().expect("answers");
        assert!(answers.iter().all(|answer| *answer == expected));
    });
    let given_up = eventually("memory that was given up", || {
        let (capacity, budget) = (
            cache(&server, "capacity_bytes"),
            cache(&server, "budget_bytes"),
        );
        (capacity == budget).then(|| asked - capacity)
    });
    println!("others took of {limit} bytes until experts gave up {given_up} of {asked}");
    assert!(given_up > 0);
    assert_eq!(cache(&server, "asked_bytes"), asked, "it wants it back");
    assert_eq!(load(&server), expected);
    let change = json!({"expert_cache": "25%"});
    let changed = server.client.patch_as(ADMIN_KEY, "/admin/cache", &change);
    changed.expect(200);
    assert_eq!(load(&server), expected);
    assert_eq!(cgroup.kills(), 0, "{}", server.log());
    assert!(server.stop().success(), "{}", server.log());
}
