//! What one run used most is in memory soon after the next has started, with nobody asking, and changes no token.

use odmoe_convert::random_model::RandomModel;
use odmoe_formats::usage::{USAGE_FILE, from_json};
use odmoe_tests::client::answer;
use odmoe_tests::process::eventually;
use odmoe_tests::store_files::StoreFolder;
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ADMIN_KEY: &str = "for operators";
/// Two layers of them.
const EXPERTS: u32 = 16;

type Keys = BTreeSet<(u64, u64)>;

/// A model, and a home in which its store stays.
struct Place {
    model: tempfile::TempDir,
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a temporary folder");
        let (model, home) = (folder(), folder());
        let random = RandomModel {
            experts: EXPERTS,
            ..RandomModel::default()
        };
        random.write(model.path()).expect("a writable folder");
        Self { model, home }
    }

    /// A server with memory for half of the experts, that reads nothing ahead.
    #[track_caller]
    fn serve(&self, more: &[&str]) -> Server {
        let model = self.model.path().display().to_string();
        let mut options = ServerOptions {
            home: Some(self.home.path().to_path_buf()),
            ..ServerOptions::with(["--model", &model, "--expert-cache", "50%", "--no-prefetch"])
        };
        let key = ["--admin-key", ADMIN_KEY].iter();
        let more = key.chain(more).map(|argument| argument.to_string());
        options.arguments.extend(more);
        Server::start(&options)
    }

    fn usage_file(&self) -> PathBuf {
        StoreFolder::find(self.home.path()).path.join(USAGE_FILE)
    }
}

#[track_caller]
fn ask(server: &Server) -> Vec<Value> {
    let prompts = [31, 77, 140, 222].map(|first| (first..first + 12).collect::<Vec<u32>>());
    let ask = |prompt: &Vec<u32>| answer(&server.client.complete_tokens(prompt, 12));
    prompts.iter().map(ask).collect()
}

#[track_caller]
fn table(server: &Server) -> Value {
    let reply = server.client.get_as(ADMIN_KEY, "/admin/experts");
    reply.expect(200).json()
}

fn resident(table: &Value) -> Keys {
    let experts = table["experts"].as_array().expect("experts").iter();
    let resident = experts.filter(|expert| expert["resident"] == true);
    let number = |value: &Value| value.as_u64().expect("a number");
    resident
        .map(|expert| (number(&expert["layer"]), number(&expert["expert"])))
        .collect()
}

fn sum(server: &Server, metric: &str, labels: &[&str]) -> f64 {
    metrics::sum(
        &server.client.get("/metrics").expect(200).body,
        metric,
        labels,
    )
}

/// The hottest that a file tells of.
#[track_caller]
fn hottest(file: &Path, count: usize) -> Keys {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut heat = from_json(&bytes).unwrap_or_else(|e| panic!("{e}"));
    heat.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    assert!(heat.len() > count, "more was used than there is room for");
    heat.truncate(count);
    heat.iter()
        .map(|(key, _)| (key.layer.0.into(), key.index.0.into()))
        .collect()
}

#[test]
fn a_restart_finds_what_was_used_most() {
    let place = Place::new();
    let mut first = place.serve(&[]);
    assert_eq!(sum(&first, "odmoe_expert_warm_up_reads_total", &[]), 0.0);
    let expected = ask(&first);
    let used = table(&first);
    let missed = sum(&first, "odmoe_expert_misses_total", &[]);
    let by_result = ["miss", "coalesced"].map(|result| {
        let label = format!("result=\"{result}\"");
        sum(&first, "odmoe_expert_cache_lookups_total", &[&label])
    });
    assert_eq!(missed, by_result.iter().sum::<f64>());
    assert_eq!(used["experts_total"], 2 * EXPERTS);
    assert_eq!(missed, misses(&used), "the table tells the same");
    let room = resident(&used).len();
    assert_eq!(room, EXPERTS as usize, "half of two layers");
    assert!(first.stop().success(), "{}", first.log());

    let hottest = hottest(&place.usage_file(), room);
    let mut second = place.serve(&[]);
    eventually("what was used most", || {
        (resident(&table(&second)) == hottest).then_some(())
    });
    let reads = sum(&second, "odmoe_expert_warm_up_reads_total", &[]);
    assert_eq!(reads, room as f64, "each once");
    assert_eq!(sum(&second, "odmoe_expert_misses_total", &[]), 0.0);
    assert_eq!(ask(&second), expected);
    let cold = sum(&second, "odmoe_expert_misses_total", &["cause=\"cold\""]);
    assert!(
        cold <= f64::from(2 * EXPERTS) - reads,
        "{cold} cold misses although {reads} were there"
    );
    assert!(second.stop().success(), "{}", second.log());

    let kept = std::fs::read(place.usage_file()).expect("a file");
    let mut third = place.serve(&["--no-warm-start"]);
    assert_eq!(ask(&third), expected);
    assert_eq!(sum(&third, "odmoe_expert_warm_up_reads_total", &[]), 0.0);
    assert!(third.stop().success(), "{}", third.log());
    assert_eq!(std::fs::read(place.usage_file()).expect("a file"), kept);
}

/// Misses of all causes in a table.
fn misses(table: &Value) -> f64 {
    let layers = table["layers"].as_array().expect("layers").iter();
    let causes = layers.flat_map(|layer| layer["misses"].as_object().expect("causes").values());
    causes.filter_map(Value::as_f64).sum()
}

/// The file says nothing and cannot be replaced, as in a folder that cannot be written.
#[test]
fn a_store_that_keeps_nothing_is_served() {
    let place = Place::new();
    let mut first = place.serve(&["--no-warm-start"]);
    let expected = ask(&first);
    assert!(first.stop().success());
    let file = place.usage_file();
    assert!(!file.exists());
    std::fs::create_dir(&file).expect("a folder");
    let mut second = place.serve(&[]);
    assert_eq!(ask(&second), expected);
    assert!(second.stop().success(), "{}", second.log());
    for words in ["no warm start", "the next start will be cold"] {
        eventually(words, || second.log().contains(words).then_some(()));
    }
    let store = file.parent().expect("a store");
    let left = std::fs::read_dir(store).expect("a folder").flatten();
    let ours = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(USAGE_FILE));
    assert_eq!(ours.count(), 1, "nothing half-written is left");
}

/// A table of another model, as after a hand put it there, costs nothing but its reads.
#[test]
fn what_is_known_of_another_model_changes_no_token() {
    let place = Place::new();
    let mut first = place.serve(&["--no-warm-start"]);
    let expected = ask(&first);
    assert!(first.stop().success());
    let odd = json!({"format_version": 1, "layers": [
        {"layer": 0, "heat": vec![1e300; 40]}, {"layer": 0, "heat": [2.0]}, {"layer": 77, "heat": [5.0]},
    ]});
    std::fs::write(place.usage_file(), odd.to_string()).expect("a writable file");
    let second = place.serve(&[]);
    assert_eq!(ask(&second), expected);
}
