//! Experts of a pin list are in memory soon after the start and stay there, whatever is asked and whatever the budget, and
//! change no token.

use odmoe_convert::random_model::RandomModel;
use odmoe_tests::client::answer;
use odmoe_tests::process::eventually;
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::{Value, json};
use std::path::PathBuf;

const ADMIN_KEY: &str = "for operators";
/// Five of layer 0, two of layer 1.
const PINS: &str = "# the usual ones\n0:0-3,9\n\n1:5,6 # and these\n";
const PINNED: usize = 7;

/// A model of two layers of 16 experts, a home in which its store stays, and a file.
struct Place {
    model: tempfile::TempDir,
    home: tempfile::TempDir,
    pins: PathBuf,
}

impl Place {
    fn new(pins: &str) -> Self {
        let folder = || tempfile::tempdir().expect("a temporary folder");
        let (model, home) = (folder(), folder());
        let random = RandomModel {
            experts: 16,
            ..RandomModel::default()
        };
        random.write(model.path()).expect("a writable folder");
        let path = home.path().join("pins");
        std::fs::write(&path, pins).expect("a writable folder");
        Self {
            model,
            home,
            pins: path,
        }
    }

    fn options(&self, budget: &str, with_pins: bool) -> ServerOptions {
        let model = self.model.path().display().to_string();
        let mut options = ServerOptions {
            home: Some(self.home.path().to_path_buf()),
            ..ServerOptions::with(["--model", &model, "--expert-cache", budget])
        };
        let key = ["--admin-key", ADMIN_KEY].map(str::to_owned);
        options.arguments.extend(key);
        options.arguments.push("--no-warm-start".to_owned());
        if with_pins {
            let file = self.pins.display().to_string();
            options.arguments.extend(["--pin-experts".to_owned(), file]);
        }
        options
    }

    /// What a start that is refused says.
    #[track_caller]
    fn refused(&self, budget: &str) -> String {
        let mut server = Server::spawn(&self.options(budget, true));
        assert_eq!(server.wait().code(), Some(1), "{}", server.log());
        eventually("the error on the standard error stream", || {
            let log = server.log();
            log.contains("pin").then_some(log)
        })
    }
}

#[track_caller]
fn ask(server: &Server) -> Vec<Value> {
    let prompts = [31, 77, 140, 222].map(|first| (first..first + 12).collect::<Vec<u32>>());
    let ask = |prompt: &Vec<u32>| answer(&server.client.complete_tokens(prompt, 12));
    prompts.iter().map(ask).collect()
}

/// Of the pinned experts: how many there are, how many are in memory, and their misses.
#[track_caller]
fn pinned(server: &Server) -> (usize, usize, u64) {
    let table = server.client.get_as(ADMIN_KEY, "/admin/experts");
    let table = table.expect(200).json();
    let experts = table["experts"].as_array().expect("experts").iter();
    let pinned: Vec<&Value> = experts.filter(|expert| expert["pinned"] == true).collect();
    let resident = pinned.iter().filter(|expert| expert["resident"] == true);
    let causes = |expert: &&Value| {
        let misses = expert["misses"].as_object().expect("causes").values();
        misses.map(|n| n.as_u64().expect("a count")).sum::<u64>()
    };
    let misses = pinned.iter().map(causes).sum();
    (pinned.len(), resident.count(), misses)
}

fn sum(server: &Server, metric: &str) -> f64 {
    let scraped = server.client.get("/metrics").expect(200).body;
    metrics::sum(&scraped, metric, &[])
}

#[test]
fn what_is_pinned_stays_and_changes_no_token() {
    let place = Place::new(PINS);
    let mut without = Server::start(&place.options("100%", false));
    let expected = ask(&without);
    assert_eq!(pinned(&without), (0, 0, 0));
    assert_eq!(sum(&without, "odmoe_expert_cache_kept_bytes"), 0.0);
    assert!(without.stop().success(), "{}", without.log());

    let server = Server::start(&place.options("50%", true));
    assert!(server.log().contains("; 7 are pinned"), "{}", server.log());
    eventually("what is pinned, with nobody asking", || {
        (pinned(&server).1 == PINNED).then_some(())
    });
    assert_eq!(ask(&server), expected);
    assert!(sum(&server, "odmoe_expert_cache_evictions_total") > 0.0);
    assert_eq!(pinned(&server), (PINNED, PINNED, 0), "all were hits");
    assert!(sum(&server, "odmoe_expert_cache_kept_bytes") > 0.0);

    // The least is what they take, and two beside them.
    let cache = server.client.get_as(ADMIN_KEY, "/admin/cache");
    let least = cache.expect(200).json()["least_bytes"]
        .as_u64()
        .expect("a number");
    let change = |bytes: u64| {
        let body = json!({"expert_cache": bytes.to_string()});
        server.client.patch_as(ADMIN_KEY, "/admin/cache", &body)
    };
    let refused = change(least - 1).expect(400).body;
    assert!(
        refused.contains("beside those of --pin-experts"),
        "{refused}"
    );
    for bytes in [least, least * 3 / 2, least] {
        change(bytes).expect(200);
        eventually("what is pinned, after a change of the budget", || {
            (pinned(&server).1 == PINNED).then_some(())
        });
        assert_eq!(ask(&server), expected, "{bytes}");
    }
}

#[test]
fn a_list_that_cannot_be_kept_is_refused() {
    let place = Place::new(PINS);
    let log = place.refused("12.5%");
    assert!(log.contains("the least is"), "{log}");
    assert!(log.contains("pin fewer"), "{log}");
    for (pins, says) in [
        ("0:1\n2:1", "pins, line 2: layer 2 has no experts"),
        ("0:16", "its experts are 0-15"),
        ("\nall", "line 2: \"all\" names no experts"),
    ] {
        std::fs::write(&place.pins, pins).expect("a writable file");
        let log = place.refused("50%");
        assert!(log.contains(says), "{log}");
    }
}
